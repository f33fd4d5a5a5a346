"""What the embedded model reads and writes about the `arithmetic` problems, mistakes included; see pretrain.py.

The three mistakes of a step: a carry is forgotten, a borrow is forgotten, the result slips by one of args.slips.

Measured with the defaults on 400 test problems at T = 1: attempts .39 right; feedback .57 exactly right; refinements
.50 right with that feedback, .68 with true and .13 with wrong feedback; self-corrections .41. 10 minutes of CPU time.
"""

import random
import re

import common
from problems.arithmetic import arithmetic_chain, arithmetic_problem, load_arithmetic, socratic_line

load = load_arithmetic
TOKENS = [common.SOLVE, common.STUDENT, common.CHECK, common.FEEDBACK, common.REFINE, common.SELF_CORRECT]
Rates = tuple[float, ...]  # probabilities, in the order of the flag
Task = tuple[int, list[str]]  # start value, steps


def new_problem(rng: random.Random) -> common.Problem:
    return common.Problem(arithmetic_problem(rng)[0], answer="")


def read_problem(problem: common.Problem) -> Task:
    question = problem.question
    return int(re.findall(r"\d+", question)[0]), re.findall(r"^\d:(.+)$", question, re.M)


def read_attempt(text: str) -> list[int]:
    return [int(value) for value in re.findall(r"^\d:(-?\d+)$", text, re.M)]


def written_value(value: int, step: str, mistakes: Rates, args, rng: random.Random) -> int:
    """What a careless student writes for one step from `value`."""
    word, _, number = step.partition(" ")
    right = arithmetic_chain(value, [step])[0]
    carry = (word == "gets" and value % 10 + int(number) >= 10) or (word == "doubles" and value % 10 >= 5)
    borrow = (word == "loses" and value % 10 < int(number) <= value) or (word == "halves" and value // 10 % 2 == 1)
    if carry and rng.random() < mistakes[0]:
        return right - 10
    if borrow and rng.random() < mistakes[1]:
        return right + (10 if word == "loses" else -5)
    return right + rng.choice(args.slips) * (rng.random() < mistakes[2])


def attempt(task: Task, given: list[int], mistakes: Rates, args, rng: random.Random) -> list[int]:
    """The values of an attempt, which takes over the `given` ones and goes on from there."""
    start, steps = task
    values = list(given)
    for step in steps[len(given) :]:
        values.append(written_value(values[-1] if values else start, step, mistakes, args, rng))
    return values


def check(task: Task, values: list[int], errors: Rates, args, rng: random.Random) -> tuple[list[int], bool]:
    """(values recomputed line by line, whether the last one contradicts the attempt's); it stops at a contradiction.

    errors: how often a right step is called wrong, a wrong one is passed.
    """
    start, steps = task
    for i, (before, step, value) in enumerate(zip([start, *values], steps, values)):
        right = arithmetic_chain(before, [step])[0]
        if value == right and rng.random() < errors[0]:
            return [*values[:i], written_value(before, step, (1, 1, 1), args, rng)], True
        if value != right and rng.random() >= errors[1]:
            return [*values[:i], right], True
    return values, False


def lines(values: list[int]) -> str:
    return "\n".join(f"{i}:{value}" for i, value in enumerate(values, 1))


def attempt_text(task: Task, values: list[int]) -> str:
    return f"{lines(values)}\n\\boxed{{{values[-1]}}}"


def styled_text(task: Task, values: list[int], rng: random.Random) -> str:
    """An attempt each of whose lines asks for its step first, states its value alone, or is left out.

    How often it does each is drawn for the whole attempt, so that attempts differ in style and length.
    """
    rates = [rng.expovariate(rate) for rate in (1, 1, 2)]
    styles = rng.choices(("socratic", "plain", "left out"), rates, k=len(values))
    lines = [
        socratic_line(i, step, value) if style == "socratic" else f"{i}:{value}"
        for i, (style, step, value) in enumerate(zip(styles, task[1], values), 1)
        if style != "left out"
    ]
    return "\n".join([*lines, f"\\boxed{{{values[-1]}}}"])


def feedback_text(values: list[int], contradicts: bool) -> str:
    return lines(values) + (" wrong" if contradicts else "\nall ok")
