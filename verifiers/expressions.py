r"""Values of mathematical expressions in LaTeX or plain text, within bounds.

    values(r"\frac{x^2-1}{x+1}", Work())  # its value at each of POINTS points, exact fractions as far as possible

A calculator reads an expression by operator precedence and computes on the way; nothing is executed, nothing is
simplified. Numbers are exact fractions until they meet a root, a function or a bound; then they continue with DIGITS
digits. Every step is bounded, and all the steps of a verdict together are, so there is no timeout to wait for.
"""

import math
import operator
import random
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import mpmath

MAX_WORK = 10_000  # steps of one verdict; most take some microseconds
MAX_EXPRESSION = 400  # characters of an expression that is evaluated
MAX_NESTING = 60  # brackets, exponents and commands inside each other in one expression
MAX_BITS = 40_000  # size of exact fractions; larger ones continue as floating-point numbers
MAX_LOG = 10**7  # |log| of a power
MAX_FACTORIAL = 3_000  # argument of a factorial, entries of a binomial coefficient
MAX_ARGUMENT = 10**12  # magnitude of the argument of any other function

POINTS = 7  # points at which expressions with variables are compared
STEP_SCALE = 41  # of their variables where steps, which floors and ceilings make, could hide a difference
DIGITS = 60  # decimal digits of a floating-point evaluation
TOLERANCE = mpmath.mpf(10) ** -50  # relative; for the rounding errors of that evaluation, not for approximate answers
ROUNDING = mpmath.mpf(10) ** -57  # relative; what is left of a sum that should be zero
VANISHING = mpmath.mpf(10) ** -24  # a summand that is smaller than this part of the other could be lost

# A context of our own, so that mpmath.mp keeps its precision. We call only arithmetic and the functions in FUNCTIONS,
# which read the precision and never change it on the way, so threads may share the context.
CONTEXT = mpmath.MPContext()
CONTEXT.dps = DIGITS
Number = Fraction | CONTEXT.mpf | CONTEXT.mpc  # exact, or floating point, real or complex


class Value(NamedTuple):
    """The value of an expression at a point."""

    number: Number | None  # None if it has none, as 1/0
    in_domain: bool  # False if it is the root or the logarithm of a negative number, where formulas part company


class Unreadable(Exception):
    """An expression that the calculator cannot evaluate."""


class OutOfBounds(Unreadable):
    """An expression that may have a value, but one beyond the bounds of this file."""


class Lost(ArithmeticError):
    """A sum whose smaller part would vanish in the digits of the larger one."""


class WorkDone(Exception):
    """All the steps that a verdict may take have been taken."""


class Work:
    """What one verdict may still cost, what it has computed, and whether a bound has cut it short."""

    def __init__(self):
        self.left = MAX_WORK
        self.known: dict[tuple[str, int], list[Value] | Unreadable] = {}
        self.normalised: dict[str, str] = {}
        self.cut_short = False

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise WorkDone


# An argument of one digit without braces: \frac12, \frac{1}2, \sqrt2, \log_2.
DIGIT_ARGUMENT = re.compile(r"(\\(?:frac|binom)\s*(?:\{[^{}]*\})?|\\sqrt|\\overline|_)\s*(\d)")
MIXED_NUMBER = re.compile(r"(?<![\w.^}])(\d+)\s*(\\frac\s*\{(\d+)\}\s*\{(\d+)\})")  # 1\frac{1}{2}
MIXED_SLASH = re.compile(r"(?<![\w.^}])(\d+) (\d+)/(\d+)(?!\w)")  # 1 1/2
SCIENTIFIC = re.compile(r"(?<![\w.])(\d+\.?\d*)[eE]([-+]?\d+)(?![\w.])")  # 4.5e33
REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}(?!\d)")  # 0.1\overline{6}
NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
LETTERS = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|chi|psi|omega|Delta|Gamma|Omega"
LETTERS += "|zeta|eta|kappa|xi|varepsilon|Phi|Lambda|hbar|ell"
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
    **{r"\log": CONTEXT.ln, r"\lg": CONTEXT.log10, r"\abs": abs},
    r"\csc": lambda x: 1 / CONTEXT.sin(x),
    r"\sec": lambda x: 1 / CONTEXT.cos(x),
    r"\cot": lambda x: 1 / CONTEXT.tan(x),
}
TRIGONOMETRIC = {rf"\{name}" for name in "sin cos tan csc sec cot".split()}  # in which 30^\circ is no number of degrees


