"""No response takes a verifier quadratic time: what is four times as long takes about four times as long.

The lengths are where the bounds of the verifiers end. Times below FLOOR seconds are not compared: nothing is gained by
a response that costs so little.
"""

import itertools
import time

import pytest

from verifiers.code_answers import extract_code
from verifiers.math_answers import judge_math

FLOOR = 0.03
FILLERS = [" ", "\n", "\t", "$", "{", "}", "\\", "(", "a", "1", ",", ".", "\\boxed{1} ", "\\boxed{0+1 ", "\\text{"]
FILLERS += [
    "\\text{a}",
    "```",
    "~~~",
    "```\n",
    "and ",
    "-",
    "####",
    "answer is ",
    "**",
    "`",
    "A:",
    "=",
    "x_",
    "1,",
    "\\frac{",
]
FILLERS += [
    "1 ",
    "ab ",
    "abcd ",
    "\\sqrt",
    "|",
    "\\\\",
    "\\pm",
    "\\left(",
    "^{",
    "degrees ",
    "1,000",
    "\\,",
    "\\text{ cm}",
    "/a",
]
PREFIXES = [
    "",
    "\\boxed{1",
    "\\boxed{1 ",
    "\\boxed{1\\text{",
    "\\boxed{",
    "```",
    "The answer is $",
    "\\boxed{1} " * 40 + "\\boxed{0+1",
]
SUFFIXES = ["", "!", "}", "}}", "+0}", "$", "cm}", "\\boxed{2}"]
NESTED = [
    ("{", "}"),
    ("(", ")"),
    ("\\{", "\\}"),
    ("\\frac{", "}{2}"),
    ("\\text{", "}"),
    ("\\boxed{", "}"),
    ("2^{", "}"),
]


def seconds(function, text: str) -> float:
    """The shortest of three times of this process: what else the machine does makes none shorter."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function(text)
        times.append(time.process_time() - start)
        if times[-1] < FLOOR:
            break
    return min(times)


def math(text: str):
    return judge_math(text, "12")


@pytest.mark.parametrize(("function", "length"), [(math, 1_590), (math, 19_990), (extract_code, 49_990)])
def test_time_grows_with_the_length(function, length):
    """Red for a pattern that tries every way to share blanks between two places, or work that no budget counts."""
    slow = []
    shapes = [
        lambda n, p=p, f=f, s=s: p + f * (n // len(f)) + s for p, f, s in itertools.product(PREFIXES, FILLERS, SUFFIXES)
    ]
    shapes += [
        lambda n, o=o, c=c: "\\boxed{" + o * (n // len(o + c)) + "1" + c * (n // len(o + c)) + "}" for o, c in NESTED
    ]
    for shape in shapes:
        for _ in range(4):  # a busy machine makes one time in a hundred longer; what is quadratic always is
            long = seconds(function, shape(length))
            if long <= FLOOR or long <= 8 * (short := seconds(function, shape(length // 4))):
                break
        else:
            slow.append((shape(20), short, long))
    assert not slow
