r"""Mathematical answers: find the answer in a response and compare it with the gold answer.

Two answers are equivalent if one of these says so, tried in this order:
1. the strings agree after normalising: layout, aliases, currency and a unit at the end go, braces stay, because
   \frac{11}{2} is not \frac{1}{12};
2. they have the same structure (list, set, tuple, interval, matrix, equation, inequality) and equivalent parts;
3. they are expressions with the same value, in exact fractions as far as possible, else in DIGITS digits; with
   variables, at POINTS fixed points. Decimals get no tolerance: 0.333 is not 1/3, and 42 is neither 0.42 nor 4200.

A policy in training finds every weakness of its reward, so a response gains nothing by
- listing guesses: boxes joined only by "and", "or" or commas are one list, and a list is not one of its items;
- leaving the last box open, answering before </think>, or giving several ####-answers on one line;
- making the grader work: the constants below bound every step, so there is no timeout to wait for.
No part of an answer is executed, no signal or thread is used, and calls share no state.
"""

import math
import operator
import random
import re
import warnings
from collections.abc import Callable
from fractions import Fraction

import mpmath

MAX_RESPONSE = 20_000  # characters of a response that are read, counted from its end
MAX_TAIL = 2_000  # characters in which an answer without a box is looked for, counted from the end
MAX_SHORT = 200  # characters of a response that may be a bare answer
MAX_BOXES = 50  # boxes that are looked at, counted from the last
MAX_ANSWER = 1_600  # characters of an answer
MAX_DEPTH = 6  # structures inside each other: a list of tuples of ...
MAX_ITEMS = 24  # items of a list, cells of a matrix
MAX_EXPRESSION = 400  # characters of an expression that is evaluated
MAX_NESTING = 60  # brackets, exponents and commands inside each other in one expression
MAX_BITS = 40_000  # size of exact fractions; larger ones continue as floating-point numbers
MAX_LOG = 10**7  # |log| of a power
MAX_FACTORIAL = 3_000  # argument of a factorial, entries of a binomial coefficient
MAX_ARGUMENT = 10**12  # magnitude of the argument of any other function

POINTS = 4  # points at which expressions with variables are compared
DIGITS = 30  # decimal digits of a floating-point evaluation
TOLERANCE = mpmath.mpf(10) ** -18  # relative; for the rounding errors of that evaluation, not for approximate answers

# A context of our own, so that mpmath.mp keeps its precision. We call only arithmetic and the functions in FUNCTIONS,
# which read the precision and never change it on the way, so threads may share the context.
CONTEXT = mpmath.MPContext()
CONTEXT.dps = DIGITS
Number = Fraction | CONTEXT.mpf | CONTEXT.mpc  # exact, or floating point, real or complex


class Unreadable(Exception):
    """An expression that this file cannot evaluate, or that would pass a bound."""


# -------------------- extraction

BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character, which is skipped, or a brace
BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
BOX_WITHOUT_BRACES = re.compile(r"\\boxed\s+([-+.\d\\][^\s$,;]*)")  # "\boxed 12"
# What may stand between two boxes of one list: punctuation, spacing, a few words in \text{}, "and", "or", "y_2 =".
JOIN = re.compile(
    r"(?:[\s$.,;]|\\[\](),;!: ]|\\q?quad|\\text\s*\{[^{}]{0,20}\}|\band\b|\bor\b|\b[A-Za-z](?:_\w|_\{\w+\})?\s*=)*"
)
PHRASE = re.compile(r"(?i)answer\**(?:\s+is\b|\s*[:=])\**\s*:?|(?:\A|\n)A:")  # "answer is", "**Answer:**", GSM8K's "A:"
# Where the answer after such a phrase ends: blank line, special token, "I hope it is correct", bold, full stop.
PHRASE_END = re.compile(r"\n\s*\n|<\||\.?\s*I hope it is|\*\*|(?<=[\w)}\]$])\.(?:\s|\Z)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$([^$]+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
FULL_STOP = re.compile(r"(?<!\.)\.\Z")  # and not the last of three dots
NO_WORDS = re.compile(r"\s*[-+$]?[\d.,/ %^*()a-z\\{}€$]{1,60}\s*")  # a response that is an answer, such as "7,425"


def extract_answer(response: str, strict: bool = False) -> str | None:
    r"""The final answer that a response states, or None.

    It is the content of the last \boxed{} or \fbox{}; boxes joined only by "and", "or" or commas make one list, and a
    last box that is not closed is no answer. Without a box, unless `strict`: the line after the last "####", else what
    follows the last "answer is" or "answer:", else the last formula of a response of at most MAX_SHORT characters.
    Only the text after the last </think> counts, and of it the last MAX_RESPONSE characters.
    """
    text = BOX_WITHOUT_BRACES.sub(r"\\boxed{\1}", response.rsplit("</think>", 1)[-1][-MAX_RESPONSE:])
    boxes = list(BOX.finditer(text))[-MAX_BOXES:]
    if boxes:
        return last_boxes(text, boxes)
    if strict:
        return None
    if "####" in text:
        pieces = text.split("####")
        several_on_a_line = any("\n" not in piece for piece in pieces[1:-1])
        return None if several_on_a_line else tidy(pieces[-1].lstrip(": ").split("\n")[0])
    tail = text[-MAX_TAIL:]
    phrases = list(PHRASE.finditer(tail))
    if phrases:
        return answer_in_sentence(tail[phrases[-1].end() :])
    return bare_answer(text) if len(text) <= MAX_SHORT else None


def last_boxes(text: str, boxes: list[re.Match]) -> str | None:
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
    if all(equivalent(content, contents[0]) for content in contents):  # the same answer boxed twice is one answer
        return tidy(contents[0])
    return tidy(", ".join(reversed(contents)))


def answer_in_sentence(text: str) -> str | None:
    """The answer at the start of what follows "the answer is"."""
    text = PHRASE_END.split(text.strip())[0]
    if re.match(r"[A-Z][a-z]*\s", text):  # a sentence of its own: "The largest $n$ is 34"
        text = re.split(r"\b(?:is|are|equals):?\s", text)[-1]
    formulas = list(FORMULA.finditer(text))
    return tidy(formula_content(formulas[0]) if len(formulas) == 1 else text)


def bare_answer(text: str) -> str | None:
    """The last formula, with those before it that "or" or "and" joins to it; else the whole text if it has no words."""
    formulas = list(FORMULA.finditer(text))
    if not formulas:
        return tidy(text) if NO_WORDS.fullmatch(text) else None
    first = len(formulas) - 1
    while first and JOIN.fullmatch(text, formulas[first - 1].end(), formulas[first].start()):
        first -= 1
    return tidy(", ".join(formula_content(formula) for formula in formulas[first:]))


def formula_content(formula: re.Match) -> str:
    """What stands between the dollars, with the percent sign after them."""
    percent = re.match(r"\s*(?:\\?%|percent|pct)", formula.string[formula.end() :])
    return next(filter(None, formula.groups())) + (r"\%" if percent else "")


def tidy(answer: str) -> str | None:
    """Without NUL, outer blanks, a full stop or a lone backslash at the end; None if nothing is left to compare."""
    answer = FULL_STOP.sub("", answer.replace("\0", "").strip())
    answer = re.sub(r"(?<!\\)\\\Z", "", answer).strip()
    return answer if re.search(r"[^\s{}$.,]", answer) else None


# -------------------- normalising

# One spelling for what has several: the first of each line stands for the others.
SPELLINGS = r"""
    \frac       \dfrac \tfrac \cfrac
    \ge         \geq \geqslant ≥ >=
    \le         \leq \leqslant ≤ <=
    \ne         \neq ≠ !=
    <           \lt
    >           \gt
    *           \cdot \times × ·
    /           \div ÷
    ^           **
    -           − – —
    |           \lvert \rvert \vert \mid
    \{          \lbrace
    \}          \rbrace
    \floor{     \lfloor
    \ceil{      \lceil
    }           \rfloor \rceil
    ...         \ldots \dots \cdots
    \emptyset   \varnothing ∅
    \sqrt       √
    \approx     ≈
    \pi         π
    \infty      ∞
    \pm         ±
    \cup        ∪
    \in         ∈
    ^2          ²
    ^3          ³
    %           \%
    \frac{1}{2}         ½
    (-\infty,\infty)    \R ℝ
"""
SPELLING_OF = {other: line.split()[0] for line in SPELLINGS.strip().splitlines() for other in line.split()[1:]}
LAYOUT = r"""
    \left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \displaystyle \textstyle \large \Large
    \quad \qquad \, \; \: \! \$ \degree $ ~ ° € £
"""
DROPPED = {*LAYOUT.split(), "\\ ", "\u200b", "\ufeff"}
SYMBOL = re.compile(r"\\\\|\\[A-Za-z]+|\\[^A-Za-z]|[<>!]=|\*\*|[^\x00-\x7f]|[$~]")  # \\ is a row break, not a blank
# A separator of thousands that cannot be a comma of a list, and an answer whose commas all separate thousands.
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\[,! ])\s*(?=\d{3}(?!\d))")
THOUSANDS_COMMAS = re.compile(r"(?:[A-Za-z] ?= ?)?[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?%?")
WRAPPER = r"\\(?:text|textbf|textrm|textit|textnormal|mbox|mathrm|mathbf|operatorname|boldsymbol|boxed|fbox)\s*"
WRAPPED = re.compile(WRAPPER + r"\{((?:[^{}]|\{[^{}]*\})*)\}")  # with at most one level of braces inside
JOINING_WORD = re.compile(WRAPPER + r"\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\]),?\s*\b(?:and|or)\b")
DEGREES = re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\bdegrees?\b")
PERCENT = re.compile(r"(?i)(?<=[\d}])\s*(?:%|percent(?:age)?|pct)\s*\Z")
# A unit at the end: "5\text{ cm}^2", "5\text{ m}/\text{s}", "5 square feet". A word of four letters or more after a
# number is taken for a unit, unless it changes the value.
NO_UNIT = (
    r"\s*(?:hundred|thousand|[mbtr]+illion|dozen|factorial|squared|cubed|hal[fv]|third|fourth|quarter|fifth|tenth)"
)
TEXT_UNIT = re.compile(
    rf"(?<=[\w)}}|!])\s*\\(?:text|textrm|mathrm|mbox|textnormal)\s*\{{(?!{NO_UNIT})[^{{}}\d,]*\}}"
    r"\s*(?:\^\s*\{?[23]\}?)?(?:/\\\w+\{[^{}]*\})?\s*\Z"
)
BARE_UNIT = re.compile(
    rf"(?<=[\d)}}])(?: [mg]|\s*(?:(?:sq|cu|cubic|square)(?:\.\s*|\s))?(?!{NO_UNIT})"
    r"(?:cm|mm|km|in|ft|mph|kg|lbs?|mi|hrs?|feet|foot|[a-z]{4,}))(?:\s*\^\s*\{?[23]\}?|\s+[a-z]{2,}|/\w+)*\Z"
)
BARE_COMMAND = re.compile(r"(?<![\\A-Za-z])(sqrt|pi|sin|cos|tan|ln|log)(?![A-Za-z])")  # without its backslash