def values(expression: str, work: Work, scale: int = 1) -> list[Value]:
    """The values at all points; one value if there is no variable. scale: of the sizes of the variables.

    Raises Unreadable, OutOfBounds, and WorkDone when `work` is used up.
    """
    if (expression, scale) not in work.known:
        try:
            work.known[expression, scale] = evaluate_at_points(expression, work, scale)
        except Unreadable as error:
            work.known[expression, scale] = error
    known = work.known[expression, scale]
    if isinstance(known, Unreadable):
        raise known
    return known


def evaluate_at_points(expression: str, work: Work, scale: int) -> list[Value]:
    tokens = tokenize(expression)
    work.spend(1 + len(expression) // 50)
    constant = not any(VARIABLE.fullmatch(token) and token not in CONSTANTS for token in tokens)
    results: list[Value] = []
    for point in range(1 if constant else POINTS):
        calculator = Calculator(tokens, point, scale, work)
        try:
            value = calculator.evaluate(0)
            results.append(Value(value, constant or "i" in tokens or not calculator.left_reals))
        except (ArithmeticError, ValueError) as error:  # such as a division by zero
            if constant and isinstance(error, Lost):
                raise OutOfBounds from error
            results.append(Value(None, True))
        else:
            if calculator.tokens:
                raise Unreadable
    return results


def tokenize(expression: str) -> list[str]:
    """The tokens of an expression, the last one first."""
    if len(expression) > MAX_EXPRESSION:
        raise OutOfBounds
    s = expression
    for _ in range(2):  # \frac has two arguments; |x| may stand inside another |x|
        s = DIGIT_ARGUMENT.sub(r"\1{\2}", s)
        s = re.sub(r"\|([^|]+)\|", r"\\abs{\1}", s)
    s = REPEATING.sub(lambda m: f"({m[1]}.{m[2]}0+{m[3]}/{'9' * len(m[3])}{'0' * len(m[2])})", s)
    s = MIXED_NUMBER.sub(lambda m: f"({m[1]}+{m[2]})" if int(m[3]) < int(m[4]) else m[0], s)
    s = MIXED_SLASH.sub(lambda m: f"({m[1]}+{m[2]}/{m[3]})" if int(m[2]) < int(m[3]) else m[0], s)
    s = SCIENTIFIC.sub(r"(\1*10^{\2})", s)
    if '"' in s:
        s = re.sub(r'"([$€£])"', "", re.sub(r'"(\w)"', r" \1 ", s))  # currency, and letters in \text{}
    s = re.sub(r"(\\(?:sin|cos|tan|csc|sec|cot|ln|log|lg)h? ?)\^ ?(\d)(?=\s)", r"\1^{\2}", s)  # \sin^2 30
    if re.search(r"\d\s*\{|\d(?:\s|\\deg)+[\d.]|\.\d*\.", s):  # "5{2}" and "5 2" look like 52, and would be 10
        raise Unreadable
    tokens = [re.sub(r"[{}]", "", token) if len(token) > 1 else token for token in TOKEN.findall(s)]
    if '"' in s or any(WORD.fullmatch(token) for token in tokens):
        raise Unreadable
    if not any(token in TRIGONOMETRIC for token in tokens):
        tokens = [token for token in tokens if token != r"\deg"]
    return tokens[::-1]


class Calculator:
    """Evaluates one expression at one point. tokens[-1] is the next one; `depth` counts the calls inside each other."""

    def __init__(self, tokens: list[str], point: int, scale: int, work: Work):
        self.tokens, self.point, self.scale, self.work = tokens.copy(), point, scale, work
        self.left_reals = False  # the root or logarithm of a negative number has been taken

    def evaluate(self, depth: int, binding: int = 0) -> Number:
        """Read one operand and every operator after it that binds tighter than `binding`."""
        tokens = self.tokens
        self.enter(depth)
        if tokens[-1] in ("+", "-"):
            negative = tokens.pop() == "-"
            value = self.evaluate(depth + 1, max(binding, BINDING["-"]))
            value = -value if negative else value
        else:
            value = self.operand(depth)
        while tokens:
            if tokens[-1] == r"\deg":
                tokens.pop()
                value = self.calculate("*", value, CONTEXT.pi / 180)
                continue
            if tokens[-1] == "!":
                tokens.pop()
                if tokens and tokens[-1] == "!":
                    raise Unreadable  # the double factorial is not the factorial of a factorial
                self.work.spend(1 + small_integer(value) // 100)
                value = Fraction(math.factorial(small_integer(value)))
                continue
            side_by_side = bool(OPERAND.match(tokens[-1]))
            sign = "*" if side_by_side else tokens[-1]
            if BINDING.get(sign, 0) <= binding:
                break
            if not side_by_side:
                tokens.pop()
            tighter_than = BINDING[sign] - (sign == "^")  # a tower of powers binds from the right
            right = self.evaluate(depth + 1, tighter_than)
            value = self.power(value, right) if sign == "^" else self.calculate(sign, value, right)
        return value

    def enter(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise OutOfBounds
        if not self.tokens:
            raise Unreadable
        self.work.spend(1)

    def operand(self, depth: int) -> Number:
        """A number, a constant, a variable, a bracket, or a function with its arguments."""
        tokens = self.tokens
        self.enter(depth)
        token = tokens.pop()
        if NUMBER.fullmatch(token):
            return Fraction(token.rstrip("."))
        if token in PAIRS:
            value = self.evaluate(depth + 1)
            if not tokens or tokens.pop() != PAIRS[token]:
                raise Unreadable
            return value
        if token in CONSTANTS:
            return CONSTANTS[token]
        if VARIABLE.fullmatch(token):
            return self.scale * coordinate(token, self.point)
        if token in (r"\frac", r"\binom"):
            upper, lower = (self.operand(depth + 1) for _ in range(2))
            if token == r"\frac":
                return self.calculate("/", upper, lower)
            self.work.spend(1 + small_integer(upper) // 100)
            return Fraction(math.comb(small_integer(upper), small_integer(lower)))
        if token == r"\sqrt":
            degree = self.operand(depth + 1) if tokens and tokens[-1] == "[" else Fraction(2)
            return self.power(self.operand(depth + 1), self.calculate("/", Fraction(1), degree))
        return self.function(token, depth)

    def function(self, name: str, depth: int) -> Number:
        r"""\sin(x+1), \sin^2 x, \sin^{-1} x, \log_2 8, \ln 2x; without brackets the argument is all side by side."""
        tokens = self.tokens
        base = exponent = None
        while tokens and tokens[-1] in ("_", "^"):
            if tokens.pop() == "_":
                base = self.operand(depth + 1)
            else:
                exponent = self.evaluate(depth + 1, BINDING["*"])
        if exponent == -1:
            name, exponent = name.replace("\\", r"\arc"), None
        if tokens and tokens[-1] in ("(", "{"):
            argument = self.operand(depth + 1)
        else:
            argument = self.evaluate(depth + 1, BINDING["*"])
            while tokens and (NUMBER.fullmatch(tokens[-1]) or VARIABLE.fullmatch(tokens[-1]) or tokens[-1] == r"\pi"):
                argument = self.calculate("*", argument, self.evaluate(depth + 1, BINDING["*"]))
        if name not in FUNCTIONS or (base is not None and name != r"\log"):
            raise Unreadable
        if abs(argument) > MAX_ARGUMENT:
            raise OutOfBounds
        argument = self.inexact(argument)
        value = FUNCTIONS[name](argument)
        if name in TRIGONOMETRIC and abs(value) < abs(argument) * ROUNDING:  # the sine of pi
            value = CONTEXT.mpf(0)
        self.note_if_complex(value, argument)
        if base is not None:
            value = value / CONTEXT.ln(self.inexact(base))
        if not CONTEXT.isfinite(value):
            raise ZeroDivisionError  # the logarithm of zero
        return value if exponent is None else self.power(value, exponent)

    def calculate(self, sign: str, a: Number, b: Number) -> Number:
        """a + b, a - b, a * b or a / b: exact if both are exact and small enough."""
        if isinstance(a, Fraction) and isinstance(b, Fraction) and bits(a) + bits(b) <= MAX_BITS:
            self.work.spend(((bits(a) + bits(b)) // 4_000) ** 2)  # reducing a fraction takes quadratic time
            return OPERATIONS[sign](a, b)
        a, b = self.inexact(a), self.inexact(b)
        value = OPERATIONS[sign](a, b)
        if sign in "+-":
            smaller, larger = sorted((abs(a), abs(b)))
            if 0 < smaller < larger * VANISHING:
                raise Lost
            value = CONTEXT.mpf(0) if abs(value) < larger * ROUNDING else value
        return value

    def power(self, base: Number, exponent: Number) -> Number:
        """base ** exponent, exact for an integer exponent; an odd root of a negative number is the real one."""
        if isinstance(exponent, Fraction):
            if isinstance(base, Fraction) and exponent.denominator == 1 and abs(exponent) * bits(base) <= MAX_BITS:
                self.work.spend(1 + int(abs(exponent)) * bits(base) // 1_000)
                return base ** int(exponent)
            if exponent.denominator % 2 and exponent.denominator > 1 and not isinstance(base, CONTEXT.mpc) and base < 0:
                return self.power(-base, exponent) * (-1) ** exponent.numerator
        base, exponent = self.inexact(base), self.inexact(exponent)
        if base != 0 and abs(exponent * CONTEXT.ln(base)) > MAX_LOG:
            raise OutOfBounds
        self.work.spend(2)
        value = base**exponent
        self.note_if_complex(value, base)
        return value

    def note_if_complex(self, value: Number, argument: Number) -> None:
        self.left_reals |= isinstance(value, CONTEXT.mpc) and not isinstance(argument, CONTEXT.mpc)

    def inexact(self, value: Number) -> Number:
        self.work.spend(1 + (bits(value) // 500 if isinstance(value, Fraction) else 0))
        return inexact(value)


def small_integer(value: Number) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable
    if value > MAX_FACTORIAL:
        raise OutOfBounds
    return int(value)


def inexact(value: Number) -> Number:
    return CONTEXT.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


SIZES = (1, 2, 3, 4, 5, 6, 7)


def coordinate(name: str, point: int) -> Fraction:
    """The value of a variable at a point: 1 to 8 in size, another each time. Positive at point 0 and one other.

    The signs of two letters differ somewhere: |x| is not x, nor |xy| xy.
    """
    generator, letter = random.Random(f"{point}/{name}"), sum(map(ord, name))
    size = SIZES[(point + letter) % POINTS] + Fraction(generator.randint(101, 989), 997)
    negative = 1 + letter % 62  # a bit for each point but the first, neither none nor all of them
    return -size if point > 0 and negative >> (point - 1) & 1 else size


def close(a: Number, b: Number) -> bool:
    """Equality of exact values; agreement up to TOLERANCE if one of them is not exact."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = inexact(a), inexact(b)
    size = max(abs(a), abs(b))
    return bool(CONTEXT.isfinite(size)) and abs(a - b) <= size * TOLERANCE
