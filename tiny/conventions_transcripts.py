"""What the embedded model reads and writes about the `conventions` problems, mistakes included; see pretrain.py.

The three mistakes of a step: what the text says of its question is not heeded, the step is confused with its like
(under with over), its number slips by one of args.slips. What the text leaves open is a coin's toss for a student; the
checker sees it where the tests say so, and where they only say "wrong" it guesses.

Measured with the defaults on 400 test problems at T = 1, told all tests: attempts .51 right; feedback .60 exactly so;
refinements .68 right with that feedback, .94 with true and .23 with wrong feedback; self-corrections .50. 26 minutes of
CPU time.
"""

import random
import re

import common
from problems.conventions import (
    GIVING,
    KEEPING,
    as_function,
    convention_steps,
    load_conventions,
    program_text,
    to_problem,
)

load = load_conventions
TOKENS = [common.SOLVE_CODE, common.STUDENT, common.CHECK_CODE, common.FEEDBACK, common.REFINE_CODE]
TOKENS += [common.SELF_CORRECT_CODE, common.RESULTS, *common.VERDICTS]
FLAGS = {  # of pretrain.py, where they are not as for arithmetic
    "clean_steps": 1200,
    "clean_batch": (8, 28, 12, 4, 0),
    "read_mistakes": (0.2, 0.15, 0.05),
    "read_errors": (0.15, 0.3),
    "mistakes": (0.1, 0.05, 0.015),
    "check_errors": (0.1, 0.25),
    "self_check_errors": (0.4, 0.97),
    "slips": (-1, 1, 10),
}
LEVELS = ("none", "verdict", "shown", "all")  # of --test-results
LIKE = {"under": "over", "over": "under", "largest": "smallest", "smallest": "largest"}
Rates = tuple[float, ...]  # probabilities, in the order of the flag
Task = tuple[str, list[str], common.Problem]  # name of the function, words of its steps, and the whole problem


def new_problem(rng: random.Random) -> common.Problem:
    return to_problem(*convention_steps(rng), 1, rng)


def read_problem(problem: common.Problem) -> Task:
    words = re.findall(r"^\d:(.+)$", problem.question, re.M)
    return re.match(r"Write (\w+)", problem.question)[1], words, problem


def read_attempt(text: str) -> list[str]:
    return re.findall(r"^    (v = .+|return .+)$", text, re.M)


def lines_of(step: str) -> list[str]:
    """The lines that the words of a step allow: one where they answer its question, else two."""
    for kinds, number in ((KEEPING, r"(?P<n>\d+)"), (GIVING, "")):
        for words, ways, lines in kinds:
            found = re.match(words.replace("{n}", number) + r"(?:, (?P<way>.+))?$", step)
            if found:
                n = found.groupdict().get("n")
                said = [way.format(n=n) for way in ways]
                allowed = [line.format(n=n) for line in lines]
                return [allowed[said.index(found["way"])]] if found["way"] else allowed
    raise ValueError(step)


def bare(step: str) -> str:
    """A step without the answer to its question."""
    return step.split(",")[0]


def confused(step: str) -> str:
    return " ".join(LIKE.get(word, word) for word in step.split())


def written_line(step: str, mistakes: Rates, args, rng: random.Random) -> str:
    """What a careless student writes for one step."""
    if rng.random() < mistakes[0]:
        step = bare(step)
    if rng.random() < mistakes[1]:
        step = confused(bare(step))
    if rng.random() < mistakes[2]:
        step = re.sub(r"\d+", lambda n: str(int(n[0]) + rng.choice(args.slips)), bare(step))
    return rng.choice(lines_of(step))


def attempt(task: Task, given: list[str], mistakes: Rates, args, rng: random.Random) -> list[str]:
    """The lines of an attempt, which takes over the `given` ones and goes on from there."""
    return [*given, *(written_line(step, mistakes, args, rng) for step in task[1][len(given) :])]


def values(lines: list[str], problem: common.Problem) -> list[tuple[str, bool]]:
    """What a program of two lines gives in each test, and whether that passes."""
    found = []
    for test in problem.tests:
        inputs, expected = re.fullmatch(r"assert \w+\((.+)\) == (.+)", test).groups()
        try:
            value = as_function(tuple(lines))(eval(inputs))
        except Exception:  # what a model wrote
            value = None
        found.append(("IndexError: list index out of range" if value is None else repr(value), repr(value) == expected))
    return found


def results(task: Task, lines: list[str], level: str) -> str:
    """What --test-results tells of a program."""
    found = values(lines, task[2])
    if level in ("none", "verdict"):
        return common.VERDICTS[all(passed for _, passed in found)] if level == "verdict" else ""
    shown = zip(task[2].tests, found[: 1 if level == "shown" else None])
    rows = [f"{test} -> {value}: {'passes' if passed else 'fails'}" for test, (value, passed) in shown]
    return common.RESULTS + "\n".join(rows)


def check(task: Task, lines: list[str], errors: Rates, args, rng: random.Random, level: str = "none") -> tuple:
    """(lines written anew, whether each contradicts the attempt's); level: of --test-results.

    errors: how often a right line is called wrong, a wrong one is passed.
    """
    right = read_attempt(task[2].solution)
    lines = [*lines, *right[len(lines) :]][:2]
    allowed = [lines_of(step) for step in task[1]]
    wrong = [line not in choices for line, choices in zip(lines, allowed)]
    passed = [passed for _, passed in values(lines, task[2])]
    if level == "all" and not any(wrong):
        wrong = [not passed[1], not passed[2]]
    elif level == "verdict" and not all(passed) and not any(wrong):
        wrong = rng.choice(
            [[a, b] for a in (0, 1) for b in (0, 1) if a + b and a < len(allowed[0]) and b < len(allowed[1])]
        )
    written = []
    for line, choices, answer, doubted in zip(lines, allowed, right, wrong):
        if rng.random() < errors[1 if doubted else 0]:
            doubted = not doubted
        others = [choice for choice in choices if choice != line]
        written.append((answer if answer in others else rng.choice(others or [line])) if doubted else line)
    return written, [new != line for new, line in zip(written, lines)]


def attempt_text(task: Task, lines: list[str]) -> str:
    return f"```python\n{program_text(task[0], lines)}```"


def feedback_text(lines: list[str], contradicts: list[bool]) -> str:
    text = "\n".join(f"    {line}" + " wrong" * doubted for line, doubted in zip(lines, contradicts))
    return text if any(contradicts) else f"{text}\nall ok"
