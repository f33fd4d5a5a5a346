"""The `countdown` problems: their verifier, what is generated, and what the embedded model has learnt from."""

import itertools
import random
import re
import time
from fractions import Fraction

import pytest

import common
import eval as evaluation
from problems.countdown import countdown_problem, load_countdown, random_node, value, written
from tiny import countdown_transcripts as transcripts
from tiny.pretrain import DEFAULTS
from verifiers.countdown import evaluate, judge_countdown


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("(8-3)*4", True),
        ("4 * (8 - 3)", True),
        ("4*8-3*4", False),  # 4 twice
        ("8-3*4", False),
        ("20", False),
        ("", False),
        ("(8-3)*4+0", False),
        ("(8-3)*4/1", False),
        ("-(3-8)*4", True),
        ("-4*(3-8)", True),
        ("(8-3)4", False),
        ("(8-3)**4", False),
        ("(8-3)*4 = 20", True),
        ("20 = (8-3)*4", True),
        ("(8-3)*4 = 21", False),
        ("(8-3)*4 = 5*4", True),
        ("20 = 20", False),
        ("(8-3)*4 =", False),
        (r"(8-3)\times 4", True),
        (r"(8-3)⋅4", True),
        (r"\((8-3)\ast 4\)", True),
        ("(8-3)~*~4\n= 20", True),
        (r"\frac84", False),
        (r"\left(8-3\right)\cdot4", True),
        ("(8−3)×4", True),
        ("$(8-3)*4$", True),
        (r"4\,(8-3)", False),
        ("(8-3)*0x4", False),
        ("(8-3)*4.0", False),
        ("(8-3)*٤", False),
        ("8_3*4", False),
        ("[8-3]*4", True),
        (r"\{8-3\}*4", False),
        ("(8-3) x 4", True),
        ("(8-3)xx4", False),
        ("[8-3)*4", True),  # as brackets go, it is plain what is meant
        ("(8-3)*4 if 1 else 0", False),
        ("__import__('os')", False),
        ("(8-3)//1*4", False),
        ("((8-3)*4", False),
        ("(" * 250 + "1", False),
        ("-" * 290 + "8", False),
        ("9" * 290 + "*" + "8", False),
        ("8/0*3*4", False),
    ],
)
def test_verdicts(text, right):
    problem = common.Problem("?", "(8-3)*4", numbers=(3, 4, 8), target=20)
    assert common.verify(f"So it is \\boxed{{{text}}}.", problem) == right


def test_fractions_are_exact():
    assert judge_countdown(r"\boxed{8/(3-8/3)}", (3, 3, 8, 8), 24)
    assert judge_countdown(r"\boxed{\frac{8}{3-\frac{8}{3}}}", (3, 3, 8, 8), 24)
    assert not judge_countdown(r"\boxed{8/(3-8/3)}", (3, 8, 8), 24)
    assert evaluate("1/3+1/3") == (Fraction(2, 3), [1, 3, 1, 3])


def test_where_the_answer_is_read():
    problem = common.Problem("?", "3+4", numbers=(3, 4), target=7)
    assert common.verify("#### 4+3", problem) == 1.0 and common.verify("3+4", problem) == 0.0
    assert common.verify("#### 4+3", problem, strict_answers=True) == 0.0
    assert common.verify(r"\boxed{3*4} no, \boxed{3+4}", problem) == 1.0


