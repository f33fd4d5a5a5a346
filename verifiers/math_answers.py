r"""Mathematical answers: find the answer in a response and compare it with the gold answer.

Two answers are equivalent if one of these says so, tried in this order:
1. the strings agree after normalising (normalising.py): layout and aliases go, braces stay, because \frac{11}{2} is not
   \frac{1}{12};
2. they agree without a unit or a percent sign, which may be left out, but not be another one; a word that is no unit
   stays, because 5 sixths is not 5;
3. they have the same structure (list, set, tuple, interval, matrix, ratio, equation, inequality; sets of real numbers
   in real_sets.py) and equivalent parts;
4. they are expressions with the same value (expressions.py), exactly or to 50 digits; with variables, at fixed points.
   Decimals get no tolerance: 0.333 is not 1/3, and 42 is neither 0.42 nor 4200.

A policy in training finds every weakness of its reward, so a response gains nothing by
- listing guesses: boxes joined only by "and", "or" or commas are one list, and a list is not one of its items;
- leaving the last box open, answering before </think>, or giving several ####-answers on one line;
- making the grader work: every verdict has a budget of steps, so there is no timeout to wait for; what goes beyond it
  is undecided, which counts as wrong.
No part of an answer is executed, no signal or thread is used, and calls share no state.
"""

import re
import warnings

from verifiers.expressions import (
    CONTEXT,
    MAX_EXPRESSION,
    POINTS,
    STEP_SCALE,
    Number,
    OutOfBounds,
    Unreadable,
    Work,
    WorkDone,
    close,
    inexact,
    values,
)
from verifiers.normalising import (
    FULL_STOP,
    MEASURES,
    inside_brackets,
    list_items,
    normalise,
    spelling,
    split_outside_brackets,
    split_unit,
)
from verifiers.real_sets import MEMBERSHIP, RELATION, NoSet, is_plainly_a_set, real_set, same_sets

MAX_RESPONSE = 20_000  # characters of a response that are read, counted from its end
MAX_TAIL = 2_000  # characters in which an answer without a box is looked for, counted from the end
MAX_SHORT = 200  # characters of a response that may be a bare answer
MAX_BOXES = 50  # boxes that are looked at, counted from the last
MAX_ANSWER = 1_600  # characters of an answer
MAX_DEPTH = 6  # structures inside each other: a list of tuples of ...
MAX_ITEMS = 24  # items of a list, cells of a matrix


# -------------------- extraction

BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character, which is skipped, or a brace
BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
BOX_WITHOUT_BRACES = re.compile(r"\\boxed\s+([-+.\d\\][^\s$,;]*)")  # "\boxed 12"
# What may stand between two boxes of one list: punctuation, spacing, a few words in \text{}, "and", "or", "y_2 =".
JOIN = re.compile(
    r"(?:[\s$.,;]|\\[\](),;!: ]|\\q?quad|\\text\s*\{[^{}]{0,20}\}|\band\b|\bor\b|\b[A-Za-z](?:_\w|_\{\w+\})?\s*=)*"
)
# "answer is", "**Answer:**", GSM8K's "A:", a heading "### Final Answer"
PHRASE = re.compile(
    r"(?i)answer\**(?: to (?:the|this|your) \w+)?(?:\s+(?:is|equals|(?:would|must|should) be)\b|\s*[:=])\**\s*:?|"
    r"(?:\A|\n)A:|(?:\A|\n)[ \t]{0,3}[#*]{1,6} ?(?:the )?(?:final )?answer[#*:]{0,6}[ \t]*\n"
)
# Where the answer after such a phrase ends: the line, a special token, "I hope it is correct", markup, a full stop, or
# what explains it.
PHRASE_END = re.compile(
    r"\n|<\||\.?\s*I hope it is|(?<!\w)\*\*|\*\*(?![\d(])|__|`|(?<=[\w)}\]$])\.(?:\s|\Z)|"
    r"(?<=[\w)}\]$%]),?\s(?:which|because|since|so|where|thus|hence|therefore|in total|in all|altogether)\b"
)
# of Markdown, with an answer behind it or below
HEADING = re.compile(r"(?i)(?:the )?(?:final )?(?:answer|solution|conclusion|step \d+)\s*(?:(?::|is\b:?)\s*(.*))?")
DISPLAY = re.compile(r"\\\[.{1,400}?\\\]|\$\$.{1,400}?\$\$", re.DOTALL)  # a formula on lines of its own
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$([^$]+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
ALTERS_BEFORE = re.compile(
    r"(?i)(?:\b(?:not|never|no|(?<!other )than|half|half of|third of|quarter of|twice|double|triple|negative|minus|"
    r"plus|times|square of|root of|but|at least|at most|not equal to|(?:except|divided by)(?: for)?)|n't)\s*\Z|"
    r"[+*/^\d-]\Z|\A[\s$\d.,/-]*\d\s*(?:,|or|and)\s*\Z"
)
ALTERS_AFTER = re.compile(
    r"(?i)[+*/^\d-]|\s*(?:dozen|hundred|thousand|[mbtr]+illion|times\b(?=\s*[\d$\\(])|(?:squared|cubed)\b(?!\s+[a-z])|"
    r"factorial|plus|minus|or\b|and\s*\$?\d|,\s*\$?\d[\d.]*\s*(?:\Z|[.,])|"
    r"(?:third|fifth|sixth|seventh|eighth|ninth|tenth)s?\b)"
)
NO_WORDS = re.compile(r"\s*[-+$]?[\d.,/ %^*()a-z\\{}€$]{1,60}\s*")  # a response that is an answer, such as "7,425"


def extract_answer(response: str, strict: bool = False) -> str | None:
    r"""The final answer that a response states, or None.

    It is the content of the last \boxed{} or \fbox{}; boxes joined only by "and", "or" or commas make one list, and a
    last box that is not closed is no answer. Without a box, unless `strict`: the line after the last "####", else what
    follows the last "answer is" or "answer:", else the last formula of a response of at most MAX_SHORT characters.
    Only the text after the last </think> counts, and of it the last MAX_RESPONSE characters.
    """
    return find_answer(response, strict, Work())


def find_answer(response: str, strict: bool, work: Work) -> str | None:
    """`extract_answer`; comparing boxes takes steps of `work`."""
    text = BOX_WITHOUT_BRACES.sub(r"\\boxed{\1}", response.rsplit("</think>", 1)[-1][-MAX_RESPONSE:])
    boxes = list(BOX.finditer(text))[-MAX_BOXES:]
    if boxes:
        return last_boxes(text, boxes, work)
    if strict:
        return None
    if "####" in text:
        pieces = text.split("####")
        if any("\n" not in piece for piece in pieces[1:-1]):  # several on a line
            return None
        line = pieces[-1].lstrip(": *").split("\n")[0].rstrip(" *")
        heading = HEADING.fullmatch(line)
        if not heading or heading[1]:
            return tidy(heading[1] if heading else line)
    tail = text[-MAX_TAIL:]
    phrases = list(PHRASE.finditer(tail))
    if phrases:
        return answer_in_sentence(tail[phrases[-1].end() :])
    return bare_answer(text) if len(text) <= MAX_SHORT else None


def last_boxes(text: str, boxes: list[re.Match], work: Work) -> str | None:
    """The content of the last box, or of the list of boxes that ends with it; None if it is not closed."""
    closing, stack = {}, []  # position of an opening brace -> position of its closing brace
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            stack.append(brace.start())
        elif brace[0] == "}" and stack:
            closing[stack.pop()] = brace.start()

    contents, next_start = [], len(text)  # of the boxes taken so far, the last one first
    for box in reversed(boxes):
        if box.end() not in closing:
            if not contents:
                return None
            break
        end = closing[box.end()] + 1
        content = text[box.end() + 1 : end - 1]
        if end > next_start:  # it contains the boxes after it
            contents = [content]
        elif not contents or JOIN.fullmatch(text, end, next_start):
            contents.append(content)
        else:
            break
        next_start = box.start()
    try:
        if all(compare(content, contents[0], work) for content in contents):  # boxed twice it is one answer
            return tidy(contents[0])
    except WorkDone:  # then it is a list, whose comparison cannot go on either
        pass
    return tidy(", ".join(reversed(contents)))


def answer_in_sentence(text: str) -> str | None:
    """The answer at the start of what follows "the answer is"."""
    text = text.lstrip(" \t\n*_`:#")
    text = display[0] if (display := DISPLAY.match(text)) else PHRASE_END.split(text)[0]
    text = re.sub(r"\A(?:(?:option|choice|therefore|thus|simply|just|exactly|equal to)\s+)+", "", text)
    if re.match(r"[A-Z][a-z]*\s", text):  # a sentence of its own: "The largest $n$ is 34"
        text = re.split(r"\b(?:is|are|equals):?\s", text)[-1]
    formulas = list(FORMULA.finditer(text))
    return tidy(formula_content(formulas[0]) if len(formulas) == 1 and not altered(formulas[0]) else text)


def bare_answer(text: str) -> str | None:
    """The last formula, with those before it that "or" or "and" joins to it; else the whole text if it has no words."""
    formulas = list(FORMULA.finditer(text))
    if not formulas:
        return tidy(text) if NO_WORDS.fullmatch(text) else None
    first = len(formulas) - 1
    if altered(formulas[first]):
        return None
    while first and JOIN.fullmatch(text, formulas[first - 1].end(), formulas[first].start()):
        first -= 1
    return tidy(", ".join(formula_content(formula) for formula in formulas[first:]))


def altered(formula: re.Match) -> bool:
    """Whether the words beside a formula make another answer of it: "not $5$", "$5$ million", "3 or $5$"."""
    before, after = formula.string[: formula.start()][-40:], formula.string[formula.end() :][:40]
    return bool(ALTERS_BEFORE.search(before) or ALTERS_AFTER.match(after))


def formula_content(formula: re.Match) -> str:
    """What stands between the dollars, with the percent sign after them."""
    percent = re.match(r"\s*(?:\\?%|percent|pct)", formula.string[formula.end() :])
    return next(filter(None, formula.groups())) + (r"\%" if percent else "")


def tidy(answer: str) -> str | None:
    """Without NUL, outer blanks, a full stop or a lone backslash at the end; None if nothing is left to compare."""
    answer = FULL_STOP.sub("", answer.replace("\0", "").strip())
    answer = re.sub(r"(?<!\\)\\\Z", "", answer).strip()
    return answer if re.search(r"[^\s{}$.,]", answer) else None


# -------------------- comparison


def judge_math(response: str, answer: str, strict: bool = False) -> bool | None:
    """True if the answer that `response` states is equivalent to `answer`, the gold answer; None if undecided.

    Wrong is a response without an answer (see extract_answer; `strict` accepts a box only). Undecided is what a bound
    cuts short, and what meets a fault of this file, which gives a warning. Never raises for anything in a response.
    """
    work = Work()
    try:
        found = find_answer(response, strict, work)
        right = found is not None and compare(found, answer, work)
    except WorkDone:
        return None
    except Exception as error:
        warnings.warn(f"judge_math: {error!r}; the response counts as wrong", stacklevel=2)
        return None
    return True if right else None if work.cut_short else False


def verify_math(response: str, answer: str, strict: bool = False) -> bool:
    """True if the answer that `response` states is equivalent to `answer`; undecided counts as wrong (judge_math)."""
    return judge_math(response, answer, strict) is True


def equivalent(answer: str, gold: str) -> bool:
    """True if two answers mean the same by the rules at the top of this file; False if that cannot be decided."""
    try:
        return compare(answer, gold, Work())
    except WorkDone:
        return False


def compare(answer: str, gold: str, work: Work) -> bool:
    """`equivalent` within the budget `work`; raises WorkDone, and notes in `work` if a bound decided."""
    if not answer.strip() or not gold.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if max(len(answer), len(gold)) > MAX_ANSWER:
        work.cut_short = True
        return False
    for text in (answer, gold):
        if text not in work.normalised:  # each once: a response can have fifty boxes to compare with its last
            work.spend(len(text) // 50)
            work.normalised[text] = normalise(text)
    a, b = work.normalised[answer], work.normalised[gold]
    exact = a.split(r"\approx")[0].strip()
    if r"\approx" not in b and len(list_items(a)) == 1 and not LABEL.fullmatch(exact):
        a = exact  # "1/3 \approx 0.33" states 1/3
    if broken_chain(a, work):
        return False
    verdict = same(a.replace(r"\approx", "="), b.replace(r"\approx", "="), 0, work)
    if not verdict and len(list_items(b)) > 1 and re.fullmatch(r"[1-9]\d{0,2}(?:,[1-9]\d\d)+", answer.strip()):
        return same(answer.strip(), b, 0, work)  # 30,150,210 is a list beside a list
    return verdict


def same(answer: str, gold: str, depth: int, work: Work) -> bool:
    """Equivalence of two normalised answers, or of two parts of them."""
    work.spend(4 + (len(answer) + len(gold)) // 50)
    if depth > MAX_DEPTH:
        work.cut_short = True
        return False
    if not answer or not gold:
        return False
    if spelling(answer) == spelling(gold):
        return True
    for rule in RULES:
        verdict = rule(answer, gold, depth + 1, work)
        if verdict is not None:
            return verdict
    return same_value(answer, gold, work)


# Each of these rules gives True or False, or None if it does not apply.


# Words whose letters make another one, or that are answers: no products of variables.
SHORT_WORDS = {
    *"no on yes not ton two one six ten net odd red tie win won now own old new top pot all any low up in it".split(),
    *"is of non nor was saw dog god cat act eat tea ear are era arm ram but tub war raw tip pit to do go so we".split(),
}


def compare_text(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """Choices such as (B), in which case is ignored from A to E; words, in which it always is; numerals in a base."""
    answer, gold = answer.replace('"', ""), gold.replace('"', "")
    a, b = (re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", s) for s in (answer, gold))
    chosen = re.fullmatch(r"\(?([A-E])\) ((?:[\d\s.+*/^{}%-]|\\(?:frac|sqrt|pi|deg))+)", answer)  # (B) 12
    if (a or chosen) and b:
        letter = (a or chosen)[1]
        return letter == b[1] or (b[1] in "ABCDE" and letter.upper() == b[1])
    if chosen and same(chosen[2].strip(), gold, depth, work):
        return True
    if re.fullmatch(r"[A-Za-z][A-Za-z' .-]+", gold) and answer.lower() == gold.lower():
        return True
    if re.fullmatch(r"[A-Z]{3,}|[IVX]{2,}", gold) or {answer.lower(), gold.lower()} & SHORT_WORDS:
        return answer == gold  # SAS is not SSA and "on" not "no", although the products of their letters agree
    base = re.fullmatch(
        r"\(?(\d[\dA-Z]*|\d[\da-f]*(?=\)?_\d\d))\)?_(\d+)", spelling(gold).replace("_{", "_").rstrip("}")
    )
    if base:
        numeral = re.fullmatch(r"\(?(\w+?)\)?(?:_(\w+))?", spelling(answer).replace("_{", "_").rstrip("}"))
        return bool(numeral) and numeral[1] == base[1] and numeral[2] in (None, base[2])
    return None


def compare_units(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """A unit may be left out, not be another one; one in more words, nautical miles for miles, is the same.

    A rate is another one (m/s for m), except where it is that of a price ($5 per hour for $5).
    """
    (a, unit_a), (b, unit_b) = split_unit(answer), split_unit(gold)
    if not unit_a and not unit_b:
        return None
    if unit_a and unit_b and not (unit_a <= unit_b or unit_b <= unit_a):
        return False
    if unit_b & MEASURES and unit_a - unit_b & {"/s", "/min", "/h"}:
        return False
    if (unit_a and b.endswith("%")) or (unit_b and a.endswith("%")):
        return False
    return same(a, b, depth, work)


def compare_percents(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """The sign may be left out, as after "what percent", or be carried out: 25% is 25 and 1/4."""
    a, b = answer.rstrip("% "), gold.rstrip("% ")
    if a == answer and b == gold:
        return None
    if same(a, b, depth, work):
        return True
    if a != answer and b != gold:
        return False
    return same_value(f"({a})/100", b, work) if a != answer else same_value(a, f"({b})/100", work)


# A matrix or an array, perhaps in brackets; the column layout of an array is dropped.
MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s*\{([pb]matrix|array)\}(?:\s*\{[^{}]*\})?(.*)\\end\s*\{\1\}\s*[)\]]?", re.DOTALL
)


ROW_BREAK = re.compile(r"\\\\(?: ?\[-?[\d.]+ ?(?:pt|em|ex|mm|cm)\])?")  # perhaps with the height of the gap


def compare_matrices(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    matrices = [MATRIX.fullmatch(s) for s in (answer, gold)]
    if not all(matrices):
        return False if any(matrices) and not RELATION.search(answer + gold) else None  # M = \begin{pmatrix} ...
    a, b = ([split_outside_brackets(row, "&") for row in ROW_BREAK.split(m[2]) if row.strip()] for m in matrices)
    if [len(row) for row in a] != [len(row) for row in b]:
        return False
    return same_in_order(sum(a, []), sum(b, []), depth, work)


def compare_ratios(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """4:6 is 2:3, but no time of day is another."""
    if ":" not in answer or ":" not in gold:
        return None
    a, b = (split_outside_brackets(s, ":") for s in (answer, gold))
    if len(a) != len(b) or all(re.fullmatch(r"\d{1,2}(:[0-5]\d)+", s) for s in (answer, gold)):
        return False
    time = re.fullmatch(r"\d{1,2}(:[0-5]\d)+", gold) and re.fullmatch(r"\d{1,2}(:\d\d)+", answer)
    if time or any(same_value(term, "0", work) for term in (*a, *b)):
        return same_in_order(a, b, depth, work)
    return all(same_value(f"({x})*({b[0]})", f"({y})*({a[0]})", work) for x, y in zip(a[1:], b[1:]))


def compare_real_sets(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """Intervals, inequalities and what is made of them, if one of the two is plainly a set and both can be read."""
    if max(len(answer), len(gold)) > MAX_EXPRESSION or not (is_plainly_a_set(answer) or is_plainly_a_set(gold)):
        return None
    try:
        return same_sets(real_set(answer, work), real_set(gold, work))
    except NoSet:
        return None


def compare_lists(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """Items in any order, each as often on both sides; a tuple or set may lack its brackets on one side."""
    a, b = list_items(answer), list_items(gold)
    if len(a) <= 1 and len(b) <= 1:
        return None
    if "..." in answer or "..." in gold:
        return False
    ordered = False
    if len(a) == 1 and (brackets := inside_brackets(answer)):
        a, ordered, bare = brackets[1], brackets[0] != r"\{", gold
    elif len(b) == 1 and (brackets := inside_brackets(gold)):
        b, ordered, bare = brackets[1], brackets[0] != r"\{", answer
    else:
        brackets = None
    if brackets and ordered:
        a, b = (a, alphabetical(b)) if bare is gold else (alphabetical(a), b)
        square = "[" in brackets[0] or "]" in brackets[2]
        if (square and len(brackets[1]) == 2) or r"\infty" in bare:  # an interval, which is no list
            return False
        if len(split_outside_brackets(bare, ";")) > 1:  # "1 or 2" is no point
            return False

    labels_a, labels_b = ([split_label(item)[0] for item in items] for items in (a, b))
    values_a, values_b = ([split_label(item)[1] for item in items] for items in (a, b))
    letters_a, letters_b = ([(label or "").split("_")[0] for label in labels] for labels in (labels_a, labels_b))
    if None not in (*labels_a, *labels_b) and sorted(letters_a) != sorted(letters_b):  # x=1, x=2 is not x=1, y=2
        return False
    if brackets and ordered:
        first, *rest = labels_b if bare is gold else labels_a
        if first and {*rest} <= {first, None}:  # x=1, x=2 and x=1, 2 are no point
            return False
    named = None not in labels_b and len(set(labels_b)) == len(labels_b) > 1  # x=1, y=2
    if named and sorted(label or "" for label in labels_a) == sorted(labels_b):
        by_label = dict(zip(labels_a, values_a))
        return all(same(by_label[label], value, depth, work) for label, value in zip(labels_b, values_b))
    if named and None not in labels_a and len(set(letters_b)) == len(letters_b):
        return False
    # Labels may be left out: "x=1, x=2" and "x=1, 2" are 1, 2. Then the order of x=1, y=2 counts, not that of x_1, x_2.
    ordered = ordered or (named and len(set(letters_b)) == len(labels_b))
    a = values_a if None not in labels_a or not any(labels_a[1:]) else a
    b = values_b if None not in labels_b or not any(labels_b[1:]) else b
    return same_in_order(a, b, depth, work) if ordered else same_in_any_order(a, b, depth, work)


def alphabetical(items: list[str]) -> list[str]:
    """Coordinates as a point has them: x=1, y=2 for y=2, x=1; (m,b), which has another order, as it is written."""
    labels = [split_label(item)[0] or "" for item in items]
    known = len({*labels}) == len(labels) and any({*labels} <= {*letters} for letters in ("xyz", "abcd"))
    return [item for _, item in sorted(zip(labels, items))] if known else items


def fits(a: list[str], b: list[str], work: Work) -> bool:
    """True if two lists are of one length that is not too large."""
    work.cut_short |= len(a) == len(b) > MAX_ITEMS
    return len(a) == len(b) <= MAX_ITEMS


def same_in_order(a: list[str], b: list[str], depth: int, work: Work) -> bool:
    return fits(a, b, work) and all(same(x, y, depth, work) for x, y in zip(a, b))


def same_in_any_order(a: list[str], b: list[str], depth: int, work: Work, as_set: bool = False) -> bool:
    """True if the items can be paired; in a set, and in a list of tuples, a repeated item counts once."""
    if as_set or all(item.startswith("(") for item in (*a, *b)):
        a, b = (list({spelling(item): item for item in items}.values()) for items in (a, b))
    if not fits(a, b, work):
        return False
    unpaired = list(b)
    for item in a:
        partner = next((other for other in unpaired if same(item, other, depth, work)), None)
        if partner is None:
            return False
        unpaired.remove(partner)
    return True


def compare_memberships(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    r"""x \in S, where x may be left out or S be written as an inequality."""
    memberships = [MEMBERSHIP.fullmatch(s) for s in (answer, gold)]
    if not any(memberships):
        return None
    members = [spelling(m[1]) if m else "" for m in memberships]
    if members[0] != members[1] and not all(not each or LABEL.fullmatch(each) for each in members):
        return False  # neither x \not\in S nor -x \in S is x \in S
    sets = [m[2] if m else as_interval(s) or s for m, s in zip(memberships, (answer, gold))]
    return same(*sets, depth, work)


def compare_sets(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    r"""Unions; tuples, intervals and sets."""
    if r"\cup" in answer or r"\cup" in gold:
        return same_in_any_order(*(split_outside_brackets(s, r"\cup") for s in (answer, gold)), depth, work)
    a, b = inside_brackets(answer), inside_brackets(gold)
    for brackets, other in ((a, gold), (b, answer)):  # {5} is 5
        if brackets and brackets[0] == r"\{" and len(brackets[1]) == 1 and not (a and b):
            (item,) = brackets[1]
            return inside_brackets(item) is None and r"\emptyset" not in item + other and same(item, other, depth, work)
    if not a or not b or (len(a[1]) <= 1 and len(b[1]) <= 1 and r"\{" not in (a[0], b[0])):
        return None
    if (a[0], a[2]) != (b[0], b[2]):
        return False
    if a[0] == r"\{":
        return same_in_any_order(a[1], b[1], depth, work, as_set=True)
    return same_in_order(a[1], b[1], depth, work)


MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
# What "x = 5" names: a letter or word with index, prime, inverse or arguments, a vector, several words, a tuple of
# letters, a length.
LABEL = re.compile(
    r"(?!\\n[eo])\\?[A-Za-z]+(?:_\{? ?\\?\w+(?:[ +-]+\w+)* ?\}?)?'*"
    r"(?:(?:\^\{?-1\}?)?\((?:[\w, |]|(?<=\()-?\d+(?:[./]\d+)?(?=\))|\\c[au]p|\\pi(?=\)))*\))?|"
    r"\\(?:vec|hat|over\w+|widehat) ?\{? ?\w{1,3} ?\}?|m? ?\\angle ?[A-Z]{1,3}|"
    r"(?!.*\b(?:not?|never|isn't)\b)[A-Za-z]+(?: +[A-Za-z]+)+|"
    r"\([A-Za-z](?:\s*,\s*[A-Za-z])*\)|\|(?:[A-Z]{2}|[A-Zwz])\||\[[A-Z]{3,4}\]|\\Delta ?[A-Za-z]|"
    r"\\(?:sin|cos|tan) ?(?:\\(?:theta|alpha|beta|gamma|phi|angle ?[A-Z]{1,3})|[A-Z])"
)

CONSTANT = re.compile(r"(?:[\d\s.+*/^(){}!-]|\\(?:frac|sqrt|pi|binom))+")
SECOND_LABEL = re.compile(r"[^\s+*/(-]\s+\\?[A-Za-z](?:_\{?\w+\}?)?\Z")  # x = 5 \quad y = 6 are two equations


def split_label(s: str) -> tuple[str | None, str]:
    """("x", "5") for "x = 5" and for "5 = x", ("x", "4") for "x = 2+2 = 4"; (None, s) if s names nothing."""
    sides = [side.strip() for side in s.split("=")]
    if any(SECOND_LABEL.search(side) for side in sides[1:-1]):
        return None, s
    if len(sides) > 1 and len(RELATION.findall(s)) == len(sides) - 1:
        if LABEL.fullmatch(sides[0].replace('"', "").replace(" (", "(").strip()):
            return spelling(sides[0]), sides[-1]
        if len(sides) == 2 and re.fullmatch(r"\\?[A-Za-z]", sides[1]):
            return sides[1], sides[0]
    return None, s


def broken_chain(s: str, work: Work) -> bool:
    """True if a number in "x = number = value" is not the value: x = 7/1 = 5, but not \\theta = \\pi/6 = 30 degrees."""
    *sides, last = s.split("=")
    if len(sides) < 2 or r"\approx" in s or split_label(s)[0] is None:
        return False
    degrees = last.replace(r"\deg", "*\\pi/180")
    for side in sides[1:]:
        pairs = value_pairs(side, "0", work) if CONSTANT.fullmatch(side) else []  # none where it cannot be read
        if pairs and not (same(side.strip(), last.strip(), 0, work) or same_value(side, degrees, work)):
            return True
    return False


def compare_relations(answer: str, gold: str, depth: int, work: Work) -> bool | None:
    """Equations and inequalities: by the value that they name, as multiples of each other, or as intervals."""
    signs_a, signs_b = RELATION.findall(answer), RELATION.findall(gold)
    if not signs_a and not signs_b:
        return None
    (label_a, value_a), (label_b, value_b) = split_label(answer), split_label(gold)
    if label_a and label_a == label_b and same(value_a, value_b, depth, work):
        return True
    if label_a and not signs_b:  # a number between says that too: x = 120 = 22 is two answers
        numbers = [side for side in answer.split("=")[1:-1] if re.fullmatch(r" ?-?[\d.]+ ?", side)]
        return all(same(side.strip(), gold, depth, work) for side in (*numbers, value_a))
    if label_b and not signs_a:
        return same(answer, value_b, depth, work)
    if not signs_b and {*signs_a} == {"="}:  # \frac{3}{4} = 0.75
        return all(same(side.strip(), gold, depth, work) for side in answer.split("="))
    if len(signs_a) == len(signs_b) == 1:
        return proportional(answer, gold, signs_a[0], signs_b[0], work)
    interval_a, interval_b = as_interval(answer), as_interval(gold)
    return bool(interval_a or interval_b) and same(interval_a or answer, interval_b or gold, depth, work)


def as_interval(s: str) -> str | None:
    r"""The interval of an inequality: (1,2] for 1 < x \le 2, (1,\infty) for x > 1; None if it bounds no letter."""
    signs, sides = RELATION.findall(s), [side.strip() for side in RELATION.split(s)]
    if not signs or "=" in signs or r"\ne" in signs:
        return None
    if signs[0] in (">", r"\ge"):
        signs, sides = [MIRRORED[sign] for sign in reversed(signs)], sides[::-1]
    letter = re.compile(r"\\?[A-Za-z](?:\([a-z]\))?")
    if len(signs) == 1 and letter.fullmatch(sides[0]):
        signs, sides = ["<", *signs], [r"-\infty", *sides]
    elif len(signs) == 1:
        signs, sides = [*signs, "<"], [*sides, r"\infty"]
    if len(signs) != 2 or not letter.fullmatch(sides[1]) or not set(signs) <= {"<", r"\le"}:
        return None
    return f"{'(' if signs[0] == '<' else '['}{sides[0]},{sides[2]}{')' if signs[1] == '<' else ']'}"


RULES = (
    *(compare_text, compare_units, compare_percents, compare_ratios, compare_matrices),
    *(compare_real_sets, compare_memberships, compare_lists, compare_sets, compare_relations),
)


def proportional(answer: str, gold: str, sign_a: str, sign_b: str, work: Work) -> bool:
    """True if left - right of one is a constant multiple of that of the other, by a factor that fits the two signs."""
    if sign_b not in (sign_a, MIRRORED[sign_a]):
        return False
    a, b = ("({})-({})".format(*RELATION.split(s)) for s in (answer, gold))
    pairs = value_pairs(a, b, work, least=2)
    if len(pairs) < 2 or any(x == 0 or y == 0 for x, y in pairs):
        return False
    factors = [inexact(x) / inexact(y) for x, y in pairs]
    if not all(close(factor, factors[0]) for factor in factors):
        return False
    symmetric = MIRRORED[sign_a] == sign_a
    return symmetric or (isinstance(factors[0], CONTEXT.mpf) and (factors[0] > 0) == (sign_a == sign_b))


def same_value(answer: str, gold: str, work: Work) -> bool:
    scales = (1, STEP_SCALE) if re.search(r"\\(?:floor|ceil)", answer + gold) else (1,)
    for scale in scales:
        pairs = value_pairs(answer, gold, work, scale)
        if not pairs or not all(close(x, y) for x, y in pairs):
            return False
    return True


def value_pairs(a: str, b: str, work: Work, scale: int = 1, least: int = 1) -> list[tuple[Number, Number]]:
    r"""The values of two expressions where both have one; empty if that leaves out more than one point.

    If `least` points are in the domain of both, only such points count: \sqrt{xy} is \sqrt x \sqrt y where x, y > 0.
    """
    try:
        values_a, values_b = values(a, work, scale), values(b, work, scale)
    except Unreadable as error:
        work.cut_short |= isinstance(error, OutOfBounds)
        return []
    if len(values_a) != len(values_b):  # a constant has its one value at every point
        values_a, values_b = ((v * POINTS)[:POINTS] for v in (values_a, values_b))
    pairs = [(x, y) for x, y in zip(values_a, values_b) if x.number is not None and y.number is not None]
    if len(pairs) < min(len(values_a), POINTS - 1):
        return []
    inside = [(x, y) for x, y in pairs if x.in_domain and y.in_domain]
    return [(x.number, y.number) for x, y in (inside if len(inside) >= least else pairs)]
