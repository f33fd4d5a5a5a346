"""Loading problems, rendering prompts, and one iteration on real data sets."""

import csv
import datetime
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import read_jsonl, small_args, write_jsonl
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import common
import mlmt_rl
from problems import loading
from problems.arithmetic import in_test_split, load_arithmetic

REPO = Path(__file__).resolve().parents[1]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")


def write_csv(path: Path, rows: list[dict]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def load_all(tmp_path, *rows: dict) -> list[common.Problem]:
    return common.load_problems(write_jsonl(tmp_path / "rows.jsonl", list(rows)), "all")


# ---- columns -------------------------------------------------------------------------------------------------------

MATH_ROWS = [
    {
        "question": f"Find\n$x + {n}$, if \"x\" is ½.",
        "answer": f"\\frac{{{2 * n + 1}}}{{2}}",
        "correct_answer": f"It is $\\boxed{{\\frac{{{2 * n + 1}}}{{2}}}}$.",
        "level": f"Level {n % 5 + 1}",
        "subject": "Algebra",
    }
    for n in range(60)
]  # fmt: skip


def test_columns_of_math(tmp_path):
    """Red if a column is not recognised, or a cell with a line break, a quote or a comma is read in part."""
    (problem,) = common.load_problems(write_csv(tmp_path / "m.csv", MATH_ROWS[3:4]), "all")
    assert problem == common.Problem(
        question='Find\n$x + 3$, if "x" is ½.',
        answer="\\frac{7}{2}",
        solution="It is $\\boxed{\\frac{7}{2}}$.",
        level=4,
        subject="Algebra",
        id=f"{tmp_path / 'm.csv'} row 1",
    )


def test_every_file_type_gives_the_same_problems(tmp_path):
    """Red if the answer to a question depends on the type of the file it stands in."""
    write_csv(tmp_path / "rows.csv", MATH_ROWS)
    write_jsonl(tmp_path / "rows.jsonl", MATH_ROWS)
    (tmp_path / "rows.json").write_text(json.dumps(MATH_ROWS, indent=1), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(MATH_ROWS), tmp_path / "rows.parquet")
    loaded = {}
    for kind in ("csv", "jsonl", "json", "parquet"):
        path = tmp_path / f"rows.{kind}"
        problems = common.load_problems(str(path), "all")
        assert [problem.id for problem in problems] == [f"{path} row {n}" for n in range(1, 61)]
        loaded[kind] = [(p.question, p.answer, p.solution, p.tests, p.level, p.subject) for p in problems]
    assert len(set(loaded["csv"])) == 60
    assert loaded["csv"] == loaded["jsonl"] == loaded["json"] == loaded["parquet"]


def test_numbers_are_read_as_text(tmp_path):
    """Red if an answer that JSON holds as a number, 0 too, is lost or not comparable."""
    problems = load_all(tmp_path, *({"problem": "1 - 1?", "answer": value} for value in (0, -2, 1.5)))
    assert [problem.answer for problem in problems] == ["0", "-2", "1.5"]
    assert all(common.verify(f"\\boxed{{{problem.answer}}}", problem) == 1.0 for problem in problems)


@pytest.mark.parametrize("column", ["question", "problem", "prompt"])
def test_names_of_the_question_column(tmp_path, column):
    """Red if a name that data sets use for the question is not recognised."""
    assert load_all(tmp_path, {column: "1 + 1?", "answer": "2"})[0].question == "1 + 1?"


def test_answers_of_gsm8k(tmp_path):
    """Red if the worked solution is taken for the answer, or is lost."""
    text = "She has 2 * 3 = <<2*3=6>>6 #1 pens.\n#### 1,006"
    (problem,) = load_all(tmp_path, {"question": "How many?", "answer": text})
    assert (problem.answer, problem.solution) == ("1,006", text)
    assert common.verify("The answer is \\boxed{1006}", problem) == 1.0


@pytest.mark.parametrize("column", ["solution", "correct_answer"])
def test_answers_from_a_solution_alone(tmp_path, column):
    """Red if the box of a solution is not found, or its inner braces are cut."""
    (problem,) = load_all(tmp_path, {"problem": "Find it.", column: "So $\\boxed{\\frac{1}{2}}$, as \\boxed was."})
    assert problem.answer == "\\frac{1}{2}"


def test_several_boxes_are_one_answer(tmp_path):
    """Red if a solution that ends in two boxes accepts the last one alone as the answer."""
    solution = "The roots are $\\boxed{-2}$ and $\\boxed{1}.$"
    (problem,) = load_all(tmp_path, {"problem": "Find all roots.", "answer": "1", "solution": solution})
    assert common.verify("\\boxed{1, -2}", problem) == 1.0
    assert common.verify("\\boxed{1}", problem) == common.verify("\\boxed{-2}", problem) == 0.0


def test_a_box_in_the_solution_does_not_replace_another_answer(tmp_path):
    """Red if the answer column gives way to a solution that boxes something else."""
    (problem,) = load_all(tmp_path, {"problem": "x?", "answer": "3", "solution": "First \\boxed{1, 2}, then 3."})
    assert problem.answer == "3"


GOLDS = [  # the cell, the gold answer
    ("29", "29"),
    (29, "29"),
    (29.5, "29.5"),
    (["29"], "29"),
    (["1/2", 3], "1/2, 3"),
    ('["29"]', "29"),
    ("['29', '30']", "29, 30"),
    ("[1, 2]", "[1, 2]"),  # an interval
    ("She has 29.\n#### 29\nThe answer is: 29", "29"),
    ("She has 28. Then one more. The answer is 29.", "29"),
    ("First 28.\nSo \\boxed{29}.", "29"),
    ("\\boxed{29}", "29"),
    ("\\text{no solution}", "\\text{no solution}"),
    ("infinitely many solutions", "infinitely many solutions"),
    ("3,5", "3,5"),  # two numbers
]


@pytest.mark.parametrize(("cell", "gold"), GOLDS)
def test_gold_answers_are_unwrapped_where_the_meaning_is_plain(tmp_path, cell, gold):
    (problem,) = load_all(tmp_path, {"question": "How many?", "answer": cell})
    assert problem.answer == gold
    assert common.verify(f"So $\\boxed{{{gold}}}$.", problem) == 1.0


@pytest.mark.parametrize(
    "cell",
    [
        *("nan", "NaN", "None", "null", float("nan"), [], "$", "{}", "\\frac{1}{2", "1}{2", {"value": 29}),
        *(".", "..."),
        "She has 28 pens. Then she buys one more.",
        "She has 28 pens.\nThen she buys one more.",
        " ".join(["word"] * 30),
    ],
)
def test_gold_answers_that_no_response_can_state_are_refused(tmp_path, cell):
    """The row is named, whatever is wrong with it."""
    rows = {"question": "How many?", "answer": "2"}, {"question": "How many?", "answer": cell}
    with pytest.raises(common.InputError, match=r"rows.jsonl row 2: the answer "):
        load_all(tmp_path, *rows)


def test_an_evaluation_leaves_such_golds_out_and_says_so(tmp_path, capsys):
    """As College Math has a hundred of them; a matrix of several lines is a gold answer."""
    rows = [{"question": f"{n}?", "answer": "It is big. So is this." if n == 3 else str(n)} for n in range(9)]
    rows.append({"question": "A matrix?", "answer": "$$\n\\begin{bmatrix}1\\\\2\\end{bmatrix}\n$$"})
    path = write_jsonl(tmp_path / "golds.jsonl", rows)
    assert len(common.load_problems(path, "all", leave_out=True)) == 9
    assert capsys.readouterr().err == f"{path}: left out row 4, which nothing could be judged by\n"
    _, held_out = common.load_train_and_eval("arithmetic", "train", path, "all", 20)
    assert len(held_out) == 9


HUB_ROWS = {  # the columns each set has at its revision
    "minerva": [{"question": "What is $c$?", "answer": "2.998e8", "solution": "It is known."}],
    "olympiadbench": [
        {"question": "Solve.", "final_answer": ["$2$", "$-3$"], "solution": ["Factor.", "Or guess."], "unit": None},
        {"question": "Show it.", "final_answer": ["It is big. So is this."], "unit": None},
    ],
    "amc23": [{"id": 0, "answer": 27.0, "url": "u", "question": "How far?"}],
    "aime24": [{"id": 60, "problem": "Find $m+n$.", "solution": "\\boxed{204}", "url": "u"}],
    "aime25": [{"problem": "Find the sum.", "answer": "070", "id": "0"}],
    "math": [
        {"problem": "a", "solution": "\\boxed{}"},
        {"problem": "b", "solution": "so \\boxed{5}", "level": "Level 3"},
    ],
}
RIGHT = {"minerva": "2.998 \\times 10^8", "olympiadbench": "-3, 2", "amc23": "27"}
RIGHT |= {"aime24": "204", "aime25": "70", "math": "5"}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_hub_sets_are_read_at_their_revision(name, monkeypatch, capsys):
    """Red if a set loses its pin, a column is not read, or one gold that nobody can state ends an evaluation."""
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: asked.append((*a, k)) or HUB_ROWS[name])
    loading.say.cache_clear()
    problem = common.load_problems(name, "test", leave_out=True)[0]
    ((repository, configuration, options),) = asked
    assert (repository, configuration, options["revision"]) == loading.HUB_DATASETS[name] and options["split"] == "test"
    assert re.fullmatch("[0-9a-f]{40}", options["revision"])
    assert common.verify(f"\\boxed{{{RIGHT[name]}}}", problem) == 1.0 and common.verify("\\boxed{1}", problem) == 0.0
    assert problem.id == f"{name}/test row {1 + (name == 'math')}"
    assert ("left out row 2," in capsys.readouterr().err) == (name == "olympiadbench")
    with pytest.raises(common.InputError, match="has no split 'validation'"):
        common.load_problems(name, "validation")