@pytest.mark.parametrize("part", ["1=", "=", "\\frac{1}{", "(", "1+", "-", "{", "\\left("])
def test_long_answers_are_wrong_at_once(part):
    start = time.perf_counter()
    for text in (part * 20_000, part * (290 // len(part))):
        assert not judge_countdown(f"#### {text}", (1, 1), 2) and not judge_countdown(f"\\boxed{{{text}}}", (1, 1), 2)
    assert time.perf_counter() - start < 5


def test_verdicts_against_enumeration():
    """Every expression of two operations over all orders, with wrong numbers too: the verdict is Python's value."""
    problem = common.Problem("?", "6*(5-2)", numbers=(2, 5, 6), target=18)
    right = 0
    for a, b, c in itertools.product((2, 5, 6, 7), repeat=3):
        for first, second in itertools.product("+-*/", repeat=2):
            for text in (f"({a}{first}{b}){second}{c}", f"{a}{first}({b}{second}{c})"):
                expected = sorted((a, b, c)) == [2, 5, 6] and eval(text) == 18
                right += expected
                assert common.verify(f"\\boxed{{{text}}}", problem) == expected, text
    assert right == 2  # 6*(5-2) and (5-2)*6


@pytest.mark.parametrize("split", ["train", "test"])
def test_problems(split):
    levels = set()
    for problem in load_countdown(split, 400, 3):
        target, listed = re.fullmatch(r"Make (\d+) from (.+): use .+", problem.question).groups()
        numbers = tuple(map(int, re.findall(r"\d+", listed)))
        assert (problem.target, problem.numbers, problem.level) == (int(target), numbers, len(numbers))
        assert list(numbers) == sorted(numbers)  # no second problem has them in another order
        assert eval(problem.answer) == int(target) and sorted(map(int, re.findall(r"\d+", problem.answer))) == [
            *numbers
        ]
        assert problem.solution == f"\\boxed{{{problem.answer}}}" and common.verify(problem.solution, problem) == 1.0
        assert common.verify(f"\\boxed{{{problem.answer}+1}}", problem) == 0.0
        levels.add(problem.level)
    assert levels == {2, 3, 4}


def test_splits_share_no_question_and_seeds_reproduce():
    train = {p.question for seed in range(2) for p in load_countdown("train", 1000, seed)}
    test = {p.question for seed in range(2) for p in load_countdown("test", 200, seed)}
    assert len(train) > 1700 and not train & test
    assert load_countdown("test", 30, 5)[:20] == load_countdown("test", 20, 5) != load_countdown("test", 20, 6)
    train_problems, held_out = common.load_train_and_eval("countdown", "train", "countdown", "test", 50, 4)
    assert len(held_out) == 50 and {p.level for p in train_problems} == {4} and len(train_problems) > 500


def test_leakage_is_any_right_expression():
    problem = common.Problem("?", "(8-3)*4", numbers=(3, 4, 8), target=20)
    for text, leaked in (
        ("try 4*(8-3)", True),
        (r"\boxed{4\times(8-3)}", True),
        ("8-3=5\n5*4=20", False),
        ("20 is wrong", False),
        ("it is (8-3)*4=20", True),
        ("", False),
    ):
        assert evaluation.states_answer(text, problem) is leaked, text


# ---- what the embedded model has learnt from -----------------------------------------------------------------------


def test_written_expressions_are_read_again():
    rng = random.Random(0)
    for _ in range(500):
        node = random_node([rng.randint(1, 20) for _ in range(rng.randint(2, 5))], rng)
        text = written(node)
        assert eval(text) == value(node) == value(transcripts.parsed(text))
        assert written(transcripts.parsed(text)) == text
        for i, bracket in enumerate(text):  # none is needless
            if bracket == "(":
                depths = list(itertools.accumulate((c == "(") - (c == ")") for c in text[i:]))
                end = i + depths.index(0)
                less = text[:i] + text[i + 1 : end] + text[end + 1 :]
                assert eval(less) != eval(text) or "-(" in text or "*(" in text or ")*" in text


def test_feedback_says_what_the_verifier_says():
    """Without errors; every line of it is right arithmetic, and the last names the value or a number not given."""
    rng, args, seen = random.Random(0), DEFAULTS["countdown"], set()
    for problem in load_countdown("train", 600, 0):
        node = transcripts.attempt(problem, None, (0.4, 0.4, 0.2), args, rng)
        text = transcripts.attempt_text(problem, node)
        assert transcripts.read_attempt(text) is not None
        passed, lines = transcripts.check(problem, transcripts.read_attempt(text), (0, 0), args, rng)
        right = common.verify(text, problem) == 1.0
        assert (lines[-1] == "all ok") == (passed == node) == right
        assert all(eval(line.replace("=", "==")) for line in lines[:-1]) and len(lines) == problem.level
        assert right or lines[-1].endswith(" is not given") or lines[-1] == f"{eval(text[7:-1])} is wrong"
        assert transcripts.check(problem, node, (1, 1), args, rng)[1][-1] != lines[-1]
        seen.add(lines[-1].split()[-1])
    assert seen == {"ok", "wrong", "given"}


def test_a_refinement_keeps_what_was_passed():
    rng, args = random.Random(0), DEFAULTS["countdown"]
    problem = transcripts.read_problem(transcripts.new_problem(rng))
    right = transcripts.attempt(problem, None, (0, 0, 0), args, rng)
    assert common.verify(transcripts.attempt_text(problem, right), problem) == 1.0
    other = ("+", 2, 2)
    assert transcripts.attempt(problem, other, (0, 0, 0), args, rng) == other
    assert countdown_problem(random.Random(1)) == countdown_problem(random.Random(1))
