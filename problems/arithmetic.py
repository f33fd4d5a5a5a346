"""The embedded problems: short chains of arithmetic, generated from a seed, that a tiny model can learn in minutes."""

import random
import zlib

from problems import Problem

NAMES = ("Ann", "Ben", "Cal", "Dan", "Eva", "Fay", "Gus", "Ida", "Jon", "Kim", "Leo", "Mia", "Ned", "Pam", "Sam", "Tom")
THINGS = ("keys", "pens", "cups", "nuts", "eggs", "figs", "hats", "jars", "maps", "pins", "pots", "toys")


def in_test_split(question: str) -> bool:
    """Whether a question belongs to the test split of a source that has no splits of its own (about one in ten).

    It depends on the text alone, so the same question is on the same side for every seed, order and file.
    """
    return split_key(question)[0] == 0


def split_key(question: str) -> tuple[int, int]:
    """What decides the split: zero in the first place is test."""
    code = zlib.crc32(question.encode())
    return code % 10, code


def arithmetic_chain(start: int, steps: list[str]) -> list[int]:
    """The value after each step ("gets 5", "loses 6", "doubles", "halves") of an embedded problem."""
    values = []
    for step in steps:
        word, _, number = step.partition(" ")
        if word == "gets":
            start += int(number)
        elif word == "loses":
            start -= int(number)
        elif word == "doubles":
            start *= 2
        else:
            start //= 2  # only even values are halved
        values.append(start)
    return values


def arithmetic_problem(rng: random.Random) -> tuple[str, int, list[str]]:
    """One embedded problem of 3 to 5 steps, every value in 0..99: (question, start value, steps)."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start = value = rng.randint(10, 99)
    steps: list[str] = []
    for _ in range(rng.randint(3, 5)):
        choices = [f"gets {n}" for n in range(2, 10) if value + n <= 99]
        choices += [f"loses {n}" for n in range(2, 10) if value - n >= 0]
        choices += ["doubles"] * 4 * (value <= 49) + ["halves"] * 4 * (value % 2 == 0)
        steps.append(rng.choice(choices))
        value = arithmetic_chain(value, steps[-1:])[0]
    lines = "\n".join(f"{i}:{step}" for i, step in enumerate(steps, 1))
    return f"{name} has {start} {thing}.\n{lines}\nHow many now?", start, steps


def socratic_line(number: int, step: str, value: int) -> str:
    """A line of a solution that asks for a step before it gives its value."""
    return f"{number}:{step}? {value}"


def load_arithmetic(split: str, limit: int, seed: int, socratic: bool = False) -> list[Problem]:
    """`limit` distinct embedded problems of a split; the two splits share no question, whatever the seeds.

    socratic: the same problems, with solutions that ask for each step, as GSM8K has its solutions twice.
    """
    rng = random.Random(f"arithmetic {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < limit:
        question, start, steps = arithmetic_problem(rng)
        if question in problems or in_test_split(question) != (split == "test"):
            continue
        values = arithmetic_chain(start, steps)
        lines = [f"{i}:{value}" for i, value in enumerate(values, 1)]
        if socratic:
            lines = [socratic_line(i, *pair) for i, pair in enumerate(zip(steps, values), 1)]
        solution = "\n".join([*lines, f"\\boxed{{{values[-1]}}}"])
        problems[question] = Problem(
            question,
            str(values[-1]),
            solution,
            level=len(steps),
            subject="arithmetic",
            id=f"arithmetic/{split}/{len(problems) + 1}",
        )
    return list(problems.values())