MESSAGE = {"role": "user", "content": "1 + 1?"}


def test_a_conversation_as_the_question(tmp_path):
    """Red if the messages of a prompt column become the text of a Python list."""
    system = {"role": "system", "content": "Be brief."}
    for value in ([MESSAGE], json.dumps([MESSAGE]), str([MESSAGE])):
        assert load_all(tmp_path, {"prompt": value, "answer": "2"})[0].question == "1 + 1?"
    assert load_all(tmp_path, {"prompt": [system, MESSAGE], "answer": "2"})[0].question == "Be brief.\n\n1 + 1?"
    for value in ([MESSAGE, MESSAGE], [{"role": "user"}], ["1 + 1?"], [{"role": "user", "content": [1]}], []):
        with pytest.raises(common.InputError, match="row 1: the question is"):
            load_all(tmp_path, {"prompt": value, "answer": "2"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": float("nan"), "answer": "2"}, "the question is of type float, not a text"),
        ({"question": {"text": "What?"}, "answer": "2"}, "the question is of type dict, not a text"),
        ({"question": "1 + 1?", "answer": True}, "the answer is of type bool, not a text or a number"),
        ({"question": "1 + 1?", "answer": {"a": 1}}, "the answer is an object, not a text"),
        ({"question": "1 + 1?", "answer": ["2", None, False]}, "the answer is of type bool"),
        ({"question": "1 + 1?", "answer": float("-inf")}, "the answer is -inf: write what a response would state"),
        ({"question": "1 + 1?", "Question": "2 + 2?", "answer": "2"}, "two columns of one name"),
        ({"question": "f", "entry_point": "f", "test": "def check(f): pass", "solution": "x"}, "check asserts nothing"),
        ({"question": "f", "input_output": "[" * 100_000}, "input_output is nested too deeply"),
        ({"question": "f", "input_output": ""}, "input_output is empty"),
        ({"question": "1?", "answer": "['2' '3']"}, "answer has texts with no comma between them"),
        ({"question": "f", "test_list": "['assert f(1) == 2'\n 'assert f(2) == 3']"}, "no comma between them"),
        ({"prompt": "[{'role': 'user'} {'content': '1?'}]", "answer": "2"}, "looks like a conversation"),
    ],
    ids=str,
)
def test_cells_that_are_no_text(tmp_path, row, reason):
    """Red if Python's name of a value becomes a question, or a gold that no response states."""
    with pytest.raises(common.InputError, match=reason):
        load_all(tmp_path, row)