def normalise(answer: str) -> str:
    """The answer in one spelling: without layout, currency, a unit at the end or outer braces."""
    s = SYMBOL.sub(replacement, THOUSANDS.sub("", re.sub(r"\\mathbb\s*\{?\s*R\s*\}?", r"\\R ", answer))).strip()
    while s.startswith("{") and closes_at_end(s):
        s = s[1:-1].strip()
    s = TEXT_UNIT.sub("", JOINING_WORD.sub(" , ", DEGREES.sub(" ", s)))
    for _ in range(4):  # wrappers inside wrappers
        s = WRAPPED.sub(r" \1 ", s)
    s = PERCENT.sub("%", re.sub(r"\s+", " ", s).strip())
    if re.match(r"[-+]?[\d.\\(]", s):
        s = BARE_UNIT.sub("", s)
    s = FULL_STOP.sub("", s).removeprefix(r"\approx").strip()
    if THOUSANDS_COMMAS.fullmatch(s):
        s = s.replace(",", "")
    s = re.sub(r"\A(-?\d+) (\d+)/(\d+)\Z", r"\1\\frac{\2}{\3}", s)  # "1 1/2"
    return BARE_COMMAND.sub(r"\\\1 ", s).replace(r"+\infty", r"\infty")


def replacement(symbol: re.Match) -> str:
    """What stands for a symbol; a blank keeps a new command apart from a letter after it."""
    if symbol[0] in DROPPED:
        return " "
    new = SPELLING_OF.get(symbol[0], symbol[0])
    return new + " " if new != symbol[0] and new[-1].isalpha() else new


def spelling(s: str) -> str:
    """A normalised answer as it is compared letter by letter: no needless blanks, no braces around one character."""
    s = re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", re.sub(r"(\\[A-Za-z]+) (?=\d)", r"\1", s))
    return re.sub(r"\{(\w)\}(?!\w)", r"\1", s)


# -------------------- splitting

PIECE = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)  # a command, an escaped character or a character
BRACKETS = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}  # ( and ] may pair, as in (0, 1]
PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


