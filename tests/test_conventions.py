"""The `conventions` problems: what is open, what only asserts settle, and what ideal players reach on them."""

import random
import re
from fractions import Fraction
from itertools import product

import pytest
from conftest import small_args
from test_functions import passes
from transformers import AutoTokenizer

import common
import eval
import mlmt_rl
import rl_guided_score
from problems.conventions import GIVING, KEEPING, load_conventions, program_text
from tiny import conventions_transcripts as transcripts
from tiny.pretrain import DEFAULTS

ANSWERS = list(product((0, 1), repeat=2))


def programs_of(problem: common.Problem) -> dict[tuple[int, int], str]:
    """The four programs for a question, by the answers, from its words alone."""
    name, first, second = re.fullmatch(
        r"Write (\w+)\(v\)\. Take the list v and:\n1:([^,\n]+).*\n2:([^,\n]+).*", problem.question
    ).groups()
    n = re.search(r"\d+", first)[0]
    keeping = next(lines for words, _, lines in KEEPING if words.format(n=n) == first)
    giving = next(lines for words, _, lines in GIVING if words == second)
    return {(a, b): program_text(name, [keeping[a].format(n=n), giving[b]]) for a, b in ANSWERS}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_hidden_assert_settles_one_question(split):
    """The first test holds under all answers, the second under one to the first question, the third to the second."""
    levels = set()
    for problem in load_conventions(split, 150, 7):
        programs = programs_of(problem)
        (right,) = [answers for answers, text in programs.items() if passes(text, problem.tests)]
        assert programs[right] == problem.solution
        for answers, text in programs.items():
            held = [passes(text, (test,)) for test in problem.tests]
            assert held == [True, answers[0] == right[0], answers[1] == right[1]], (problem, answers)
        assert problem.level == 2 - problem.question.count(",") and problem.answer == ""
        assert problem.tests[0] in problem.statement and not any(t in problem.statement for t in problem.tests[1:])
        levels.add(problem.level)
    assert levels == {0, 1, 2}


def test_no_other_program_passes():
    """All programs of these lines with the number, or one that is higher or lower."""
    for problem in load_conventions("train", 60, 3):
        name, n = (
            re.match(r"Write (\w+)", problem.question)[1],
            int(re.search(r"(?:under|over) (\d+)", problem.question)[1]),
        )
        keeping = [line.format(n=n) for _, _, lines in KEEPING for line in lines]
        giving = [line for _, _, lines in GIVING for line in lines]
        texts = [program_text(name, list(lines)) for lines in product(keeping, giving)]
        assert [text for text in texts if passing(text, problem.tests)] == [problem.solution]


def passing(text: str, tests: tuple[str, ...]) -> bool:
    try:
        return passes(text, tests)
    except IndexError:  # of a list without a middle
        return False


def test_what_is_open_is_a_coins_toss():
    """Red if the words, or the answer to the other question, tell what is right: each of four about as often."""
    found = dict.fromkeys(ANSWERS, 0)
    for problem in load_conventions("train", 1500, 0):
        if problem.level == 2:
            programs = programs_of(problem)
            found[next(answers for answers in ANSWERS if programs[answers] == problem.solution)] += 1
    n = sum(found.values())
    assert n > 300 and all(abs(count / n - 0.25) < 4 * (0.1875 / n) ** 0.5 for count in found.values())


@pytest.mark.parametrize(
    ("told", "ceiling"), [("none", "1/4"), ("verdict", "1/2"), ("shown", "1/4"), ("one", "3/4"), ("all", "1")]
)
def test_ceilings(told, ceiling):
    """Ideal players: a first attempt, what is told of it, the second attempt that is likeliest right; exact."""
    total, problems = Fraction(0), [p for p in load_conventions("test", 120, 0) if p.level == 2]
    for problem in problems[:20]:
        programs = programs_of(problem)
        right = next(answers for answers in ANSWERS if programs[answers] == problem.solution)
        for first in ANSWERS:
            held = [passes(programs[first], (test,)) for test in problem.tests]
            wrong = [i for i in (0, 1) if first[i] != right[i]]
            assert [i for i in (0, 1) if not held[i + 1]] == wrong
            left = {  # the answers that what is told leaves possible
                "none": ANSWERS,
                "shown": ANSWERS if held[0] else [],
                "verdict": [a for a in ANSWERS if (a == first) == all(held)],
                "one": [a for a in ANSWERS if [i for i in (0, 1) if a[i] != first[i]][:1] == wrong[:1]],
                "all": [a for a in ANSWERS if [i for i in (0, 1) if a[i] != first[i]] == wrong],
            }[told]
            assert right in left
            total += Fraction(1, 4 * len(left))
    assert total / 20 == Fraction(ceiling)