def test_parquet_cells_that_are_no_text(tmp_path):
    """Red if the gold of a date is a difference: 2020-01-01 is 2018."""
    for value, kind in ((datetime.date(2020, 1, 1), "date"), (b"2", "bytes")):
        table = pyarrow.table({"question": ["When?"], "answer": [value]})
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        with pytest.raises(common.InputError, match=f"row 1: the answer is of type {kind}"):
            common.load_problems(str(tmp_path / "rows.parquet"), "all")


@pytest.mark.parametrize("dataset", ["arithmetic", "functions", "countdown", "conventions"])
def test_nothing_of_a_generated_evaluation_set_is_trained_on(dataset, monkeypatch):
    """Red if its test split can be trained on, or if the train split loses problems that the test split has not."""
    monkeypatch.setattr(loading, "GENERATED_SIZES", {"train": 500, "test": 100})
    for split in ("test", "train"):
        with pytest.raises(common.InputError, match="every problem of .* is in the evaluation set"):
            common.load_train_and_eval(dataset, split, dataset, split, 5)
    training, held_out = common.load_train_and_eval(dataset, "test", dataset, "train", 5)
    assert len(held_out) == 5 and len(training) == len(common.load_problems(dataset, "test"))


TABLE = "question,answer\nWas kostet es?,½\n"
TABLES = {
    "blank.csv": f"\r\n\n{TABLE}".encode(),
    "semicolon.csv": TABLE.replace(",", ";").encode(),
    "tab.csv": TABLE.replace(",", "\t").encode(),
    "capital.csv": TABLE.replace("question", "Question").replace("answer", " ANSWER ").encode(),
    "mark.csv": TABLE.encode("utf-8-sig"),
    "wide.csv": TABLE.encode("utf-16"),
    "wide.jsonl": '{"question": "Was kostet es?", "answer": "½"}'.encode("utf-16"),
    "LOUD.CSV": TABLE.encode(),
    "loud.JSONL": '{" Question": "Was kostet es?", "Answer": "½"}'.encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_programs_save_them(tmp_path, name):
    (tmp_path / name).write_bytes(TABLES[name])
    (problem,) = common.load_problems(str(tmp_path / name), "all")
    assert (problem.question, problem.answer) == ("Was kostet es?", "½")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.encode("cp1252"), r"a.csv is not UTF-8 \(line 2\): save it with the encoding UTF-8"),
        (b'question,answer\n"5+1?,6\n6+1?,7\n"7+1?",8\n', "a.csv line 4 cannot be read as csv: "),
        (b"question,answer,answer\n1?,2,3\n", "a.csv has two columns of one name: question, answer, answer"),
        (b"question,answer\n1, 2, 3?,4\n", "a.csv row 1 has more cells than the header: .* ',' in quotes"),
        (b"question;answer\nHalf of 7?;3,5\n", "a.csv row 1: the answer 3,5 may be a decimal number or two numbers"),
        (b'{"question": "1?", "answer": 1}\n\n// and more\n', "a.jsonl line 3 is not JSON: Expecting value$"),
        (b'{"question": "1?", "answer": 1}\n{"question": "2?", "answer": 2}', "must be named .jsonl"),
    ],
)
def test_tables_that_would_be_misread_are_refused(tmp_path, content, message):
    """Red too if the file is named twice."""
    kind = "csv" if b"{" not in content else "jsonl" if b"//" in content else "json"
    (tmp_path / f"a.{kind}").write_bytes(content)
    with pytest.raises(common.InputError, match=message) as error:
        common.load_problems(str(tmp_path / f"a.{kind}"), "all")
    assert str(error.value).count(f"a.{kind}") == 1