def split_outside_brackets(s: str, *separators: str) -> list[str]:
    parts, depth = [""], 0
    for piece in PIECE.findall(s):
        depth += BRACKETS.get(piece, 0)
        if depth == 0 and piece in separators:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def closes_at_end(s: str) -> bool:
    """True if the last piece of s closes the bracket that opens s."""
    depth, pieces = 0, PIECE.findall(s)
    for position, piece in enumerate(pieces):
        depth += BRACKETS.get(piece, 0)
        if depth == 0:
            return 0 < position == len(pieces) - 1
    return False


def list_items(s: str) -> list[str]:
    r"""The items of "a, b; c"; one with \pm or \mp stands for its two values."""
    items = []
    for item in filter(None, split_outside_brackets(s, ",", ";")):
        upper = PLUS_MINUS.sub(lambda sign: "+" if sign[1] == "pm" else "-", item)
        lower = PLUS_MINUS.sub(lambda sign: "-" if sign[1] == "pm" else "+", item)
        items += [upper] if upper == lower else [upper, lower]
    return items


def inside_brackets(s: str) -> tuple[str, list[str], str] | None:
    r"""(opening bracket, items, closing bracket) of a tuple, an interval or a set \{...\}; None for anything else."""
    width = 2 if s.startswith(r"\{") else 1
    if s[:width] not in ("(", "[", r"\{") or not closes_at_end(s):
        return None
    return s[:width], list_items(s[width:-width]), s[-width:]


# -------------------- parsing and evaluation
# A calculator: it reads an expression by operator precedence and computes its value on the way, once for each point.
# `tokens` is reversed, so that tokens[-1] is next and pop() takes it; `depth` counts the calls inside each other.

# An argument of one digit without braces: \frac12, \frac{1}2, \sqrt2, \log_2.
DIGIT_ARGUMENT = re.compile(r"(\\(?:frac|binom)\s*(?:\{[^{}]*\})?|\\sqrt|_)\s*(\d)")
MIXED_NUMBER = re.compile(r"(?<![\w.^}])(\d+)\s*(\\frac\s*\{(\d+)\}\s*\{(\d+)\})")  # 1\frac{1}{2}
REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}")  # 0.1\overline{6}
NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
LETTERS = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|chi|psi|omega|Delta|Gamma|Omega"
VARIABLE = re.compile(rf"(?:[A-Za-z]|\\(?:{LETTERS})(?![A-Za-z]))(?:_\w|_\{{\w+\}})?")
WORD = re.compile(r"[A-Za-z]{4,}")  # prose, not the product of four variables
TOKEN = re.compile(rf"{NUMBER.pattern}|{WORD.pattern}|{VARIABLE.pattern}|\\[A-Za-z]+|\S")
OPERAND = re.compile(r"[A-Za-z\d.\\({]")  # how a factor begins

PAIRS = {"(": ")", "[": "]", "{": "}"}
BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 3}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
CONSTANTS = {"e": +CONTEXT.e, r"\pi": +CONTEXT.pi, "i": CONTEXT.mpc(0, 1)}
FUNCTIONS: dict[str, Callable] = {
    **{rf"\{name}": getattr(CONTEXT, name) for name in "sin cos tan sinh cosh tanh ln exp floor ceil".split()},
    **{rf"\arc{name}": getattr(CONTEXT, f"a{name}") for name in "sin cos tan".split()},
    **{r"\log": CONTEXT.ln, r"\abs": abs},
    r"\csc": lambda x: 1 / CONTEXT.sin(x),
    r"\sec": lambda x: 1 / CONTEXT.cos(x),
    r"\cot": lambda x: 1 / CONTEXT.tan(x),
}


def values(expression: str) -> list[Number | None]:
    """The values at all points, None where there is none; one value if there is no variable. May raise Unreadable."""
    tokens = tokenize(expression)
    constant = not any(VARIABLE.fullmatch(token) and token not in CONSTANTS for token in tokens)
    results: list[Number | None] = []
    for point in range(1 if constant else POINTS):
        remaining = tokens.copy()
        try:
            results.append(evaluate(remaining, point, 0))
        except (ArithmeticError, ValueError):  # such as a division by zero
            results.append(None)
        else:
            if remaining:
                raise Unreadable
    return results


