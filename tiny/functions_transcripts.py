"""What the embedded model reads and writes about the `functions` problems, mistakes included; see pretrain.py.

The three mistakes of a step: min and max are swapped, another line is confused with its like (x - 5 with 5 - x), the
number slips by one of args.slips.

Measured with the defaults on 400 test problems at T = 1: attempts .41 right; feedback .57 exactly right; refinements
.46 right with that feedback, .62 with true and .02 with wrong feedback; self-corrections .31. 4 minutes of CPU time.
"""

import random
import re
from itertools import zip_longest

import common
from problems.functions import function_problem, load_functions, program_line, program_text, to_problem

load = load_functions
TOKENS = [common.SOLVE_CODE, common.STUDENT, common.CHECK_CODE, common.FEEDBACK, common.REFINE_CODE]
TOKENS += [common.SELF_CORRECT_CODE]
FLAGS = {  # of pretrain.py, where they are not as for arithmetic
    "clean_steps": 800,
    "clean_batch": (8, 28, 12, 4, 0),
    # Comparing digits takes longer to learn than comparing words: at 0.1 slips, three of four still passed after 900
    # steps, and the doubt made right lines look wrong.
    "read_mistakes": (0.4, 0.3, 0.02),
    "read_errors": (0.15, 0.5),
    "mistakes": (0.7, 0.12, 0.015),
    # Few misses: at (0.03, 0.15), reinforcement learning led to feedback that writes out the right program and hardly
    # ever says "wrong" (13 % of the lines that differ from the attempt's, after 40 iterations).
    "check_errors": (0.1, 0.05),
    "self_check_errors": (0.4, 0.97),
    "slips": (-1, 1, 10),
}
Rates = tuple[float, ...]  # probabilities, in the order of the flag
Task = tuple[str, list[str]]  # name of the function, steps


def new_problem(rng: random.Random) -> common.Problem:
    return to_problem(*function_problem(rng), tests_in_prompt=1)


def read_problem(problem: common.Problem) -> Task:
    return re.match(r"Write (\w+)", problem.question)[1], re.findall(r"^\d:(.+)$", problem.question, re.M)


def read_attempt(text: str) -> list[str]:
    return re.findall(r"^    (x = .+)$", text, re.M)


def written_line(step: str, mistakes: Rates, args, rng: random.Random) -> str:
    """What a careless student writes for one step."""
    if rng.random() < mistakes[0 if step.startswith(("at most", "at least")) else 1]:
        return program_line(step, confused=True)
    words = step.rstrip("0123456789")
    if words != step and rng.random() < mistakes[2]:
        return program_line(f"{words}{int(step[len(words) :]) + rng.choice(args.slips)}")
    return program_line(step)


def attempt(task: Task, given: list[str], mistakes: Rates, args, rng: random.Random) -> list[str]:
    """The lines of an attempt, which takes over the `given` ones and goes on from there."""
    return [*given, *(written_line(step, mistakes, args, rng) for step in task[1][len(given) :])]


def check(task: Task, lines: list[str], errors: Rates, args, rng: random.Random) -> tuple[list[str], bool]:
    """(lines written anew, whether the last one contradicts the attempt's); it stops at a contradiction.

    errors: how often a right line is called wrong, a wrong one is passed.
    """
    for i, (step, line) in enumerate(zip_longest(task[1], lines[: len(task[1])])):
        right = program_line(step)
        if line == right and rng.random() < errors[0]:
            return [*lines[:i], written_line(step, (1, 1, 1), args, rng)], True
        if line is None or line != right and rng.random() >= errors[1]:
            return [*lines[:i], right], True
    return lines, False


def attempt_text(task: Task, lines: list[str]) -> str:
    return f"```python\n{program_text(task[0], lines)}```"


def feedback_text(lines: list[str], contradicts: bool) -> str:
    return "\n".join(f"    {line}" for line in lines) + (" wrong" if contradicts else "\nall ok")