def test_one_table_of_both_kinds(tmp_path):
    """A Parquet file gives each row each column: red if a null makes a mathematical problem one of code."""
    code = {"question": "f?", "test_list": ["assert f() == 1"], "input_output": None, "answer": None}
    maths = {"question": "1 + 1?", "test_list": None, "input_output": None, "answer": "2"}
    solved = {"question": "1 + 2?", "test_list": None, "solution": "It is \\boxed{3}."}
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([code | {"solution": None}, maths, solved]), tmp_path / "rows.parquet"
    )
    problems = common.load_problems(str(tmp_path / "rows.parquet"), "all")
    assert [(p.answer, p.tests) for p in problems] == [("", ("assert f() == 1",)), ("2", ()), ("3", ())]


def test_maths_in_a_table_with_programs_is_refused_by_row(tmp_path):
    """Red if a gold answer that cannot be read is passed over because other rows have an entry_point."""
    rows = {"question": "1 + 1?", "answer": "2", "entry_point": ""}, {"question": "2 + 2?", "answer": "$"}
    with pytest.raises(common.InputError, match=r"rows.jsonl row 2: the answer "):
        load_all(tmp_path, *({"entry_point": None} | row for row in rows))
    with pytest.raises(common.InputError, match=r"rows.jsonl row 1: the solution states no final answer"):
        load_all(tmp_path, {"question": "1 + 1?", "solution": "We add."})


