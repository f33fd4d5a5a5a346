"""What the embedded model reads and writes about the `countdown` problems, mistakes included; see pretrain.py.

An attempt is an expression alone. Feedback works it out, step by step, and says whether its value is the target. The
three mistakes of an attempt: it is any expression of the numbers, one of its operations is another, one of its numbers
slips by one of args.slips.

Measured with the defaults on 400 test problems at T = 1: attempts .20 right (.92 of those with two numbers, .21 with
three, .11 with four); feedback .60 exactly right; refinements .21 right with that feedback, .27 with true and .10 with
wrong feedback; self-corrections .18. 30 minutes of CPU time.
"""

import random
import re

import common
from problems.countdown import Node, countdown_problem, load_countdown, random_node, to_problem, value, written

load = load_countdown
TOKENS = [common.SOLVE, common.STUDENT, common.CHECK, common.FEEDBACK, common.REFINE, common.SELF_CORRECT]
FLAGS = {  # of pretrain.py, where they are not as for arithmetic
    "clean_batch": (24, 20, 8, 2, 0, 0),
    "read_mistakes": (0.3, 0.3, 0.05),
    "read_errors": (0.05, 0.05),
    "mistakes": (0.1, 0.05, 0.02),
    "check_errors": (0.15, 0.1),
    "self_check_errors": (0.4, 0.97),
    "slips": (-1, 1),
}
Rates = tuple[float, ...]  # probabilities, in the order of the flag
Task = common.Problem


def new_problem(rng: random.Random) -> common.Problem:
    return to_problem(*countdown_problem(rng))


def read_problem(problem: common.Problem) -> Task:
    return problem


def parsed(text: str) -> Node:
    """The expression that `written` writes."""
    tokens = re.findall(r"\d+|.", text)

    def of_level(operations: tuple[str, ...]) -> Node:
        node = of_level(("*",)) if operations != ("*",) else one()
        while tokens and tokens[0] in operations:
            operation = tokens.pop(0)
            node = (operation, node, of_level(("*",)) if operations != ("*",) else one())
        return node

    def one() -> Node:
        token = tokens.pop(0)
        if token != "(":
            return int(token)
        node = of_level(("+", "-"))
        tokens.pop(0)
        return node

    return of_level(("+", "-"))


def read_attempt(text: str) -> Node | None:
    """The expression of an attempt; None where it is none."""
    found = re.fullmatch(r"\\boxed\{([\d+*()-]+)\}", text)
    try:
        return parsed(found[1]) if found else None
    except (ValueError, IndexError, RecursionError):
        return None


def changed(node: Node, rng: random.Random) -> Node:
    """The expression with another operation in one place."""
    if rng.random() < 0.5 and not isinstance(node[1], int):
        return (node[0], changed(node[1], rng), node[2])
    if rng.random() < 0.5 and not isinstance(node[2], int):
        return (node[0], node[1], changed(node[2], rng))
    return (rng.choice([operation for operation in "+-*" if operation != node[0]]), *node[1:])


def attempt(task: Task, given: Node | None, mistakes: Rates, args, rng: random.Random) -> Node:
    """The expression of an attempt: the one that feedback has passed, or a new one."""
    if given:
        return given
    node = parsed(task.answer)
    if rng.random() < mistakes[0]:
        node = random_node(list(task.numbers), rng)
    if rng.random() < mistakes[1]:
        node = changed(node, rng)
    if rng.random() < mistakes[2]:
        node = parsed(re.sub(r"\d+", lambda n: str(int(n[0]) + rng.choice(args.slips)), written(node), count=1))
    return parsed(written(node))  # 2*(3*4) is written, and so worked out, as 2*3*4


def steps(node: Node) -> list[tuple[int, str, int, int]]:
    """(left, operation, right, result) of each operation, innermost first."""
    if isinstance(node, int):
        return []
    return [*steps(node[1]), *steps(node[2]), (value(node[1]), node[0], value(node[2]), value(node))]


def check(task: Task, node: Node | None, errors: Rates, args, rng: random.Random) -> tuple[Node | None, list[str]]:
    """(the expression where it is passed, the lines of the feedback).

    errors: how often a right attempt is called wrong, a wrong one is passed.
    """
    if node is None:
        return None, ["no expression"]
    lines = [f"{left}{operation}{right}={result}" for left, operation, right, result in steps(node)]
    used = [int(number) for number in re.findall(r"\d+", written(node))]
    other = [number for number in used if used.count(number) > task.numbers.count(number)]
    right = value(node) == task.target and not other
    if rng.random() < errors[0 if right else 1]:
        right = not right
    if right:
        return node, [*lines, "all ok"]
    return None, [*lines, f"{other[0]} is not given" if other else f"{value(node)} is wrong"]


def attempt_text(task: Task, node: Node) -> str:
    return f"\\boxed{{{written(node)}}}"


def feedback_text(node: Node | None, lines: list[str]) -> str:
    return "\n".join(lines)
