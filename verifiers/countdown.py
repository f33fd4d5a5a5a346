"""Whether an expression reaches a target with given numbers, each used once: the verdict on `countdown` problems."""

import ast
import operator
import re
from fractions import Fraction

from verifiers.math_answers import extract_answer

MAX_LENGTH = 300  # characters of an answer
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
SPELLINGS = {r"\\times|\\cdot|\\ast|[×·⋅x]": "*", r"\\div|÷": "/", "[−–]": "-"}
SPELLINGS |= {
    r"\\left|\\right|\\displaystyle|\\[,;:!() ]|[$~\n\u00a0]": " ",
    r"\\[dt]?frac *(\d) *(\d)": r"((\1)/(\2))",
}


def judge_countdown(response: str, numbers: tuple[int, ...], target: int, strict: bool = False) -> bool:
    """Whether the response's answer is an expression of all of the numbers, each used once, that equals the target.

    With + - * /, brackets of any kind and signs, as Python, LaTeX or a pupil writes them; fractions are exact.
    "= target" may stand beside it. strict: the answer must be in a box.
    """
    answer = extract_answer(response, strict)
    if answer is None or len(answer) > MAX_LENGTH:
        return False
    sides = [evaluate(side) for side in answer.split("=")]
    return (
        all(sides)
        and any(sorted(used) == sorted(numbers) for _, used in sides)
        and all(value == target for value, _ in sides)
    )


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an expression and the numbers in it; None where it is none of + - * /, or divides by zero."""
    for spelling, plain in SPELLINGS.items():
        text = re.sub(spelling, plain, text)
    while text != (text := re.sub(r"\\[dt]?frac *\{([^{}]*)\} *\{([^{}]*)\}", r"((\1)/(\2))", text)):
        pass
    text = re.sub(r"[\]}]", ")", re.sub(r"[\[{]", "(", text))
    if not re.fullmatch(r"[\d+*/() -]+", text, re.ASCII):
        return None
    used: list[int] = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, op, right) if type(op) in OPERATIONS:
                return OPERATIONS[type(op)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.Constant(int(number)):
                used.append(number)
                return Fraction(number)
        raise ValueError("no such operation")

    try:
        return value(ast.parse(text.strip(), mode="eval").body), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
