r"""Sets of real numbers: intervals, inequalities, what is joined or taken out of them, as unions of intervals.

real_set(r"x < 3 \ or x \ge 5")        # letter "x", (-inf, 3) and [5, inf)
real_set(r"\{x | x \ne 3\}")           # (-inf, 3) and (3, inf)
real_set(r"(1,\sqrt{2}] \cup \{4\}")   # (1, 1.41...] and [4, 4]
"""

import re
from typing import NamedTuple

from verifiers.expressions import CONTEXT, Number, Unreadable, Work, close, inexact, values
from verifiers.normalising import inside_brackets, split_outside_brackets

RELATION = re.compile(r"\\(?:ge|le|ne)(?![A-Za-z])|[<>=]")
# What makes a text a set and not a point, a list or an equation.
PLAIN = re.compile(r"\\(?:ge|le|ne|cup|cap|setminus|in|infty|emptyset)(?![A-Za-z])|[<>]|\\\{[^|:]*[|:]")
LETTER = re.compile(r"\\?[A-Za-z](?:\([a-z]\))?")
MEMBERSHIP = re.compile(r"([^=<>]*?)\\in(?![A-Za-z])\s*(.+)", re.DOTALL)  # x \in S
BUILDER = re.compile(r"\\\{([^|:]+)[|:](.+)\\\}", re.DOTALL)  # \{x \in \R | condition\}
MAX_PARTS = 12  # intervals of a set


class Interval(NamedTuple):
    low: Number
    holds_low: bool
    high: Number
    holds_high: bool


class RealSet(NamedTuple):
    letters: frozenset[str]  # that it bounds: {"x"} for x > 3
    parts: list[Interval]  # in order, not touching each other


class NoSet(Exception):
    """What is not a set of real numbers, or cannot be read as one."""


ALL = Interval(-CONTEXT.inf, False, CONTEXT.inf, False)


def is_plainly_a_set(s: str) -> bool:
    r"""True for (1,2], x > 1 and A \cup B; False for (1,2), which may be a point, and for x = 1."""
    brackets = inside_brackets(s)
    return bool(PLAIN.search(s) or (brackets and len(brackets[1]) == 2 and brackets[0] + brackets[2] in ("(]", "[)")))


def same_sets(a: RealSet, b: RealSet) -> bool:
    if a.letters and b.letters and a.letters != b.letters:
        return False
    return len(a.parts) == len(b.parts) and all(
        p.holds_low == q.holds_low and p.holds_high == q.holds_high and equal(p.low, q.low) and equal(p.high, q.high)
        for p, q in zip(a.parts, b.parts)
    )