# ---- splits and subsets --------------------------------------------------------------------------------------------


@pytest.fixture
def math_file(tmp_path) -> str:
    return write_csv(tmp_path / "math.csv", MATH_ROWS)


def test_the_splits_of_a_file(math_file):
    """Red if a problem of a file is in both splits, in none, or changes sides when other rows come and go."""
    splits = {split: common.load_problems(math_file, split) for split in ("train", "test", "all")}
    assert {split: len(problems) for split, problems in splits.items() if not problems} == {}
    assert not set(splits["train"]) & set(splits["test"])
    assert set(splits["train"]) | set(splits["test"]) == set(splits["all"])
    rows = [int(problem.id.split()[-1]) for problem in splits["test"]]
    assert rows == [9, 13, 15, 20, 25, 30, 44]  # by a hash that is the same in every process
    path = write_csv(Path(math_file).with_name("half.csv"), MATH_ROWS[::-2])
    for split in ("train", "test"):
        questions = {problem.question for problem in splits[split]}
        assert {problem.question for problem in common.load_problems(path, split)} <= questions


def test_evaluation_questions_are_not_trained_on(tmp_path, math_file):
    """Red if a question of the evaluation set is trained on: of another file, in another layout, not drawn for it."""
    held_out = [row | {"question": row["question"].replace("\n", "  ")} for row in MATH_ROWS[:20]]
    path = write_jsonl(tmp_path / "held_out.jsonl", held_out)
    training, evaluation = common.load_train_and_eval(math_file, "all", path, "all", eval_size=5)
    assert [problem.id for problem in training] == [f"{math_file} row {n}" for n in range(21, 61)]
    assert len(evaluation) == 5

    training, evaluation = common.load_train_and_eval(math_file, "all", math_file, "test", eval_size=2)
    assert set(training) == set(common.load_problems(math_file, "train"))
    assert set(evaluation) < set(common.load_problems(math_file, "test"))


def test_a_small_file_holds_out_one_question(tmp_path):
    """Red if a file none of whose questions falls into the test split has nothing to evaluate on."""
    rows = [{"question": f"Small {n}?", "answer": str(n)} for n in range(9)]
    rows = [row for row in rows if not in_test_split(row["question"])]
    path = write_jsonl(tmp_path / "small.jsonl", rows + rows[:3])
    train, test = (common.load_problems(path, split) for split in ("train", "test"))
    assert len({problem.question for problem in test}) == 1 and len(train) + len(test) == len(rows) + 3
    assert not {p.question for p in train} & {p.question for p in test}
    path = write_jsonl(tmp_path / "one.jsonl", rows[:1])
    with pytest.raises(common.InputError, match="--eval-dataset"):
        common.load_train_and_eval(path, "train", path, "test", 10)


def test_limit_and_seed(math_file):
    """Red if a subset depends on more than its seed and size, or is the head of the file."""
    every = common.load_problems(math_file, "all")
    first, again, other = (common.load_problems(math_file, "all", limit=10, seed=seed) for seed in (1, 1, 2))
    assert first == again and len(set(first)) == 10 and set(first) < set(every)
    assert set(first) != set(other) and set(first) != set(every[:10])
    assert common.load_problems(math_file, "all", limit=60) == common.load_problems(math_file, "all", limit=99) == every


