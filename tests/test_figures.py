"""figures.py: every figure against hand computation."""

import itertools
import math

import numpy as np
import pytest

import common
import eval as evaluation
from figures import QUALITY_COLUMNS, bootstrap_interval, majority, print_tables, summarise


def test_pass_at_k_is_the_share_of_subsets_with_a_right_response():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations(range(n), k))
            share = sum(any(response < c for response in subset) for subset in subsets) / len(subsets)
            assert common.pass_at_k(n, c, k) == pytest.approx(share)
    for n, c, k in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
            common.pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "rewards", "expected"),
    [
        (["5", "7", "5"], [1, 0, 1], 1),
        (["5", "7", "7"], [1, 0, 0], 0),
        (["5", "7"], [1, 0], 1 / 2),
        (["5", "7", "8"], [1, 0, 0], 1 / 3),
        (["0.5", "7", "7", "1/2", r"\frac{1}{2}"], [1, 0, 0, 1, 1], 1),
        ([None, None, "5"], [0, 0, 1], 1),
        ([None, None], [0, 0], 0),
    ],
)
def test_majority(answers, rewards, expected):
    """Most frequent value, however written; no answer does not vote; a tie counts by its share of right answers."""
    assert majority(answers, rewards) == pytest.approx(expected)


def row(problem: str, attempt: str, refinement: str, rewards: tuple[int, int], level: int, **more) -> dict:
    """An episode by hand: gold answer 5; a turn is truncated if its text ends in an ellipsis."""
    texts = {"attempt": attempt, "feedback": "check 5", "refinement": refinement}
    lengths = {f"{name}_length": len(text) for name, text in texts.items()}
    cut = {"truncated": [name for name, text in texts.items() if text.endswith("…")]}
    verdicts = {"reward_1": float(rewards[0]), "reward_2": float(rewards[1])}
    return {"id": problem, "level": level, "subject": "", "code": False} | texts | lengths | cut | verdicts | more


ROWS = [
    row("a", r"\boxed{5}", r"\boxed{5.0}", (1, 1), 1),
    row("a", r"\boxed{7}", r"\boxed{5}", (0, 1), 1),
    row("b", r"\boxed{5}", r"\boxed{8}", (1, 0), 2),
    row("b", r"\boxed{8}", r"\boxed{8}", (0, 0), 2),
    row("c", "nothing…", r"\boxed{5}", (0, 1), 2),
    row("c", r"\boxed{5}", r"\boxed{5}", (1, 1), 2),
]


def test_maths_and_programs_in_one_set():
    """Red if the first row decides how all answers are read: programs do not vote, and have no box."""
    program = [row("p", "```python\nx = 1\n```", "no program", (1, 0), 1, code=True) for _ in range(2)]
    for rows in ([*program, *ROWS[:4]], [*ROWS[:4], *program]):
        figures = summarise(rows, evaluation.Args(bootstrap_samples=10))
        assert figures["no_answer_1"] == 0 and figures["no_answer_2"] == pytest.approx(2 / 6)
        assert (figures["majority_1"], figures["majority_2"]) == ((0.5 + 0.5) / 2, (1 + 0) / 2)


def test_tables_name_the_feedback_of_each_row(capsys):
    """Red if another checkpoint's feedback model is called a solver's own, or if a cell breaks its row."""
    results = [summarise(ROWS, evaluation.Args(bootstrap_samples=10)) for _ in range(3)]
    pairs = [("a", "a/feedback"), ("b", "a/feedback"), ("b", None)]
    results = [{"solver": s, "feedback": f, "dataset": "x|y\nz"} | r for (s, f), r in zip(pairs, results)]
    print_tables(results)
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in capsys.readouterr().out.splitlines()[5:8]]
    assert rows == [["a", "own", "x y z"], ["b", "a/feedback", "x y z"], ["b", "none", "x y z"]]


