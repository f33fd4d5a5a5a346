"""The `countdown` problems: make a target from two to four numbers. Solving is a search, checking is arithmetic.

    Make 20 from 3, 4 and 8: use each number once, with + - * / and brackets.

The answer is an expression; any that uses each number once and reaches the target is right (verifiers/countdown.py). A
problem's level is how many numbers it has. The task is TinyZero's (https://github.com/Jiayi-Pan/TinyZero), with smaller
numbers.
"""

import random
from functools import cache

from problems import Problem
from problems.arithmetic import in_test_split

NUMBERS = range(1, 10)
LARGEST = 50  # value of any part of a generated answer; none is below 1, and none divides
Node = int | tuple  # a number, or (operation, left, right)


def value(node: Node) -> int:
    if isinstance(node, int):
        return node
    left, right = value(node[1]), value(node[2])
    return {"+": left + right, "-": left - right, "*": left * right}[node[0]]


def written(node: Node) -> str:
    """An expression with as few brackets as it needs."""
    if isinstance(node, int):
        return str(node)
    operation, left, right = node
    weak = [not isinstance(side, int) and side[0] != "*" for side in (left, right)]
    texts = [
        f"({written(side)})" if weak[i] and (operation == "*" or (operation == "-" and i == 1)) else written(side)
        for i, side in enumerate((left, right))
    ]
    return operation.join(texts)


def random_node(numbers: list[int], rng: random.Random) -> Node:
    """An expression of all the numbers, each part of it from 1 to LARGEST."""
    while True:
        nodes: list[Node] = list(numbers)
        while len(nodes) > 1:
            left, right = (nodes.pop(rng.randrange(len(nodes))) for _ in range(2))
            operation = rng.choice("+--**")
            if operation in "+*" and value(left) < value(right):
                left, right = right, left  # one order of two that are worth the same
            node = (operation, left, right)
            if not 0 < value(node) <= LARGEST:
                break
            nodes.append(node)
        else:
            return nodes[0]


def countdown_problem(rng: random.Random) -> tuple[str, list[int], Node]:
    """(question, numbers, an expression that answers it)."""
    numbers = sorted(rng.choice(NUMBERS) for _ in range(rng.randint(2, 4)))
    node = random_node(numbers, rng)
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"Make {value(node)} from {listed}: use each number once, with + - * / and brackets.", numbers, node


def to_problem(question: str, numbers: list[int], node: Node, number: str = "") -> Problem:
    return Problem(
        question,
        answer=written(node),
        solution=f"\\boxed{{{written(node)}}}",
        level=len(numbers),
        subject="countdown",
        id=number,
        numbers=tuple(numbers),
        target=value(node),
    )


@cache
def load_countdown(split: str, limit: int, seed: int) -> tuple[Problem, ...]:
    """`limit` distinct problems of a split; the two splits share no question, whatever the seeds."""
    rng = random.Random(f"countdown {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < limit:
        question, numbers, node = countdown_problem(rng)
        if question not in problems and in_test_split(question) == (split == "test"):
            problems[question] = to_problem(question, numbers, node, f"countdown/{split}/{len(problems) + 1}")
    return tuple(problems.values())