def tokenize(expression: str) -> list[str]:
    """The tokens of an expression, the last one first."""
    if len(expression) > MAX_EXPRESSION:
        raise Unreadable
    s = expression
    for _ in range(2):  # \frac has two arguments; |x| may stand inside another |x|
        s = DIGIT_ARGUMENT.sub(r"\1{\2}", s)
        s = re.sub(r"\|([^|]+)\|", r"\\abs{\1}", s)
    s = REPEATING.sub(lambda m: f"({m[1]}.{m[2]}0+{m[3]}/{'9' * len(m[3])}{'0' * len(m[2])})", s)
    s = MIXED_NUMBER.sub(lambda m: f"({m[1]}+{m[2]})" if int(m[3]) < int(m[4]) else m[0], s)
    if re.search(r"\d\s*\{|\d\s+[\d.]", s):  # "5{2}" and "5 2" look like 52 and would be read as 10
        raise Unreadable
    tokens = [re.sub(r"[{}]", "", token) if len(token) > 1 else token for token in TOKEN.findall(s)]
    if any(WORD.fullmatch(token) for token in tokens):
        raise Unreadable
    return tokens[::-1]


def evaluate(tokens: list[str], point: int, depth: int, binding: int = 0) -> Number:
    """Read one operand and every operator after it that binds tighter than `binding`."""
    if depth > MAX_NESTING or not tokens:
        raise Unreadable
    if tokens[-1] in ("+", "-"):
        negative = tokens.pop() == "-"
        value = evaluate(tokens, point, depth + 1, max(binding, BINDING["-"]))
        value = -value if negative else value
    else:
        value = read_operand(tokens, point, depth)
    while tokens:
        if tokens[-1] == "!":
            tokens.pop()
            if tokens and tokens[-1] == "!":
                raise Unreadable  # the double factorial is not the factorial of a factorial
            value = Fraction(math.factorial(small_integer(value)))
            continue
        side_by_side = bool(OPERAND.match(tokens[-1]))
        sign = "*" if side_by_side else tokens[-1]
        if BINDING.get(sign, 0) <= binding:
            break
        if not side_by_side:
            tokens.pop()
        tighter_than = BINDING[sign] - (sign == "^")  # a tower of powers binds from the right
        right = evaluate(tokens, point, depth + 1, tighter_than)
        value = power(value, right) if sign == "^" else calculate(sign, value, right)
    return value


def read_operand(tokens: list[str], point: int, depth: int) -> Number:
    """A number, a constant, a variable, a bracket, or a function with its arguments."""
    if depth > MAX_NESTING or not tokens:
        raise Unreadable
    token = tokens.pop()
    if NUMBER.fullmatch(token):
        return Fraction(token.rstrip("."))
    if token in PAIRS:
        value = evaluate(tokens, point, depth + 1)
        if not tokens or tokens.pop() != PAIRS[token]:
            raise Unreadable
        return value
    if token in CONSTANTS:
        return CONSTANTS[token]
    if VARIABLE.fullmatch(token):
        return coordinate(token, point)
    if token in (r"\frac", r"\binom"):
        upper, lower = (read_operand(tokens, point, depth + 1) for _ in range(2))
        if token == r"\frac":
            return calculate("/", upper, lower)
        return Fraction(math.comb(small_integer(upper), small_integer(lower)))
    if token == r"\sqrt":
        degree = read_operand(tokens, point, depth + 1) if tokens and tokens[-1] == "[" else Fraction(2)
        return power(read_operand(tokens, point, depth + 1), calculate("/", Fraction(1), degree))
    return read_function(token, tokens, point, depth)


def read_function(name: str, tokens: list[str], point: int, depth: int) -> Number:
    r"""\sin(x+1), \sin^2 x, \sin^{-1} x, \log_2 8, \ln 2x; without brackets the argument is all side by side."""
    base = exponent = None
    while tokens and tokens[-1] in ("_", "^"):
        if tokens.pop() == "_":
            base = read_operand(tokens, point, depth + 1)
        else:
            exponent = evaluate(tokens, point, depth + 1, BINDING["*"])
    if exponent == -1:
        name, exponent = name.replace("\\", r"\arc"), None
    if tokens and tokens[-1] in ("(", "{"):
        argument = read_operand(tokens, point, depth + 1)
    else:
        argument = evaluate(tokens, point, depth + 1, BINDING["*"])
        while tokens and (NUMBER.fullmatch(tokens[-1]) or VARIABLE.fullmatch(tokens[-1]) or tokens[-1] == r"\pi"):
            argument = calculate("*", argument, evaluate(tokens, point, depth + 1, BINDING["*"]))
    if name not in FUNCTIONS or abs(argument) > MAX_ARGUMENT or (base is not None and name != r"\log"):
        raise Unreadable
    value = FUNCTIONS[name](inexact(argument))
    if base is not None:
        value = value / CONTEXT.ln(inexact(base))
    if not CONTEXT.isfinite(value):
        raise ZeroDivisionError  # the logarithm of zero
    return value if exponent is None else power(value, exponent)


