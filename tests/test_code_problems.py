"""Code problems: reading them, what the models see of their tests, and training on them."""

import json
from pathlib import Path

import pytest
from conftest import read_jsonl, small_args, write_jsonl
from test_bad_input import refused  # noqa: F401, a fixture
from test_problems import DATA, load_all, needs_data, write_csv

import common
import mlmt_rl
from verifiers import sandbox

TESTS = ["assert triple(2) == 6", "assert triple(-1) == -3", "assert triple('ab') == 'ababab'"]
REFERENCE = "def triple(x):\n    return 3 * x"
ROW = {"text": "Write a function to triple a value.", "code": REFERENCE.replace("\n", "\r\n"), "test_list": TESTS}
RIGHT, WRONG = f"```python\n{REFERENCE}\n```", "```python\ndef triple(x):\n    return x + 4\n```"


@pytest.fixture(scope="module", autouse=True)
def needs_sandbox():
    try:
        sandbox.start_sandbox()
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


# ---- reading -------------------------------------------------------------------------------------------------------


def test_columns_of_mbpp(tmp_path):
    """MBPP's three layouts give the same problem: lists, a Python literal in a CSV, imports instead of setup code."""
    filtered = {"problem": ROW["text"], "reference_solution": ROW["code"], "test_list": repr(TESTS)}
    sanitized = {"prompt": ROW["text"], "code": ROW["code"], "test_imports": ["import math"], "test_list": TESTS}
    problems = [
        *load_all(tmp_path, ROW | {"test_setup_code": "import math\n"}),
        *common.load_problems(write_csv(tmp_path / "filtered.csv", [filtered]), "all"),
        *load_all(tmp_path, sanitized),
    ]
    for problem, setup in zip(problems, ("import math", "", "import math"), strict=True):
        assert (problem.question, problem.solution) == (ROW["text"], REFERENCE)
        assert (problem.tests, problem.setup_code, problem.answer) == (tuple(TESTS), setup, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_list": []}, "test_list is empty"),
        ({"test_list": "assert triple(2) == 6"}, "test_list is not a list of texts"),
        ({"test_list": "[open('owned', 'w').close()]"}, "test_list is not a list of texts"),
        ({"test_list": [3]}, "test_list is not a list of texts"),
        ({"test_list": None}, "test_list is not a list of texts"),
        ({"test_list": ["triple(2) == 6"]}, "is not one assert"),
        ({"test_list": ["assert triple(2) == triple(2)"]}, "needs triple of the program"),
        ({"test_imports": ["import numpy"]}, "imports numpy"),
        ({"text": " "}, "the question is empty"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(small, refused, tmp_path, changes, message):  # noqa: F811
    """The sentence names file, row and reason; no text of the file is executed."""
    path = write_jsonl(tmp_path / "rows.jsonl", [ROW, ROW | changes])
    error = refused(small(dataset=path))
    assert f"{path} row 2: " in error and message in error


def test_a_reference_that_shadows_a_builtin(tmp_path):
    """Without the reference nothing says that `sum` is the program's; with it, it is."""
    row = {"text": "Add.", "test_list": ["assert sum(10, 4) == 6"]}
    with pytest.raises(common.InputError, match="row 1: .*calls no function of the program"):
        load_all(tmp_path, row)
    (problem,) = load_all(tmp_path, row | {"code": "def sum(a, b):\n    return a - b"})
    assert common.verify(f"```\n{problem.solution}\n```", problem) == 1.0
    assert common.verify("```\ndef sum(a, b): return a + b\n```", problem) == 0.0


def test_no_problem_of_the_evaluation_is_trained_on(tmp_path):
    """A problem that is worded otherwise, with other expected values, is still the same if its calls are."""
    train = [{"text": f"Question {n}", "test_list": [f"assert f({n}) == {n}"]} for n in range(5)]
    held_out = [{"text": "Other words", "test_list": ["assert set(f(3)) == {3}"]}, {"text": "Question  4"}]
    held_out[1]["test_list"] = ["assert g() == 1"]
    files = write_jsonl(tmp_path / "a.jsonl", train), write_jsonl(tmp_path / "b.jsonl", held_out)
    training, evaluation = common.load_train_and_eval(files[0], "all", files[1], "all", 10)
    assert [p.question for p in training] == ["Question 0", "Question 1", "Question 2"] and len(evaluation) == 2


@needs_data
@pytest.mark.parametrize(
    ("name", "rows"), [("mbpp.jsonl", 974), ("mbpp_filtered.csv", 964), ("sanitized-mbpp.jsonl", 427)]
)
def test_real_files(name, rows):
    """Every row of MBPP loads; the split depends on the question, not on what is shown of the tests."""
    path = str(DATA / "mbpp" / name)
    problems = common.load_problems(path, "all")
    assert len(problems) == rows and all(len(problem.tests) >= 1 and problem.solution for problem in problems)
    train, test = (common.load_problems(path, split, tests_in_prompt=n) for split, n in (("train", 0), ("test", 3)))
    assert len(train) + len(test) == rows
    assert not {p.question for p in train} & {p.question for p in test}


HUMAN = {
    "task_id": "Test/7",
    "prompt": 'def triple(x):\n    """Three times x."""\n',
    "canonical_solution": "    return 3 * x\n",
    "entry_point": "triple",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(2) == 6, 'two'\n    assert True, 'done'\n"
    "    assert abs(candidate(0.5) - 1.5) < 1e-6\n",
}


def test_the_form_of_humaneval(tmp_path, capsys):
    """Asserts of check(candidate), about the entry point; the reference is the prompt with its continuation."""
    loop = HUMAN | {
        "task_id": "Test/8",
        "test": "def check(f):\n    for n in range(3):\n        assert f(n) == 3 * n\n",
    }
    (problem,) = load_all(tmp_path, HUMAN, loop)
    assert problem.tests == ("assert triple(2) == 6", "assert abs(triple(0.5) - 1.5) < 1e-06")
    assert problem.question == HUMAN["prompt"].strip() and problem.solution == HUMAN["prompt"] + "    return 3 * x\n"
    assert capsys.readouterr().err.endswith("left out Test/8, which nothing could be judged by\n")
    assert common.verify(RIGHT, problem) == 1.0 and common.verify(WRONG, problem) == 0.0
    always = "class triple:\n    __init__ = __sub__ = __abs__ = lambda *a: None\n    __eq__ = __lt__ = lambda *a: True"
    always = f"```\n{always}\n```"
    assert common.verify(always, problem) == 0.0
    with pytest.raises(common.InputError, match="row 1: check does more than assert: for n in range"):
        load_all(tmp_path, loop)


@pytest.mark.parametrize("as_text", [dict, json.dumps, str])
def test_programs_judged_by_what_they_print(tmp_path, as_text):
    """input_output is an object, its JSON or its Python literal; lists are lines; examples stand in the question."""
    cases = {"inputs": ["2\n", ["3", "4"]], "outputs": ["4\n", ["6"]]}
    row = {"question": "Print twice the first number.", "input_output": as_text(cases)}
    (problem,) = load_all(tmp_path, row)
    assert problem.statement == "Print twice the first number.\n\nInput:\n2\nOutput:\n4"
    assert common.verify("```\nprint(2 * int(input()))\n```", problem) == 1.0
    assert common.verify("```\nprint(4)\n```", problem) == 0.0
    assert common.load_problems(str(tmp_path / "rows.jsonl"), "all", tests_in_prompt=0)[0].question == row["question"]
    with pytest.raises(common.InputError, match="--test-results shown .*input_output has none"):
        common.test_results([""], [problem], mlmt_rl.Args(test_results="shown"))
    others = [row | {"question": f"Print {n}.", "input_output": cases | {"outputs": [n, n]}} for n in range(20)]
    path = write_jsonl(tmp_path / "others.jsonl", others)  # the same inputs
    training, held_out = common.load_train_and_eval(path, "train", path, "test", 20)
    assert len(training) + len(held_out) == 20


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[1, 2]", "is no object"),
        ("{", "is no object|Expecting"),
        ({"inputs": ["1"]}, "is no object"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": [], "outputs": []}, "0 inputs and 0 outputs"),
        ({"inputs": [[1]], "outputs": [[1]], "fn_name": "f"}, "names a function"),
    ],
)
def test_input_output_that_cannot_be_judged_is_refused(tmp_path, cell, message):
    with pytest.raises(common.InputError, match=f"row 1: .*({message})"):
        load_all(tmp_path, {"question": "Print.", "input_output": cell})


def test_a_busy_machine_leaves_no_problem_out(monkeypatch, capsys):
    """Red if a right reference that runs out of time, beside other runs, is left out, or another one is tried twice."""
    problems = [
        common.Problem(f"{n}?", "", tests=("assert f() == 1",), solution=f"def f(): return {n}", id=f"row {n}")
        for n in (1, 2)
    ]
    tried = []

    def busy(responses, problems, strict=False, code_timeout=5.0):
        tried.append((code_timeout, len(responses)))
        return [code_timeout > 5 or "return 1" in text for text in responses]

    monkeypatch.setattr(common, "judge_all", busy)
    assert common.solvable(problems, unsafe=False) == problems
    assert tried == [(5.0, 2), (60.0, 1)] and capsys.readouterr().err == ""


def test_a_reference_that_fails_its_own_tests_is_left_out_and_named(small, refused, tmp_path, capsys):  # noqa: F811
    """Red if a problem that nothing can solve is trained on or evaluated on, or goes without a word."""
    rows = [ROW | {"text": f"Triple, {n}.", "test_list": [*TESTS, f"assert triple({n}) == {3 * n}"]} for n in range(30)]
    rows[16]["code"] = "def triple(x):\n    return x"
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    args = small(dataset=path, split="all", eval_dataset="functions")
    assert len(common.load_problems_for(args)[0]) == 29
    assert capsys.readouterr().err == f"left out {path} row 17: the reference solution fails its own tests\n"
    problems = common.solvable(common.load_problems(path, "all"), unsafe=False)
    assert [problem.question for problem in problems if "16" in problem.question] == []
    path = write_jsonl(tmp_path / "none.jsonl", [row | {"code": "def triple(x): return x"} for row in rows])
    with pytest.raises(common.InputError, match="no reference solution of .*none.jsonl passes"):
        common.load_problems_for(small(dataset=path, split="all", eval_dataset="functions"))


# ---- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [0, 1, 3, 9])
def test_tests_in_prompt(tmp_path, shown):
    """Exactly the first N tests stand in every prompt, before anything that is not the problem's."""
    path = write_jsonl(tmp_path / "rows.jsonl", [ROW])
    (problem,) = common.load_problems(path, "all", tests_in_prompt=shown)
    prompts = [
        common.attempt_messages(problem),
        common.feedback_messages(problem, "z"),
        common.refine_messages(problem, "z", "g"),
        common.self_correct_messages(problem, "z"),
    ]
    for messages in prompts:
        text = messages[0]["content"]
        assert text.startswith(problem.statement) and problem.statement.startswith(ROW["text"])
        assert [test in str([m["content"] for m in messages]) for test in TESTS[:2]] == [shown > 0, shown > 1]
    instructions = (common.SOLVE_CODE, common.CHECK_CODE, common.REFINE_CODE, common.SELF_CORRECT_CODE)
    assert all(messages[-1]["content"].endswith(text) for messages, text in zip(prompts, instructions))


# ---- verdicts ------------------------------------------------------------------------------------------------------


def test_verdicts_come_in_order(tmp_path):
    """Programs run side by side, maths and code mixed, and each verdict is that of its own pair."""
    (code,) = load_all(tmp_path, ROW)
    maths = common.Problem("1 + 1?", "2")
    responses = [RIGHT, "\\boxed{2}", WRONG, "\\boxed{3}", "no program", RIGHT, "#### 2"] * 5
    problems = [code, maths, code, maths, code, code, maths] * 5
    assert common.judge_all(responses, problems) == [True, True, False, False, False, True, True] * 5
    assert common.verify_all(responses, problems, strict_answers=True) == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0] * 5