def test_min_level(math_file, tmp_path):
    """Red if an easier problem gets in, a harder one is dropped, or one of unknown level counts as hard."""
    problems = common.load_problems(math_file, "all", min_level=4)
    assert len(problems) == 24 and {problem.level for problem in problems} == {4, 5}
    path = write_jsonl(tmp_path / "levels.jsonl", [MATH_ROWS[4], MATH_ROWS[9] | {"level": "Level ?"}])
    assert [problem.level for problem in common.load_problems(path, "all", min_level=1)] == [5]
    with pytest.raises(common.InputError, match="--min-level 6: .* in its split 'all': the highest is 5$"):
        common.load_problems(path, "all", min_level=6)


def test_arithmetic_is_the_same_every_time():
    """Red if the embedded problems depend on anything but split and seed, or a shorter list is not a prefix."""
    problems = load_arithmetic("test", 50, 0)
    assert problems == load_arithmetic("test", 50, 0) == load_arithmetic("test", 80, 0)[:50]
    assert problems != load_arithmetic("test", 50, 1)
    assert len({problem.question for problem in problems}) == 50
    assert all(in_test_split(problem.question) for problem in problems)
    assert not any(in_test_split(problem.question) for problem in load_arithmetic("train", 50, 0))


def test_arithmetic_by_name():
    """Red if `load_problems` gives other problems than the generator, or a split of another size."""
    training, evaluation = common.load_train_and_eval("arithmetic", "train", "arithmetic", "test", eval_size=100)
    assert len(training) == 5000 and len(evaluation) == 100
    assert not {problem.question for problem in training} & {problem.question for problem in evaluation}
    hard = common.load_problems("arithmetic", min_level=5, limit=7, seed=3)
    assert len(hard) == 7 and {problem.level for problem in hard} == {5}


# ---- prompts -------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PROBLEM = common.Problem("Ann has 12 keys.\n1:gets 5\nHow many now?", "17")


@pytest.fixture(params=[None, TEMPLATE], ids=["plain", "template"])
def tokenizer(request):
    tokenizer = AutoTokenizer.from_pretrained(REPO / "tiny")
    tokenizer.chat_template = request.param
    return tokenizer


def test_a_prompt_is_its_messages(tokenizer):
    """Red if a turn's text is lost, doubled, or out of order, with a template or without."""
    messages = common.refine_messages(PROBLEM, "1:17\n\\boxed{17}", "all ok")
    text = tokenizer.decode(common.encode_prompt(tokenizer, messages)[0])
    if tokenizer.chat_template:
        assert text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    else:
        assert text == "".join(message["content"] + "\n" for message in messages)
    parts = (PROBLEM.question, common.SOLVE, "1:17\n\\boxed{17}", common.FEEDBACK, "all ok", common.REFINE)
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and all(text.count(part) == 1 for part in parts)


def test_the_prefix_is_the_question_whatever_follows(tokenizer):
    """Red if the place where V(x) is read depends on the attempt, or cuts the question."""
    prefixes = set()
    for attempt in ("", "1:17", "\n\n  8\n", "keys.\n1:gets 5\nHow many now?", "\u00e9\u4e2d"):
        ids, length = common.encode_prompt(tokenizer, common.feedback_messages(PROBLEM, attempt), PROBLEM.statement)
        prefixes.add(tuple(ids[:length]))
        assert length < len(ids)
        assert attempt.strip() in tokenizer.decode(ids[length:])
    (prefix,) = prefixes
    start = "<bos><|user|>\n" if tokenizer.chat_template else ""
    assert tokenizer.decode(prefix) == f"{start}{PROBLEM.question}\n\n"


@pytest.mark.parametrize(
    "template",
    [
        None,
        TEMPLATE,
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | e }}<|im_end|>\n{% endfor %}<|im_start|>",
        "{% for m in messages %}{{ {'role': m.role, 'content': m.content | upper} | tojson }}{% endfor %}",
    ],
    ids=["plain", "template", "escapes", "JSON"],
)
@pytest.mark.parametrize(
    "question", ["a", "user", "Is 1 < 2 & \"2\" > '1'? 10", "100", "m|>\n", "Put the final answer"]
)
def test_the_end_of_the_question_is_found_by_construction(template, question):
    """Red if it is searched for: inside the template's own words, or as the template has not written it."""
    tokenizer = AutoTokenizer.from_pretrained(REPO / "tiny")
    tokenizer.chat_template = template
    problem, found = common.Problem(question, "1"), set()
    for attempt in ("", question, f"10 {question} 100", "<|im_start|>"):
        messages = common.feedback_messages(problem, attempt)
        ids, length = common.encode_prompt(tokenizer, messages, problem.statement)
        before, after = tokenizer.decode(ids[:length]), tokenizer.decode(ids[length:])
        assert before + after == common.render(tokenizer, messages)
        assert after.lower().lstrip("\\n").startswith("a student")
        found.add(before)
    assert len(found) == 1