def calculate(sign: str, a: Number, b: Number) -> Number:
    """a + b, a - b, a * b or a / b: exact if both are exact and small enough."""
    exact = isinstance(a, Fraction) and isinstance(b, Fraction) and bits(a) + bits(b) <= MAX_BITS
    return OPERATIONS[sign](a, b) if exact else OPERATIONS[sign](inexact(a), inexact(b))


def power(base: Number, exponent: Number) -> Number:
    """base ** exponent: exact for an integer exponent; the root of odd degree of a negative number is the real one."""
    if isinstance(exponent, Fraction):
        if isinstance(base, Fraction) and exponent.denominator == 1 and abs(exponent) * bits(base) <= MAX_BITS:
            return base ** int(exponent)
        if exponent.denominator % 2 and exponent.denominator > 1 and not isinstance(base, CONTEXT.mpc) and base < 0:
            return power(-base, exponent) * (-1) ** exponent.numerator
    base, exponent = inexact(base), inexact(exponent)
    if base != 0 and abs(exponent * CONTEXT.ln(base)) > MAX_LOG:
        raise Unreadable
    return base**exponent


def small_integer(value: Number) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise Unreadable
    return int(value)


def inexact(value: Number) -> Number:
    return CONTEXT.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def coordinate(name: str, point: int) -> Fraction:
    """The value of a variable at a point: 1 to 10 in size, at points 1 and 2 of either sign, so that |x| is not x."""
    generator = random.Random(f"{point}/{name}")
    size = Fraction(generator.randint(1009, 4999), generator.randint(503, 997))
    return -size if point in (1, 2) and generator.random() < 0.6 else size


# -------------------- comparison


def verify_math(response: str, answer: str, strict: bool = False) -> bool:
    """True if the answer that `response` states is equivalent to `answer`, the gold answer.

    Wrong are: no answer (see extract_answer; `strict` accepts a box only), an answer longer than MAX_ANSWER, one that
    passes a bound. Never raises for anything in a response: a fault of this file gives a warning and counts as wrong.
    """
    try:
        found = extract_answer(response, strict)
        return found is not None and equivalent(found, answer)
    except Exception as error:
        warnings.warn(f"verify_math: {error!r}; the response counts as wrong", stacklevel=2)
        return False


def equivalent(answer: str, gold: str) -> bool:
    """True if two answers mean the same by the rules at the top of this file; False if that cannot be decided."""
    if not answer.strip() or not gold.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if max(len(answer), len(gold)) > MAX_ANSWER:
        return False
    a, b = normalise(answer), normalise(gold)
    if r"\approx" not in b:
        a = a.split(r"\approx")[0].strip()  # "1/3 \approx 0.33" states 1/3
    return same(a.replace(r"\approx", "="), b.replace(r"\approx", "="), 0)


def same(answer: str, gold: str, depth: int) -> bool:
    """Equivalence of two normalised answers, or of two parts of them."""
    if depth > MAX_DEPTH or not answer or not gold:
        return False
    if spelling(answer) == spelling(gold):
        return True
    for rule in (compare_text, compare_percents, compare_matrices, compare_lists, compare_sets, compare_relations):
        verdict = rule(answer, gold, depth + 1)
        if verdict is not None:
            return verdict
    return same_value(answer, gold)


# Each of these rules gives True or False, or None if it does not apply.