def test_what_is_cut_short_is_wrong_and_counted(tmp_path, small):
    """An endless program and a hopeless number have no verdict: reward 0, and a metric that says how often."""
    (code,) = load_all(tmp_path, ROW)
    maths = common.Problem("Guess", "2")
    turns = [["```\nwhile True: pass\n```", "\\boxed{3000!^{3000!}}"], [RIGHT, "\\boxed{2}"]]
    args = small(code_timeout=0.3)
    rewards, metrics = common.verify_turns(turns, [code, maths], args)
    assert rewards == [[0.0, 0.0], [1.0, 1.0]]
    assert metrics["rollout/undecided"] == 0.5 and 0.3 <= metrics["charts/verify_seconds"] < 60


# ---- training ------------------------------------------------------------------------------------------------------


def many(tmp_path) -> str:
    """A file of forty problems that one program solves."""
    rows = [ROW | {"text": f"Triple, {n}.", "test_list": [*TESTS, f"assert triple({n}) == {3 * n}"]} for n in range(40)]
    return write_jsonl(tmp_path / "many.jsonl", rows)


def test_training_on_code(tmp_path, monkeypatch):
    """Rewards of a run on code are the sandbox's verdicts on the texts that it saved."""
    args = small_args(many(tmp_path), tmp_path / "run", iterations=1, rollout_size=8)
    generate, answers = mlmt_rl.generate, [RIGHT, WRONG, "no program"]

    def stub(model, tokenizer, prompts, max_new_tokens, args):
        turn = generate(model, tokenizer, prompts, max_new_tokens, args)
        return turn | {"texts": [answers[len(ids) % 3] for ids, _ in prompts]}

    monkeypatch.setattr(mlmt_rl, "generate", stub)
    mlmt_rl.main(args)
    episodes = read_jsonl(Path(args.run_dir) / "episodes.jsonl")
    assert {episode["reward_1"] for episode in episodes} | {episode["reward_2"] for episode in episodes} == {0.0, 1.0}
    for episode in episodes:
        assert TESTS[0] in episode["question"] and TESTS[1] not in episode["question"]
        assert episode["answer"].startswith("\n".join(TESTS))
        for turn in ("attempt", "refinement"):
            assert episode[f"reward_{1 + (turn == 'refinement')}"] == (episode[turn] == RIGHT)
    row = read_jsonl(Path(args.run_dir) / "metrics.jsonl")[1]
    assert row["rollout/undecided"] == 0 and row["charts/verify_seconds"] > 0
    config = json.loads((Path(args.run_dir) / "config.json").read_text())
    assert config["args"]["tests_in_prompt"] == 1 and config["args"]["unsafe_code"] is False


def test_strict_answers_reach_the_reward(small, problem_file):
    """Red if --strict-answers is not what the rewards of a run are made with."""
    problem = common.load_problems(problem_file, "all")[0]
    for strict, reward in ((False, 1.0), (True, 0.0)):
        args = small(strict_answers=strict)
        assert common.verify_turns([[f"#### {problem.answer}"]], [problem], args)[0] == [[reward]]


def test_no_sandbox_ends_the_run_before_it_starts(small, refused, tmp_path, monkeypatch):  # noqa: F811
    """A machine without isolation is refused in one sentence; --unsafe-code trains there and says so."""
    path = many(tmp_path)
    monkeypatch.setattr(sandbox, "LAYERS", {("tardis",): "time"})
    try:
        assert "--unsafe-code" in refused(small(dataset=path))
        mlmt_rl.main(small(dataset=path, iterations=1, unsafe_code=True))
    finally:
        monkeypatch.undo()
        sandbox.start_sandbox()


def test_a_timeout_of_zero_is_refused(small, refused):  # noqa: F811
    """It would make every program wrong."""
    assert "--code-timeout 0.0 must be above 0" in refused(small(code_timeout=0.0))
