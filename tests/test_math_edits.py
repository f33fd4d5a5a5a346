"""Edits of real gold answers whose verdict is known by construction: other spellings are right, other values wrong."""

import random
import re

import pytest
from test_math_answers import rows

from verifiers.math_answers import extract_answer, verify_math

INTEGER, FRACTION = r"-?\d+", r"(-?)\\frac\{(\d+)\}\{(\d+)\}"
TUPLE = r"\(([^(),]+),([^(),]+)\)"
INTERVAL = r"([\[(])([^\[\](),]+),([^\[\](),]+)([\])])"
MATRIX = r"\\begin\{pmatrix\}(.+)\\end\{pmatrix\}"


def swapped_ends(m: re.Match) -> str:
    return f"{'(' if m[1] == '[' else '['}{m[2]},{m[3]}{m[4]}"


# name: (which golds, how they are rewritten, in LaTeX inside a box unless it says "response")
SAME = {
    "dfrac": (r".*\\frac.*", lambda m: m[0].replace(r"\frac", r"\dfrac")),
    "tfrac": (r".*\\frac.*", lambda m: m[0].replace(r"\frac", r"\tfrac")),
    "slash": (FRACTION, lambda m: f"{m[1]}{m[2]}/{m[3]}"),
    "sign inside": (r"-\\frac\{(\d+)\}\{(\d+)\}", lambda m: rf"\frac{{-{m[1]}}}{{{m[2]}}}"),
    "not reduced": (FRACTION, lambda m: rf"{m[1]}\frac{{{3 * int(m[2])}}}{{{3 * int(m[3])}}}"),
    "bare digits": (r"\\frac\{(\d)\}\{(\d)\}", lambda m: rf"\frac{m[1]}{m[2]}"),
    "brackets sized": (r".*\(.*\).*", lambda m: m[0].replace("(", r"\left(").replace(")", r"\right)")),
    "blanks": (r"[^\\]*", lambda m: f"  {m[0]} "),
    "thin blanks": (TUPLE, lambda m: rf"({m[1]},\, {m[2]})"),
    "outer braces": (r".+", lambda m: f"{{{m[0]}}}"),
    "full stop": (r".*[\d})]", lambda m: f"{m[0]}."),
    "dollars": (r"[^$]+", lambda m: f"${m[0]}$"),
    "thousands": (r"(\d{1,3})(\d{3})", lambda m: f"{m[1]},{m[2]}"),
    "thousands in LaTeX": (r"(\d{1,3})(\d{3})", lambda m: f"{m[1]}{{,}}{m[2]}"),
    "trailing zeros": (INTEGER, lambda m: f"{m[0]}.0"),
    "unicode minus": (r"-\d+", lambda m: "\u2212" + m[0][1:]),
    "named": (INTEGER, lambda m: f"x = {m[0]}"),
    "unit": (INTEGER, lambda m: rf"{m[0]}\text{{ cm}}"),
    "money": (r"\d+", lambda m: rf"\${m[0]}"),
    "text": (r"\d+", lambda m: rf"\text{{{m[0]}}}"),
    "sqrt without braces": (r"(.*)\\sqrt\{(\d)\}", lambda m: rf"{m[1]}\sqrt{m[2]}"),
    "explicit product": (r"(\d+)\\sqrt\{(\d+)\}", lambda m: rf"{m[1]} \cdot \sqrt{{{m[2]}}}"),
    "product turned": (r"(\d+)\\sqrt\{(\d+)\}", lambda m: rf"\sqrt{{{m[2]}}} \times {m[1]}"),
    "root as power": (r"(\d*)\\sqrt\{(\d+)\}", lambda m: rf"{m[1] or 1} \cdot {m[2]}^{{1/2}}"),
    "terms turned": (r"([\da-z^]+)\+([\da-z^]+)", lambda m: f"{m[2]}+{m[1]}"),
    "list turned": (r"([^,()\[\]{}]+),(?!\\!|\d{3})([^,()\[\]{}]+)", lambda m: f"{m[2]}, {m[1]}"),
    "infinity signed": (r".*[^+]\\infty\)", lambda m: m[0].replace(r"\infty)", r"+\infty)")),
    "matrix brackets": (MATRIX, lambda m: rf"\begin{{bmatrix}}{m[1]}\end{{bmatrix}}"),
    "degrees left out": (r"(\d+)\^\\circ", lambda m: m[1]),
    "percent sign": (r"(\d+)\\%", lambda m: m[1]),
    "response: sentence": (r".+", lambda m: rf"Hence the result is $\boxed{{{m[0]}}}$, as claimed."),
    "response: last box": (r".+", lambda m: rf"First \boxed{{17}}. But no: \[\boxed{{{m[0]}}}.\]"),
    "response: hashes": (INTEGER, lambda m: f"So it is {m[0]}\n#### {m[0]}"),
    "response: thoughts": (r".+", lambda m: rf"<think>\boxed{{99}}</think>\boxed{{{m[0]}}}"),
}
DIFFERENT = {
    "plus one": (INTEGER, lambda m: str(int(m[0]) + 1)),
    "other sign": (r"\d+", lambda m: f"-{m[0]}" if int(m[0]) else "1"),
    "times ten": (INTEGER, lambda m: f"{m[0]}0" if int(m[0]) else "10"),
    "hundredth": (r"[1-9]\d*", lambda m: f"{int(m[0]) / 100}"),
    "almost": (INTEGER, lambda m: f"{m[0]}.0001"),
    "upside down": (r"\\frac\{(\d+)\}\{(\d+)\}", lambda m: rf"\frac{{{m[2]}}}{{{m[1]}}}" if m[1] != m[2] else "2"),
    "numerator alone": (r"\\frac\{(\d+)\}\{(\d+)\}", lambda m: m[1] if m[2] != "1" else "-1"),
    "rounded": (r"\\frac\{(\d+)\}\{(?:3|7|9|11|13)\}", lambda m: f"{int(m[1]) / int(m[0][:-1].split('{')[-1]):.4f}"),
    "braces merged": (r"\\frac\{(\d)(\d)\}\{(\d)\}", lambda m: rf"\frac{{{m[1]}}}{{{m[2]}{m[3]}}}"),
    "no root": (r"(\d*)\\sqrt\{(\d+)\}", lambda m: m[1] + " \\cdot " * bool(m[1]) + m[2]),
    "root rounded": (r"\\sqrt\{(\d+)\}", lambda m: f"{int(m[1]) ** 0.5:.6f}"),
    "other exponent": (r"(.*[a-z])\^2(.*)", lambda m: f"{m[1]}^3{m[2]}"),
    "other letter": (r"([^a-z\\]*)x([^a-z\\]*)", lambda m: f"{m[1]}q{m[2]}"),
    "term dropped": (r"([^()\[\]{},\\=]+)\+([1-9]\d*)", lambda m: m[1]),
    "item dropped": (r"([^,()\[\]{}]+),([^,()\[\]{}]+)", lambda m: m[1]),
    "item added": (r"[^,()\[\]{}]+,[^,()\[\]{}]+", lambda m: f"{m[0]}, 1001"),
    "guesses": (INTEGER, lambda m: f"{m[0]} or {int(m[0]) + 1}"),
    "several boxes": (INTEGER, lambda m: rf"{m[0]}}} and \boxed{{{int(m[0]) + 1}"),
    "tuple turned": (TUPLE, lambda m: f"({m[2]},{m[1]})" if m[1].strip() != m[2].strip() else "(1,2,3)"),
    "end opened": (INTERVAL, swapped_ends),
    "infinity negative": (r"(.*)[^-]\\infty\)", lambda m: m[0].replace(r"\infty)", r"-\infty)")),
    "entry changed": (MATRIX, lambda m: m[0].replace(r"\end", r"+1\end")),
    "row dropped": (r"\\begin\{pmatrix\}(.+?)\\\\(.+)\\end\{pmatrix\}", lambda m: m[0].replace(m[1] + r"\\", "", 1)),
    "other letter of a choice": (r"\\text\{\(?([A-E])\)?\}", lambda m: "ABCDEA"["ABCDE".index(m[1]) + 1]),
    "response: box left open": (r".+", lambda m: rf"\boxed{{17}} no, \boxed{{{m[0]}"),
    "response: only thought": (r".+", lambda m: rf"<think>\boxed{{{m[0]}}}</think> I cannot say."),
    "response: then another": (INTEGER, lambda m: rf"\boxed{{{m[0]}}}. Wait: \boxed{{{int(m[0]) + 2}}}"),
}


def golds() -> list[str]:
    answers = [extract_answer(row["correct_answer"]) for row in rows("data/MATH.csv")]
    answers += [row["answer"] for row in rows("data/math/math500.jsonl")]
    return sorted({answer for answer in answers if answer})


@pytest.mark.parametrize("expected", [True, False], ids=["other spelling", "other value"])
def test_edits_of_real_answers(expected):
    """No edit that changes the value is accepted; of the spellings that do not, at most one in a hundred is missed."""
    wrong, total = [], 0
    for name, (pattern, rewrite) in (SAME if expected else DIFFERENT).items():
        fitting = [m for gold in golds() if (m := re.fullmatch(pattern, gold))]
        for m in random.Random(name).sample(fitting, min(100, len(fitting))):
            text = rewrite(m)
            response = text if name.startswith("response") else rf"\boxed{{{text}}}"
            total += 1
            if verify_math(response, m[0]) != expected:
                wrong.append((name, m[0], text))
    print(f"{total - len(wrong)} of {total} edits judged rightly")
    assert total > 1000
    assert len(wrong) <= (0.01 * total if expected else 0), wrong