def real_set(s: str, work: Work, depth: int = 0) -> RealSet:
    """The set that a normalised answer describes. Raises NoSet, and WorkDone when `work` is used up."""
    work.spend(2 + len(s) // 50)
    if depth > 4:
        raise NoSet
    s = s.strip()
    if builder := BUILDER.fullmatch(s):
        condition, head = real_set(builder[2], work, depth + 1), MEMBERSHIP.fullmatch(builder[1])
        if condition.letters != {letter_of(head[1] if head else builder[1])}:
            raise NoSet
        parts = both(condition.parts, real_set(head[2], work, depth + 1).parts) if head else condition.parts
        return RealSet(frozenset(), parts)
    membership = MEMBERSHIP.fullmatch(s)
    if membership and len(split_outside_brackets(s, ",", ";")) == 1:
        letter = letter_of(membership[1])
        return RealSet(frozenset({letter}), real_set(membership[2], work, depth + 1).parts)
    for separator in (";", ",", r"\cup", r"\cap"):
        pieces = split_outside_brackets(s, separator)
        if 1 < len(pieces) <= MAX_PARTS:
            return combined(pieces, separator, work, depth)
    pieces = split_outside_brackets(s, r"\setminus", "-")
    if len(pieces) == 2 and pieces[0] and pieces[0][-1] in ")]}" and pieces[1].startswith((r"\{", "(", "[")):
        whole, removed = (real_set(piece, work, depth + 1) for piece in pieces)
        return RealSet(whole.letters | removed.letters, both(whole.parts, complement(removed.parts)))
    if brackets := inside_brackets(s):
        opening, items, closing = brackets
        if opening == r"\{" and closing == r"\}":
            if len(items) > MAX_PARTS:
                raise NoSet
            points = [constant(item, work) for item in items]
            return RealSet(frozenset(), joined([Interval(p, True, p, True) for p in points]))
        if opening != r"\{" and closing != r"\}" and len(items) == 2:
            low, high = (constant(item, work) for item in items)
            return RealSet(frozenset(), [interval(low, opening == "[", high, closing == "]")])
    if s == r"\emptyset":
        return RealSet(frozenset(), [])
    return inequality(s, work)


def combined(pieces: list[str], separator: str, work: Work, depth: int) -> RealSet:
    """A union, an intersection, or conditions: alternatives, or what holds together if that can be."""
    first = re.fullmatch(r"(.+?)\\ne(?![A-Za-z])(.+)", pieces[0])
    if first and separator == "," and not any(RELATION.search(piece) for piece in pieces[1:]):  # x \ne 3, 5
        pieces = [pieces[0], *(rf"{first[1]}\ne {piece}" for piece in pieces[1:])]
    sets = [real_set(piece, work, depth + 1) for piece in pieces]
    letters = frozenset().union(*(each.letters for each in sets))
    if len(letters) > 1:
        raise NoSet
    parts = sets[0].parts
    for each in sets[1:]:
        parts = both(parts, each.parts)
    if separator in ",;" and not all(each.letters for each in sets):
        if letters or parts or not any(is_plainly_a_set(piece) for piece in pieces):
            raise NoSet  # a list
    if separator in (";", r"\cup") or (separator == "," and not parts):
        parts = joined([part for each in sets for part in each.parts])
    return RealSet(letters, parts)


def inequality(s: str, work: Work) -> RealSet:
    r"""x > 1, 1 < x \le 2, x \ne 3 or x = 3."""
    signs, sides = RELATION.findall(s), [side.strip() for side in RELATION.split(s)]
    if signs and signs[0] in (">", r"\ge"):
        mirrored = {">": "<", r"\ge": r"\le"}
        signs, sides = [mirrored.get(sign, "") for sign in reversed(signs)], sides[::-1]
    if len(signs) == 1 and LETTER.fullmatch(sides[0]):
        bound = constant(sides[1], work)
        if signs[0] in ("=", r"\ne"):
            point = [Interval(bound, True, bound, True)]
            return RealSet(frozenset({sides[0]}), point if signs[0] == "=" else complement(point))
        return RealSet(frozenset({sides[0]}), [interval(-CONTEXT.inf, False, bound, signs[0] == r"\le")])
    if len(signs) == 1 and signs[0] in ("<", r"\le") and LETTER.fullmatch(sides[1]):
        return RealSet(
            frozenset({sides[1]}), [interval(constant(sides[0], work), signs[0] == r"\le", CONTEXT.inf, False)]
        )
    if len(signs) == 2 and {*signs} <= {"<", r"\le"} and LETTER.fullmatch(sides[1]):
        low, high = constant(sides[0], work), constant(sides[2], work)
        return RealSet(frozenset({sides[1]}), [interval(low, signs[0] == r"\le", high, signs[1] == r"\le")])
    raise NoSet


def letter_of(s: str) -> str:
    if not LETTER.fullmatch(s.strip()):
        raise NoSet
    return s.strip()


def constant(s: str, work: Work) -> Number:
    """The value of a real expression without variables, or an infinity. Raises NoSet."""
    s = s.replace(" ", "")
    if s in (r"\infty", r"-\infty"):
        return CONTEXT.inf if s == r"\infty" else -CONTEXT.inf
    try:
        found = values(s, work)
    except Unreadable as error:
        raise NoSet from error
    if len(found) != 1 or found[0].number is None or isinstance(found[0].number, CONTEXT.mpc):
        raise NoSet
    return found[0].number


def interval(low: Number, holds_low: bool, high: Number, holds_high: bool) -> Interval:
    if (
        not (inexact(low) < inexact(high))
        or (holds_low and low == -CONTEXT.inf)
        or (holds_high and high == CONTEXT.inf)
    ):
        raise NoSet
    return Interval(low, holds_low, high, holds_high)


def equal(a: Number, b: Number) -> bool:
    return inexact(a) == inexact(b) or close(a, b)


def below(a: Number, b: Number) -> bool:
    return inexact(a) < inexact(b) and not equal(a, b)


def joined(parts: list[Interval]) -> list[Interval]:
    """In order, those that touch or overlap made one."""
    result: list[Interval] = []
    for part in sorted(parts, key=lambda part: (inexact(part.low), not part.holds_low)):
        last = result[-1] if result else None
        if last and (
            below(part.low, last.high) or (equal(part.low, last.high) and (part.holds_low or last.holds_high))
        ):
            holds_low = last.holds_low or (part.holds_low and equal(part.low, last.low))
            if equal(part.high, last.high):
                result[-1] = Interval(last.low, holds_low, last.high, last.holds_high or part.holds_high)
            else:
                longer = part if below(last.high, part.high) else last
                result[-1] = Interval(last.low, holds_low, longer.high, longer.holds_high)
        else:
            result.append(part)
    return result


def complement(parts: list[Interval]) -> list[Interval]:
    """What a set in order leaves of the real numbers."""
    result, low, holds_low = [], ALL.low, False
    for part in parts:
        if below(low, part.low) or (holds_low and not part.holds_low and equal(low, part.low)):
            result.append(Interval(low, holds_low, part.low, not part.holds_low))
        low, holds_low = part.high, not part.holds_high
    return [*result, Interval(low, holds_low, ALL.high, False)] if low != ALL.high else result


def both(first: list[Interval], second: list[Interval]) -> list[Interval]:
    """The intersection: what neither complement holds."""
    return complement(joined([*complement(first), *complement(second)]))
