"""The embedded code problems, and what the embedded model learnt to read and write about them."""

import builtins
import keyword
import random
import re

import pytest

import common
from problems.arithmetic import THINGS
from problems.functions import STEPS, as_function, load_functions, one_step_off, program_line, program_text, run_lines
from tiny import functions_transcripts as transcripts
from tiny.pretrain import DEFAULTS, ROLES, transcript

# What each wording means, written a second time and in another way.
MEANINGS = {
    "add": lambda x, n: x - -n,
    "subtract": lambda x, n: -n + x,
    "subtract from": lambda x, n: -(x - n),
    "double": lambda x, n: x + x,
    "at most": lambda x, n: n if x > n else x,
    "at least": lambda x, n: n if x < n else x,
    "remainder by": lambda x, n: x - n * (x // n),
    "divide by": lambda x, n: (x - x % n) // n,
    "negate": lambda x, n: 0 - x,
    "absolute value": lambda x, n: x if x > 0 else 0 - x,
}


def steps_of(problem: common.Problem) -> list[tuple[str, int]]:
    """(words, number or 0) of each line of a question, from its text alone."""
    return [(words, int(n or 0)) for words, n in re.findall(r"^\d:([a-z ]+?) ?(\d*)$", problem.question, re.M)]


def passes(program: str, tests: tuple[str, ...]) -> bool:
    """In this process: the programs here are the repository's own."""
    names: dict = {}
    exec(program, names)
    try:
        for test in tests:
            exec(test, names)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("split", ["train", "test"])
def test_tests_follow_from_the_question(split):
    for problem in load_functions(split, 300, 7):
        steps = steps_of(problem)
        assert 3 <= len(steps) == problem.level <= 5
        assert len(problem.tests) == 4 and problem.answer == ""
        inputs = []
        for test in problem.tests:
            name, x, y = re.fullmatch(r"assert (\w+)\((-?\d+)\) == (-?\d+)", test).groups()
            assert problem.question.startswith(f"Write {name}(x). Take x and:\n1:")
            value = int(x)
            for words, n in steps:
                value = MEANINGS[words](value, n)
            assert value == int(y), (problem.question, test)
            inputs.append(x)
        assert len(set(inputs)) == 4
        assert passes(problem.solution, problem.tests)


def test_every_step_matters():
    """The three hidden tests find every program with one line left out, confused, or with a number one off."""
    for problem in load_functions("train", 150, 3):
        head, *lines, end = problem.solution.splitlines()
        hidden = problem.tests[problem.tests_in_prompt :]
        assert len(hidden) == 3
        for i, (words, n) in enumerate(steps_of(problem)):
            right, confused, numbers = (STEPS[words][0].format(n=n), STEPS[words][1].format(n=n), STEPS[words][2])
            assert lines[i] == f"    {right}"
            wrong = [[], [f"    {confused}"]]
            wrong += [[f"    {STEPS[words][0].format(n=n + off)}"] for off in (-1, 1) if numbers]
            for line in wrong:
                program = "\n".join([head, *lines[:i], *line, *lines[i + 1 :], end])
                assert not passes(program, hidden), program


def test_a_line_and_its_like_are_programs_that_differ():
    assert set(STEPS) == set(MEANINGS)
    for words, (_, _, numbers) in STEPS.items():
        step = f"{words} {numbers[3]}" if numbers else words
        right, confused = program_line(step), program_line(step, confused=True)
        outputs = [(as_function(right)(x), as_function(confused)(x)) for x in range(-40, 40)]
        assert any(a != b for a, b in outputs), words
        assert [a for a, _ in outputs] == [MEANINGS[words](x, numbers[3] if numbers else 0) for x in range(-40, 40)]
        assert len(one_step_off([step])) == (4 if numbers else 2)
    assert run_lines(["x = x + 1", "x = x * 2"], 3) == 8


def test_splits_share_no_question_and_seeds_reproduce():
    train = {p.question for seed in range(3) for p in load_functions("train", 400, seed)}
    test = {p.question for seed in range(3) for p in load_functions("test", 100, seed)}
    assert len(train) > 1150 and len(test) > 290
    assert not train & test
    assert load_functions("test", 30, 5) == load_functions("test", 30, 5)
    assert load_functions("test", 30, 5) != load_functions("test", 30, 6)
    assert load_functions("test", 60, 5)[:30] == load_functions("test", 30, 5)
    ids = [problem.id for problem in load_functions("train", 20, 0)]
    assert ids == [f"functions/train/{i}" for i in range(1, 21)]


def test_the_prompt_shows_as_many_tests_as_asked_for():
    for shown in range(5):
        (problem,) = load_functions("train", 1, 0, tests_in_prompt=shown)
        assert problem.statement == "\n".join([problem.question, *[""] * bool(shown), *problem.tests[:shown]])
    (problem,) = load_functions("train", 1, 0)
    assert problem.tests[0] in problem.statement and problem.tests[1] not in problem.statement


def test_names_are_plain():
    assert {re.match(r"Write (\w+)", p.question)[1] for p in load_functions("train", 300, 0)} == set(THINGS)
    for name in THINGS:
        assert name.isidentifier() and not keyword.iskeyword(name) and not hasattr(builtins, name) and name != "x"


# ---- transcripts ---------------------------------------------------------------------------------------------------

TASK = ("keys", ["add 3", "at most 20", "double"])
RIGHT = ["x = x + 3", "x = min(x, 20)", "x = x * 2"]


def checked(lines: list[str], errors=(0, 0)) -> str:
    return transcripts.feedback_text(*transcripts.check(TASK, lines, errors, DEFAULTS["functions"], random.Random(0)))


def test_true_feedback_stops_at_the_first_wrong_line():
    listing = "    x = x + 3\n    x = min(x, 20)"
    assert checked(RIGHT) == f"{listing}\n    x = x * 2\nall ok"
    assert checked([RIGHT[0], "x = max(x, 20)", "x = x ** 2"]) == f"{listing} wrong"
    assert checked([RIGHT[0], "x = min(x, 21)", RIGHT[2]]) == f"{listing} wrong"
    assert checked(RIGHT[:1]) == f"{listing} wrong"
    assert checked([]) == "    x = x + 3 wrong"
    assert checked(["x = 3 + x"]) == "    x = x + 3 wrong"


def test_wrong_feedback_passes_wrong_lines_and_blames_right_ones():
    wrong = ["x = x - 3", "x = max(x, 20)", "x = x ** 2"]
    assert checked(wrong, (1, 1)) == "".join(f"    {line}\n" for line in wrong) + "all ok"
    assert checked(RIGHT, (1, 1)) == "    x = x - 3 wrong"
    assert checked([wrong[0], *RIGHT[1:]], (1, 1)) == "    x = x - 3\n    x = max(x, 20) wrong"


def test_a_careless_student_makes_the_three_mistakes():
    args, rng = DEFAULTS["functions"], random.Random(0)
    assert transcripts.attempt(TASK, [], (0, 0, 0), args, rng) == RIGHT
    assert transcripts.attempt(TASK, [], (1, 0, 0), args, rng) == [RIGHT[0], "x = max(x, 20)", RIGHT[2]]
    assert transcripts.attempt(TASK, [], (0, 1, 0), args, rng) == ["x = x - 3", RIGHT[1], "x = x ** 2"]
    slipped = {tuple(transcripts.attempt(TASK, [], (0, 0, 1), args, rng)) for _ in range(200)}
    numbers = {(int(re.search(r"\d+", a)[0]) - 3, int(re.search(r"\d+", b)[0]) - 20) for a, b, _ in slipped}
    assert numbers == {(a, b) for a in args.slips for b in args.slips}
    assert transcripts.attempt(TASK, ["x = x - 1"], (0, 0, 0), args, rng) == ["x = x - 1", *RIGHT[1:]]


def test_texts_are_read_back():
    for problem in load_functions("test", 50, 1):
        name, steps = task = transcripts.read_problem(problem)
        lines = [program_line(step) for step in steps]
        assert problem.solution == program_text(name, lines)
        text = transcripts.attempt_text(task, lines)
        assert text == f"```python\n{problem.solution}```"
        assert transcripts.read_attempt(text) == lines
        assert common.verify(text, problem) == 1.0
        assert common.verify(text.replace("return x", "return x + 1"), problem) == 0.0


def test_clean_transcripts_are_right_and_refinements_follow_their_feedback():
    args, rng = DEFAULTS["functions"], random.Random(0)
    followed = 0
    for role in ROLES[:4] * 40:
        prompt, response = transcript(role, True, args, rng)
        text = "\n".join(message["content"] for message in prompt)
        steps = [f"{w} {n}" if n else w for w, n in re.findall(r"^\d:([a-z ]+?) ?(\d*)$", text.split("\n\n")[0], re.M)]
        right = [program_line(step) for step in steps]
        if role in ("attempt", "self_correct"):
            assert transcripts.read_attempt(response) == right
        elif role == "feedback":
            written = [line.removesuffix(" wrong").strip() for line in response.split("\n")]
            assert written[-1] == "all ok" or response.endswith(" wrong")
            assert [line for line in written if line != "all ok"] == right[: len(written) - (written[-1] == "all ok")]
        else:
            feedback = text.split(common.FEEDBACK)[1].split("\n\n")[0].removesuffix("\nall ok").removesuffix(" wrong")
            given = [line.strip() for line in feedback.split("\n")]
            assert transcripts.read_attempt(response) == [*given, *right[len(given) :]]
            followed += given != right[: len(given)]
    assert followed > 10  # also where the feedback is wrong