def test_splits_share_no_question_and_seeds_reproduce():
    train = {p.question for seed in range(2) for p in load_conventions("train", 300, seed)}
    test = {p.question for seed in range(2) for p in load_conventions("test", 100, seed)}
    assert len(train) > 580 and not train & test
    assert load_conventions("test", 30, 5)[:20] == load_conventions("test", 20, 5) != load_conventions("test", 20, 6)
    assert common.load_problems("conventions", "test", limit=5)[0].id.startswith("conventions/test/")
    train_problems, held_out = common.load_train_and_eval("conventions", "train", "conventions", "test", 50, 2)
    assert len(held_out) == 50 and {p.level for p in train_problems} == {2} and len(train_problems) > 1000


# ---- what the feedback model is told -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told_of() -> dict[str, tuple]:
    """Of ten problems: attempts of all kinds, right, wrong, unfinished."""
    problems = [p for p in load_conventions("train", 200, 0) if "middle" in p.question][:10]
    attempts = []
    for i, problem in enumerate(problems):
        programs = programs_of(problem)
        attempts.append(f"```python\n{programs[ANSWERS[i % 4]]}```" if i < 8 else "```python\nunfinished")
    return attempts, problems


def test_results_are_what_the_sandbox_finds(told_of):
    """The embedded model has learnt from the very texts, without a sandbox."""
    attempts, problems = told_of
    for level in ("none", "verdict", "shown", "all"):
        told = common.test_results(attempts, problems, mlmt_rl.Args(test_results=level))
        for text, attempt, problem in list(zip(told, attempts, problems))[:8]:
            task = transcripts.read_problem(problem)
            assert text == transcripts.results(task, transcripts.read_attempt(attempt), level)
        assert not any(told) if level == "none" else all(told)
    rows = [f"{test} -> no program: fails" for test in problems[8].tests]
    assert told[8] == "\n".join(["What the tests gave:", *rows])


def test_results_in_words(told_of):
    _, (problem, *_) = told_of
    program = (
        "```python\ndef f(x):\n    if x > 2: raise ValueError('too\\n much')\n    return [x] if x else iter('ab')\n```"
    )
    tests = ("assert f(1) == [1]", "assert f(2) == 'b'", "assert not f(3)", "assert list(f(0)) == ['a', 'b']")
    code = common.Problem("?", "", tests=tests, tests_in_prompt=2)
    args = mlmt_rl.Args(test_results="all")
    lines = ["assert f(1) == [1] -> [1]: passes", "assert f(2) == 'b' -> [2]: fails"]
    more = ["assert not f(3) -> ValueError: too much: fails"]
    more += ["assert list(f(0)) == ['a', 'b'] -> an object of ['a', 'b']: passes"]
    assert common.test_results([program], [code], args) == ["\n".join(["What the tests gave:", *lines, *more])]
    args.test_results = "shown"
    assert common.test_results([program], [code], args) == ["\n".join(["What the tests gave:", *lines])]
    args.test_results = "verdict"
    assert common.test_results([program], [code], args) == ["The solution is wrong."]
    maths = common.Problem("1 + 1?", "2")
    assert common.test_results(["\\boxed{2}", "\\boxed{3}"], [maths] * 2, args) == [
        "The solution is right.",
        "The solution is wrong.",
    ]
    args.test_results = "all"
    with pytest.raises(common.InputError, match="--test-results all tells of asserts"):
        common.test_results(["\\boxed{2}"], [maths], args)


