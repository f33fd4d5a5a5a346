"""The `conventions` problems: functions of a list whose text leaves up to two questions open that only asserts settle.

    Write pens(v). Take the list v and:
    1:keep under 7
    2:largest

Whether 7 itself is kept, and what is given where nothing is left, is drawn for each problem, whatever its text. A
problem's level is how many of the two are open (0, 1, 2); the others are said in words. Of its three tests the first,
which models see, holds under every answer to both; the second holds under one answer to the first question, the third
under one to the second.

So at level 2 no first attempt is right in more than .25 of all problems, nor a second one that was told nothing; told
that the first is wrong, .50; told one assert that fails, .75; told all of them, 1 (tests/test_conventions.py plays it).
"""

import itertools
import random
from collections.abc import Callable
from functools import cache

from problems import Problem
from problems.arithmetic import THINGS, in_test_split

# (what a step is called, how its open question is answered in words, its line of the program under each answer)
KEEPING = (
    (
        "keep under {n}",
        ("without {n}", "with {n}"),
        ("v = [x for x in v if x < {n}]", "v = [x for x in v if x <= {n}]"),
    ),
    ("keep over {n}", ("without {n}", "with {n}"), ("v = [x for x in v if x > {n}]", "v = [x for x in v if x >= {n}]")),
)
GIVING = (
    ("largest", ("0 if none", "-1 if none"), ("return max(v, default=0)", "return max(v, default=-1)")),
    ("smallest", ("0 if none", "-1 if none"), ("return min(v, default=0)", "return min(v, default=-1)")),
    ("sorted", ("rising", "falling"), ("return sorted(v)", "return sorted(v)[::-1]")),
    ("half the sum", ("rounded down", "rounded up"), ("return sum(v) // 2", "return -(-sum(v) // 2)")),
    ("middle", ("left of two", "right of two"), ("return v[(len(v) - 1) // 2]", "return v[len(v) // 2]")),
    ("how many", ("each time", "each once"), ("return len(v)", "return len(set(v))")),
)
# Where n alone decides the least of what is under n, it is the only number: no list tells both questions apart.
INSEPARABLE = {("keep under {n}", "smallest"), ("keep over {n}", "largest")}
ANSWERS = tuple(itertools.product((0, 1), repeat=2))  # to the two questions


def program_text(name: str, lines: list[str]) -> str:
    return f"def {name}(v):\n" + "".join(f"    {line}\n" for line in lines)


@cache
def as_function(lines: tuple[str, str]) -> Callable[[list[int]], object]:
    """The function of a list that two lines of a program are; None where the list has no middle."""
    namespace: dict = {}
    exec(program_text("f", list(lines)), namespace)

    def value(v: list[int]):
        try:
            return namespace["f"](v)
        except IndexError:
            return None

    return value


@cache
def other_programs(n: int) -> tuple[Callable, ...]:
    return tuple(
        as_function((a.format(n=n), b))
        for _, _, keeping in KEEPING
        for _, _, giving in GIVING
        for a in keeping
        for b in giving
    )


def inputs_of_tests(pairs: list[list[str]], right: tuple[int, int], n: int, rng: random.Random) -> list[list[int]]:
    """A list on which all four programs agree, one where the first answer decides alone, one where the second does.

    pairs: the lines of each step under both answers. No other program of these lines passes all three tests.
    """
    programs = {(a, b): as_function((pairs[0][a], pairs[1][b])) for a, b in ANSWERS}
    others = [
        programs[answers]
        for answers in ((1 - right[0], right[1]), (right[0], 1 - right[1]), (1 - right[0], 1 - right[1]))
    ]
    wanted = ((False, False, False), (True, False, True), (False, True, True))
    while True:
        found: dict[tuple[bool, ...], list[int]] = {}
        while not all(key in found for key in wanted):
            v = [rng.randint(max(1, n - 5), n + 5) for _ in range(rng.randint(0, 5))]
            value, values = programs[right](v), [program(v) for program in others]
            if value is not None and None not in values and (v or found):  # the first has elements
                found.setdefault(tuple(other != value for other in values), v)
        inputs = [found[key] for key in wanted]
        passing = [program for program in other_programs(n) if all(program(v) == programs[right](v) for v in inputs)]
        if len(passing) == 1:
            return inputs


def convention_steps(rng: random.Random) -> tuple[str, list[str], list[list[str]], tuple[int, int], int, int]:
    """(name of the function, words of its steps, their lines under both answers, the right answers, level, n)."""
    name, n, level, right = rng.choice(THINGS), rng.randint(3, 29), rng.randint(0, 2), rng.choice(ANSWERS)
    keeping, said = rng.choice(KEEPING), rng.sample((0, 1), 2 - level)
    steps = [keeping, rng.choice([giving for giving in GIVING if (keeping[0], giving[0]) not in INSEPARABLE])]
    words = [f"{step}, {ways[right[i]]}" if i in said else step for i, (step, ways, _) in enumerate(steps)]
    pairs = [[line.format(n=n) for line in lines] for _, _, lines in steps]
    return name, [word.format(n=n) for word in words], pairs, right, level, n


def question_text(name: str, words: list[str]) -> str:
    return f"Write {name}(v). Take the list v and:\n" + "\n".join(f"{i}:{step}" for i, step in enumerate(words, 1))


def to_problem(
    name: str, words: list[str], pairs, right, level: int, n: int, shown: int, rng, number: str = ""
) -> Problem:
    """The problem of these steps, see convention_steps; shown: how many of its tests a model sees."""
    lines = [pair[answer] for pair, answer in zip(pairs, right)]
    value = as_function(tuple(lines))
    return Problem(
        question_text(name, words),
        answer="",
        solution=program_text(name, lines),
        tests=tuple(f"assert {name}({v}) == {value(v)}" for v in inputs_of_tests(pairs, right, n, rng)),
        tests_in_prompt=shown,
        level=level,
        subject="conventions",
        id=number,
    )


@cache
def load_conventions(split: str, limit: int, seed: int, tests_in_prompt: int = 1) -> tuple[Problem, ...]:
    """`limit` distinct problems of a split; the two splits share no question, whatever the seeds."""
    rng = random.Random(f"conventions {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < limit:
        steps = convention_steps(rng)
        question = question_text(*steps[:2])
        if question not in problems and in_test_split(question) == (split == "test"):
            number = f"conventions/{split}/{len(problems) + 1}"
            problems[question] = to_problem(*steps, tests_in_prompt, rng, number)
    return tuple(problems.values())