def compare_text(answer: str, gold: str, depth: int) -> bool | None:
    """Choices such as (B), in which case is ignored from A to E; words, in which it always is; numerals in a base."""
    a, b = (re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", s) for s in (answer, gold))
    if a and b:
        return a[1] == b[1] or (b[1] in "ABCDE" and a[1].upper() == b[1])
    if re.fullmatch(r"[A-Za-z][A-Za-z' .-]{2,}", gold) and answer.lower() == gold.lower():
        return True
    if re.fullmatch(r"[A-Z]{3,}", gold):
        return answer == gold  # SAS is not SSA, although the products of their letters agree
    base = re.fullmatch(r"(\d\w*?)_\w+", spelling(gold).replace("_{", "_").rstrip("}"))
    return spelling(answer).replace("_{", "_").rstrip("}") in (base[0], base[1]) if base else None


def compare_percents(answer: str, gold: str, depth: int) -> bool | None:
    """The sign may be left out, as after "what percent", or be carried out: 25% is 25 and 1/4."""
    a, b = answer.rstrip("% "), gold.rstrip("% ")
    if a == answer and b == gold:
        return None
    if same(a, b, depth):
        return True
    if a != answer and b != gold:
        return False
    return same_value(f"({a})/100", b) if a != answer else same_value(a, f"({b})/100")


# A matrix or an array, perhaps in brackets; the column layout of an array is dropped.
MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s*\{([pb]matrix|array)\}(?:\s*\{[^{}]*\})?(.*)\\end\s*\{\1\}\s*[)\]]?", re.DOTALL
)


def compare_matrices(answer: str, gold: str, depth: int) -> bool | None:
    matrices = [MATRIX.fullmatch(s) for s in (answer, gold)]
    if not all(matrices):
        return False if any(matrices) else None
    a, b = ([split_outside_brackets(row, "&") for row in m[2].split(r"\\") if row.strip()] for m in matrices)
    if [len(row) for row in a] != [len(row) for row in b]:
        return False
    return same_in_order(sum(a, []), sum(b, []), depth)


def compare_lists(answer: str, gold: str, depth: int) -> bool | None:
    """Items in any order, each as often on both sides; a tuple or set may lack its brackets on one side."""
    a, b = list_items(answer), list_items(gold)
    if len(a) <= 1 and len(b) <= 1:
        return None
    if "..." in answer or "..." in gold:
        return False
    ordered = False
    if len(a) == 1 and (brackets := inside_brackets(answer)):
        a, ordered = brackets[1], brackets[0] != r"\{"
    elif len(b) == 1 and (brackets := inside_brackets(gold)):
        b, ordered = brackets[1], brackets[0] != r"\{"

    labels_a, labels_b = ([split_label(item)[0] for item in items] for items in (a, b))
    values_a, values_b = ([split_label(item)[1] for item in items] for items in (a, b))
    named = None not in labels_b and len(set(labels_b)) == len(labels_b) > 1  # x=1, y=2
    if named and None not in labels_a:
        by_label = dict(zip(labels_a, values_a))
        return sorted(labels_a) == sorted(labels_b) and all(
            same(by_label[label], value, depth) for label, value in zip(labels_b, values_b)
        )
    # Labels may be left out: "x=1, x=2" and "x=1, 2" are 1, 2. Then the order of x=1, y=2 counts, not that of x_1, x_2.
    ordered = ordered or (named and len({label.split("_")[0] for label in labels_b}) == len(labels_b))
    a = values_a if None not in labels_a or not any(labels_a[1:]) else a
    b = values_b if None not in labels_b or not any(labels_b[1:]) else b
    return same_in_order(a, b, depth) if ordered else same_in_any_order(a, b, depth)


def same_in_order(a: list[str], b: list[str], depth: int) -> bool:
    return len(a) == len(b) <= MAX_ITEMS and all(same(x, y, depth) for x, y in zip(a, b))


def same_in_any_order(a: list[str], b: list[str], depth: int, as_set: bool = False) -> bool:
    """True if the items can be paired; in a set, and in a list of tuples, a repeated item counts once."""
    if as_set or all(item.startswith("(") for item in (*a, *b)):
        a, b = (list({spelling(item): item for item in items}.values()) for items in (a, b))
    if len(a) != len(b) or len(a) > MAX_ITEMS:
        return False
    unpaired = list(b)
    for item in a:
        partner = next((other for other in unpaired if same(item, other, depth)), None)
        if partner is None:
            return False
        unpaired.remove(partner)
    return True


MEMBERSHIP = re.compile(r"[^=<>]*?\\in(?![A-Za-z])\s*(.+)", re.DOTALL)  # x \in S