def test_figures_by_hand():
    """Problems a, b, c: p_1 = (1/2, 1/2, 1/2), p_2 = (1, 0, 1)."""
    figures = summarise(ROWS, evaluation.Args(bootstrap_samples=4000))
    expected = {"problems": 3, "samples": 2, "accuracy_1": 3 / 6, "accuracy_2": 4 / 6, "delta": 1 / 6, "fixed": 2 / 6}
    expected |= {"broken": 1 / 6, "repeated": 2 / 6, "accuracy_2_oracle_gated": 5 / 6}
    # deviations of (1, 0, 1) from 2/3: 1/3, -2/3, 1/3, so sqrt(6/9 / 2) / sqrt(3) = 1/3; p_2 - p_1 has the same
    expected |= {"accuracy_1_standard_error": 0.0, "accuracy_2_standard_error": 1 / 3, "delta_standard_error": 1 / 3}
    # all three draws are b with probability 1/27 = 3.7 %, none is with 30 %: both tails are longer than 2.5 %
    expected |= {"accuracy_1_interval": [0.5, 0.5], "accuracy_2_interval": [0.0, 1.0], "delta_interval": [-0.5, 0.5]}
    expected |= {"pass_at_k_1": {"1": 1 / 2, "2": 1.0}, "pass_at_k_2": {"1": 4 / 6, "2": 2 / 3}}
    # first attempts: a and b tie 1:1, c has one answer; second ones: a and c right, b wrong
    expected |= {"majority_1": (0.5 + 0.5 + 1) / 3, "majority_2": (1 + 0 + 1) / 3}
    expected |= {"no_answer_1": 1 / 6, "no_answer_2": 0.0, "attempt_truncated": 1 / 6, "refinement_truncated": 0.0}
    expected |= {"attempt_length": (5 * 9 + 8) / 6, "refinement_length": (5 * 9 + 11) / 6, "feedback_length": 7.0}
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value), name
    levels = figures["by_level"]
    assert levels["1"]["problems"] == 1 and levels["1"]["accuracy_2"] == 1
    assert levels["2"] | {"accuracy_2_standard_error": 0} == {
        "problems": 2,
        "accuracy_1": 0.5,
        "accuracy_1_standard_error": 0,
        "accuracy_2": 0.5,
        "accuracy_2_standard_error": 0,
    }
    assert levels["2"]["accuracy_2_standard_error"] == pytest.approx(0.5)  # p_2 = (0, 1): sqrt(1/2) / sqrt(2)
    assert figures["by_subject"] == {} and "feedback_quality" not in figures


def test_figures_of_one_turn_and_of_programs():
    """No figure of a turn that was not taken; programs have no majority; strict answers count boxes only."""
    turn_1 = ("id", "level", "subject", "code", "attempt", "attempt_length", "truncated", "reward_1")
    rows = [{name: row[name] for name in turn_1} for row in ROWS]
    figures = summarise(rows, evaluation.Args(bootstrap_samples=10))
    assert figures["accuracy_1"] == 0.5 and not [name for name in figures if "2" in name or name in ("delta", "fixed")]
    programs = [row | {"code": True, "attempt": "```python\nx = 1\n```", "subject": "s"} for row in rows]
    figures = summarise(programs, evaluation.Args(bootstrap_samples=10))
    assert figures["majority_1"] is None and figures["no_answer_1"] == 0 and figures["by_subject"]["s"]["problems"] == 3
    bare = [row | {"attempt": "The answer is 5."} for row in rows]
    for strict, expected in ((False, 0.0), (True, 1.0)):
        args = evaluation.Args(bootstrap_samples=10, strict_answers=strict)
        assert summarise(bare, args)["no_answer_1"] == expected


def test_feedback_quality_by_hand():
    """utility = E[r|g] - E[r|0], specificity = E[r|g] - E[r|g'], utilisation, leakage; errors over problems."""
    names = QUALITY_COLUMNS
    columns = [(1, 0, -1.0, -3.0, True, False), (0, 0, -2.0, -2.0, False, False), (0, 0, -1.0, -2.0, False, False)]
    columns += [(0, 1, -4.0, -1.0, True, True), (0, 0, -1.0, -1.0, False, False), (1, 0, -2.0, -5.0, True, False)]
    rows = [row | dict(zip(names, column)) for row, column in zip(ROWS, columns)]
    quality = summarise(rows, evaluation.Args(bootstrap_samples=10))["feedback_quality"]
    expected = {"utility": 4 / 6 - 2 / 6, "specificity": 4 / 6 - 1 / 6, "utilisation": (2 + 0 + 1 - 3 + 0 + 3) / 6}
    expected |= {"leakage": 3 / 6, "leakage_by_chance": 1 / 6}
    for name, value in expected.items():
        assert quality[name] == pytest.approx(value), name
    # r - r_without by problem: a (0 + 1) / 2, b 0, c (1 + 0) / 2
    assert quality["utility_standard_error"] == pytest.approx(np.std([0.5, 0, 0.5], ddof=1) / math.sqrt(3))


def test_intervals_are_over_problems():
    """Red if samples of one problem count as independent: 2 problems with 100 samples each are still 2."""
    rows = [row("a", "", "", (0, 1), 1) for _ in range(100)] + [row("b", "", "", (0, 0), 1) for _ in range(100)]
    figures = summarise(rows, evaluation.Args(bootstrap_samples=200))
    assert figures["accuracy_2_interval"] == figures["delta_interval"] == [0.0, 1.0]
    assert figures["accuracy_2_standard_error"] == pytest.approx(0.5)
    means = np.repeat([0.0, 1.0], 200)
    low, high = bootstrap_interval(means, 4000)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005) and high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)