def test_results_that_nobody_could_be_told(tmp_path):
    args = mlmt_rl.Args(test_results="shown")
    with pytest.raises(common.InputError, match="needs problems with asserts .* --tests-in-prompt"):
        common.test_results([""], [common.Problem("?", "", tests=("assert f(1)",), tests_in_prompt=0)], args)
    flags = {"dataset": ("conventions",), "limit": 2, "run_dir": str(tmp_path / "run")}
    for more in ({}, {"feedback": "none", "solver": ("tiny/conventions",)}, {"turns": 1, "feedback": "own"}):
        with pytest.raises(
            common.InputError, match="--test-results verdict tells a --feedback model, and here is none"
        ):
            eval.main(eval.Args(test_results="verdict", **flags, **more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", [mlmt_rl, rl_guided_score, eval], ids=lambda script: script.__name__)
def test_the_solver_never_reads_a_hidden_assert(script, tmp_path, monkeypatch):
    """Every prompt of a run with --test-results all: the feedback model's holds all asserts, the solver's the first."""
    tokenizer, read = AutoTokenizer.from_pretrained("tiny/conventions"), []
    generate = script.generate

    def reading(model, tokenizer_, prompts, *rest):
        read.append([tokenizer.decode(ids) for ids, _ in prompts])
        return generate(model, tokenizer_, prompts, *rest)

    monkeypatch.setattr(script, "generate", reading)
    if script is eval:
        args = eval.Args(dataset=("conventions",), limit=4, samples=1, test_results="all", feedback="tiny/conventions")
        args.run_dir = str(tmp_path / "run")
    else:
        args = small_args("conventions", tmp_path / "run", script=script, iterations=1, test_results="all", eval_size=4)
    script.main(args)
    problems = common.load_problems("conventions") + common.load_problems("conventions", "test")
    by_statement = {problem.statement: problem for problem in problems}
    kinds = {"solver": 0, "feedback": 0}
    for texts in read:
        for text in texts:
            problem = by_statement[text.split("\n\nWrite the program")[0].split("\n\nA student's")[0]]
            hidden = sum(text.count(test) for test in problem.tests[1:])
            kind = "feedback" if "A student's solution" in text else "solver"
            assert hidden == (2 if kind == "feedback" else 0), text
            kinds[kind] += 1
    assert kinds["feedback"] and kinds["solver"] == 2 * kinds["feedback"]


# ---- transcripts ---------------------------------------------------------------------------------------------------


def test_true_feedback_needs_the_tests():
    """By what is told: nothing of open questions, a guess, nothing, everything."""
    args, seen = DEFAULTS["conventions"], {level: [] for level in transcripts.LEVELS}
    problems = [p for p in load_conventions("train", 300, 0) if p.level == 2]
    for problem in problems:
        task, programs = transcripts.read_problem(problem), programs_of(problem)
        right = transcripts.read_attempt(problem.solution)
        assert len(right) == 2
        wrong = transcripts.read_attempt(next(text for text in programs.values() if text != problem.solution))
        for level, found in seen.items():
            lines, _ = transcripts.check(task, wrong, (0, 0), args, random.Random(0), level)
            found.append(lines == right)
            assert transcripts.check(task, right, (0, 0), args, random.Random(0), level)[0] == right
    rates = {level: sum(found) / len(problems) for level, found in seen.items()}
    assert rates["none"] == rates["shown"] == 0 and 0.15 < rates["verdict"] < 0.6 and rates["all"] == 1


def test_lines_and_words():
    assert transcripts.lines_of("keep under 7, with 7") == ["v = [x for x in v if x <= 7]"]
    assert transcripts.lines_of("keep over 12") == ["v = [x for x in v if x > 12]", "v = [x for x in v if x >= 12]"]
    assert transcripts.lines_of("half the sum, rounded up") == ["return -(-sum(v) // 2)"]
    lines = ["v = [x for x in v if x < 7]", "return sorted(v)"]
    assert transcripts.feedback_text(lines, [False, True]) == f"    {lines[0]}\n    {lines[1]} wrong"
    assert transcripts.feedback_text(lines, [False, False]) == f"    {lines[0]}\n    {lines[1]}\nall ok"