def compare_sets(answer: str, gold: str, depth: int) -> bool | None:
    r"""x \in S, where x may be left out or S be written as an inequality; unions; tuples, intervals and sets."""
    memberships = [MEMBERSHIP.fullmatch(s) for s in (answer, gold)]
    if any(memberships):
        sets = [m[1] if m else as_interval(s) or s for m, s in zip(memberships, (answer, gold))]
        return same(*sets, depth)
    if r"\cup" in answer or r"\cup" in gold:
        return same_in_any_order(*(split_outside_brackets(s, r"\cup") for s in (answer, gold)), depth)
    a, b = inside_brackets(answer), inside_brackets(gold)
    if not a or not b or (len(a[1]) <= 1 and len(b[1]) <= 1 and r"\{" not in (a[0], b[0])):
        return None
    if (a[0], a[2]) != (b[0], b[2]):
        return False
    return same_in_any_order(a[1], b[1], depth, as_set=True) if a[0] == r"\{" else same_in_order(a[1], b[1], depth)


RELATION = re.compile(r"\\(?:ge|le|ne)(?![A-Za-z])|[<>=]")
MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
# What "x = 5" names: a letter or word with index, inverse or arguments, several words, a tuple of letters, a length.
LABEL = re.compile(
    r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\^\{?-1\}?)?(?:\([\w, ]*\))?|[A-Za-z]+(?: [A-Za-z]+)+|"
    r"\([A-Za-z](?:\s*,\s*[A-Za-z])*\)|\|[A-Z]{2}\|"
)


def split_label(s: str) -> tuple[str | None, str]:
    """("x", "5") for "x = 5" and for "5 = x", ("x", "4") for "x = 2+2 = 4"; (None, s) if s names nothing."""
    sides = [side.strip() for side in s.split("=")]
    if len(sides) > 1 and len(RELATION.findall(s)) == len(sides) - 1:
        if LABEL.fullmatch(sides[0]):
            return spelling(sides[0]), sides[-1]
        if len(sides) == 2 and re.fullmatch(r"\\?[A-Za-z]", sides[1]):
            return sides[1], sides[0]
    return None, s


def compare_relations(answer: str, gold: str, depth: int) -> bool | None:
    """Equations and inequalities: by the value that they name, as multiples of each other, or as intervals."""
    signs_a, signs_b = RELATION.findall(answer), RELATION.findall(gold)
    if not signs_a and not signs_b:
        return None
    (label_a, value_a), (label_b, value_b) = split_label(answer), split_label(gold)
    if label_a and label_a == label_b and same(value_a, value_b, depth):
        return True
    if label_a and not signs_b:
        return same(value_a, gold, depth)
    if label_b and not signs_a:
        return same(answer, value_b, depth)
    if len(signs_a) == len(signs_b) == 1:
        return proportional(answer, gold, signs_a[0], signs_b[0])
    interval_a, interval_b = as_interval(answer), as_interval(gold)
    return bool(interval_a or interval_b) and same(interval_a or answer, interval_b or gold, depth)


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


def proportional(answer: str, gold: str, sign_a: str, sign_b: str) -> bool:
    """True if left - right of one is a constant multiple of that of the other, by a factor that fits the two signs."""
    if sign_b not in (sign_a, MIRRORED[sign_a]):
        return False
    a, b = ("({})-({})".format(*RELATION.split(s)) for s in (answer, gold))
    pairs = value_pairs(a, b)
    if len(pairs) < POINTS - 1 or any(x == 0 or y == 0 for x, y in pairs):
        return False
    factors = [inexact(x) / inexact(y) for x, y in pairs]
    if not all(close(factor, factors[0]) for factor in factors):
        return False
    symmetric = MIRRORED[sign_a] == sign_a
    return symmetric or (isinstance(factors[0], CONTEXT.mpf) and (factors[0] > 0) == (sign_a == sign_b))


def same_value(answer: str, gold: str) -> bool:
    pairs = value_pairs(answer, gold)
    return bool(pairs) and all(close(x, y) for x, y in pairs)


def value_pairs(a: str, b: str) -> list[tuple[Number, Number]]:
    """The values of two expressions where both have one; empty if that leaves out more than one point."""
    try:
        values_a, values_b = values(a), values(b)
    except Unreadable:
        return []
    if len(values_a) != len(values_b):  # a constant has its one value at every point
        values_a, values_b = ((v * POINTS)[:POINTS] for v in (values_a, values_b))
    pairs = [(x, y) for x, y in zip(values_a, values_b) if x is not None and y is not None]
    return pairs if len(pairs) >= min(len(values_a), POINTS - 1) else []


def close(a: Number, b: Number) -> bool:
    """Equality of exact values; agreement up to TOLERANCE if one of them is not exact."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = inexact(a), inexact(b)
    size = max(abs(a), abs(b))
    return bool(CONTEXT.isfinite(size)) and abs(a - b) <= size * TOLERANCE