@pytest.mark.parametrize("template", ["{{ messages[0].role }}", "{{ messages[0].content }}{{ messages[0].content }}"])
def test_a_template_that_does_not_show_the_question_once_is_refused(template):
    tokenizer = AutoTokenizer.from_pretrained(REPO / "tiny")
    tokenizer.chat_template = template
    messages = common.feedback_messages(PROBLEM, "")
    with pytest.raises(common.InputError, match="must show the last message once"):
        common.encode_prompt(tokenizer, messages, PROBLEM.statement)


def test_without_a_question_the_prefix_is_the_prompt(tokenizer):
    """Red if the solver's prompts are cut in two."""
    ids, length = common.encode_prompt(tokenizer, common.attempt_messages(PROBLEM))
    assert length == len(ids)


def test_special_tokens_come_from_the_template_or_the_tokenizer(tokenizer):
    """Red if a beginning-of-sequence token is missing without a template, or doubled with one that writes it."""
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    messages = common.feedback_messages(PROBLEM, "1:17")
    for statement in ("", PROBLEM.statement):
        ids, _ = common.encode_prompt(tokenizer, messages, statement)
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


# ---- real data sets ------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("name", "rows"), [("MATH.csv", 1500), ("gsm8k/test.jsonl", 1319), ("math/math500.jsonl", 500)]
)
def test_real_gold_answers_verify(name, rows):
    """Red if a row of a real data set cannot be loaded, or its own gold answer would get no reward."""
    problems = common.load_problems(str(DATA / name), "all")
    assert len(problems) == rows
    chosen = problems[:: max(1, rows // 500)]
    assert len(chosen) > 200
    failed = [(p.id, p.answer) for p in chosen if common.verify(f"So it is $\\boxed{{{p.answer}}}$.", p) != 1.0]
    assert not failed, failed
    wrong = [p.id for p, other in zip(chosen, chosen[1:]) if common.verify(f"\\boxed{{{other.answer}}}", p) == 1.0]
    assert len(wrong) < len(chosen) // 5, "most problems accept another problem's answer"


@needs_data
@pytest.mark.parametrize("name", ["MATH.csv", "gsm8k/train.jsonl"])
def test_one_iteration_on_real_problems(name, tmp_path):
    """Red if a real data set cannot be trained on from end to end, with every episode graded and logged."""
    if name.endswith(".csv"):
        with (DATA / name).open(encoding="utf-8", newline="") as file:
            dataset = write_csv(tmp_path / "forty.csv", list(csv.DictReader(file))[:40])
    else:
        dataset = write_jsonl(tmp_path / "forty.jsonl", read_jsonl(DATA / name)[:40])
    args = small_args(dataset, tmp_path / "run", iterations=1)
    mlmt_rl.main(args)
    known = {p.id: (p.question, p.answer) for p in common.load_problems(dataset, "all")}
    episodes = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    held_out = min(args.eval_size, len(common.load_problems(dataset, "test")))
    assert [row["phase"] for row in episodes] == ["eval"] * held_out + ["rollout"] * 4 + ["eval"] * held_out
    for row in episodes:
        assert known[row["id"]] == (row["question"], row["answer"])
        assert row["reward_1"] in (0.0, 1.0) and row["reward_2"] in (0.0, 1.0)
        assert all(isinstance(row[turn], str) for turn in ("attempt", "feedback", "refinement"))
    metrics = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert metrics[1]["rollout/reward"] == sum(row["reward_2"] for row in episodes if row["phase"] == "rollout") / 4
    assert metrics[1]["losses/entropy"] > 0
