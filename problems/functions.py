"""The embedded code problems: short functions of one integer, generated from a seed, that a tiny model can learn."""

import random
from collections.abc import Callable
from functools import cache

from problems import Problem
from problems.arithmetic import THINGS, in_test_split

# How a step is worded: (its line of the program, a line that it can be confused with, the numbers n it comes with).
STEPS = {
    "add": ("x = x + {n}", "x = x - {n}", range(2, 10)),
    "subtract": ("x = x - {n}", "x = {n} - x", range(2, 10)),
    "subtract from": ("x = {n} - x", "x = x - {n}", range(2, 30)),
    "double": ("x = x * 2", "x = x ** 2", range(0)),
    "at most": ("x = min(x, {n})", "x = max(x, {n})", range(2, 30)),
    "at least": ("x = max(x, {n})", "x = min(x, {n})", range(2, 30)),
    "remainder by": ("x = x % {n}", "x = x // {n}", range(2, 10)),
    "divide by": ("x = x // {n}", "x = x % {n}", range(2, 10)),
    "negate": ("x = -x", "x = abs(x)", range(0)),
    "absolute value": ("x = abs(x)", "x = -x", range(0)),
}
INPUTS = range(-30, 41)  # of the tests


@cache
def program_line(step: str, confused: bool = False) -> str:
    """The line of the program for a step such as "at most 20", or the line it can be confused with."""
    words = step.rstrip("0123456789")
    return STEPS[words.rstrip()][confused].format(n=step[len(words) :])


@cache
def as_function(line: str) -> Callable[[int], int]:
    """What one of the lines above does to x."""
    return eval("lambda x: " + line.removeprefix("x = "))


def run_lines(lines: list[str], x: int) -> int:
    for line in lines:
        x = as_function(line)(x)
    return x


def one_step_off(steps: list[str]) -> list[list[str]]:
    """Programs with one mistake: a step is left out, confused with another one, or has a number one too high or low."""
    lines = [program_line(step) for step in steps]
    programs = []
    for i, step in enumerate(steps):
        words = step.rstrip("0123456789")
        numbers = [int(step[len(words) :]) + off for off in (-1, 1)] if words != step else []
        wrong = [[], [program_line(step, confused=True)], *([program_line(f"{words}{n}")] for n in numbers)]
        programs += [lines[:i] + line + lines[i + 1 :] for line in wrong]
    return programs


def function_problem(rng: random.Random) -> tuple[str, list[str], list[int]]:
    """One embedded problem of 3 to 5 steps: (name of the function, steps, inputs of its four tests).

    The last three tests, those that a model does not see by default, fail for every program that is one step off.
    """
    name, size = rng.choice(THINGS), rng.randint(3, 5)
    while True:
        words = [rng.choice(list(STEPS)) for _ in range(size)]
        steps = [f"{w} {rng.choice(STEPS[w][2])}" if STEPS[w][2] else w for w in words]
        lines, wrong = [program_line(step) for step in steps], one_step_off(steps)
        for _ in range(8 * all(a != b for a, b in zip(words, words[1:]))):
            inputs = rng.sample(INPUTS, 4)
            outputs = [run_lines(lines, x) for x in inputs]
            if all(any(run_lines(p, x) != y for x, y in zip(inputs[1:], outputs[1:])) for p in wrong):
                return name, steps, inputs


def question_text(name: str, steps: list[str]) -> str:
    return f"Write {name}(x). Take x and:\n" + "\n".join(f"{i}:{step}" for i, step in enumerate(steps, 1))


def program_text(name: str, lines: list[str]) -> str:
    return f"def {name}(x):\n" + "".join(f"    {line}\n" for line in [*lines, "return x"])


def to_problem(name: str, steps: list[str], inputs: list[int], tests_in_prompt: int, number: str = "") -> Problem:
    lines = [program_line(step) for step in steps]
    return Problem(
        question_text(name, steps),
        answer="",
        solution=program_text(name, lines),
        tests=tuple(f"assert {name}({x}) == {run_lines(lines, x)}" for x in inputs),
        tests_in_prompt=tests_in_prompt,
        level=len(steps),
        subject="functions",
        id=number,
    )


@cache
def load_functions(split: str, limit: int, seed: int, tests_in_prompt: int = 1) -> tuple[Problem, ...]:
    """`limit` distinct embedded problems of a split; the two splits share no question, whatever the seeds."""
    rng = random.Random(f"functions {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < limit:
        name, steps, inputs = function_problem(rng)
        question = question_text(name, steps)
        if question in problems or in_test_split(question) != (split == "test"):
            continue
        number = f"functions/{split}/{len(problems) + 1}"
        problems[question] = to_problem(name, steps, inputs, tests_in_prompt, number)
    return tuple(problems.values())
