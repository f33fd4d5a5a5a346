"""Reads problems: the embedded ones, data sets of the Hugging Face hub, local files."""

import ast
import contextlib
import csv
import functools
import io
import json
import math
import random
import re
import sys
import tokenize
from decimal import Decimal
from pathlib import Path

from problems import InputError, Problem
from problems.arithmetic import in_test_split, load_arithmetic, split_key
from problems.code_forms import STREAM_SETUP, check_tests, examples, stream_asserts, stream_tests
from problems.conventions import load_conventions
from problems.countdown import load_countdown
from problems.functions import load_functions
from verifiers.asserts import defined_names, split_tests
from verifiers.math_answers import extract_answer, verify_math

# name: (hub repository, configuration, revision)
HUB_DATASETS = {
    "math": ("DigitalLearningGmbH/MATH-lighteval", "default", "0530c78699ea5e8eb5530600900e1f328b48acad"),
    "math500": ("HuggingFaceH4/MATH-500", "default", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
    "gsm8k": ("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"),
    "gsm8k-socratic": ("openai/gsm8k", "socratic", "740312add88f781978c0658806c59bc2815b9866"),
    "mbpp": ("google-research-datasets/mbpp", "full", "4bb6404fdc6cacfda99d4ac4205087b89d32030c"),
    "mbpp-sanitized": ("google-research-datasets/mbpp", "sanitized", "4bb6404fdc6cacfda99d4ac4205087b89d32030c"),
    "minerva": ("math-ai/minervamath", "default", "ee46ddc498933b1977577953250ca5c66be64f96"),
    "olympiadbench": ("math-ai/olympiadbench", "default", "4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84"),
    "amc23": ("math-ai/amc23", "default", "80815d37005feb82cd7f8fbc6901d5d3eff43057"),
    "aime24": ("math-ai/aime24", "default", "83a7f387baaa524a8bda0022eac0541582297103"),
    "aime25": ("math-ai/aime25", "default", "563bb8404243c5f09de6ec262f2db674fe5bce9b"),
}
HUB_SPLITS = dict.fromkeys(HUB_DATASETS, ("test",)) | dict.fromkeys(
    ("math", "gsm8k", "gsm8k-socratic"), ("train", "test")
)
HUB_SPLITS |= dict.fromkeys(("mbpp", "mbpp-sanitized"), ("train", "test", "validation", "prompt"))
FILE_TYPES = (".csv", ".json", ".jsonl", ".parquet")

GENERATED = ("arithmetic", "arithmetic-socratic", "countdown", "functions", "conventions")
GENERATED_SIZES = {"train": 5000, "test": 1000}  # problems generated for a split
COUNTDOWN_SIZES = {"train": 1500, "test": 300}  # there are few of two and three numbers: more would all be of four
QUESTION_COLUMNS = ("question", "problem", "prompt", "text")
ANSWER_COLUMNS = ("answer", "final_answer")
SOLUTION_COLUMNS = ("correct_answer", "solution")  # of a mathematical problem
CODE_COLUMNS = ("test_list", "input_output", "entry_point")
REFERENCE_COLUMNS = ("reference_solution", "code", "solution", "canonical_solution")  # of a code problem
MISSING = ("nan", "none", "null", "n/a", "<na>")  # what spreadsheets and data frames write for an empty cell
SENTENCES = re.compile(r"\A[^$\\\[]*\n|[.!?] +[A-Z][a-z]")  # parts the lines or sentences of a text
WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
MAX_WORDS = 25  # of a final answer


class NoGold(InputError):
    """An answer that no response can state: training refuses its file, an evaluation leaves it out, by name."""


def read_rows(path: Path) -> list[dict]:
    """The rows of a .csv, .json (a list of objects), .jsonl or .parquet file, under column names in lower case.

    A CSV may part its cells by commas, semicolons or tabs. Text is UTF-8, or UTF-16 that begins with its mark. Raises
    InputError.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            data = path.read_bytes()
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
            if kind == ".csv":
                rows = read_csv(path, text)
            elif kind == ".jsonl":
                rows = read_jsonl(path, text)
            else:
                rows = json.loads(text)
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].count(b"\n")
        raise InputError(f"{path} is not UTF-8 (line {line}): save it with the encoding UTF-8") from error
    except InputError:
        raise
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # bad JSON, a broken parquet file
        advice = ": a file with one object a line must be named .jsonl" if "Extra data" in str(error) else ""
        raise InputError(f"{path} cannot be read as {kind[1:]}: {error}{advice}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is not a list of objects, one for each problem")
    if not rows:
        raise InputError(f"{path} holds no rows")
    named = [{str(name).strip().lower(): value for name, value in row.items()} for row in rows]
    for number, (row, before) in enumerate(zip(named, rows), 1):
        if len(row) < len(before):
            raise InputError(f"{path} row {number} has two columns of one name: {', '.join(map(str, before))}")
    return named


def read_jsonl(path: Path, text: str) -> list[dict]:
    """The rows of a .jsonl file; blank lines are passed over. Raises InputError."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number} is not JSON: {getattr(error, 'msg', error)}") from error
    return rows


def read_csv(path: Path, text: str) -> list[dict]:
    """The rows of a CSV, whose header says what parts the cells. Raises InputError and csv.Error."""
    csv.field_size_limit(2**31 - 1)
    text = text.lstrip("\r\n")
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = [name.strip().lower() for name in reader.fieldnames or () if name.strip()]
    if len(set(names)) < len(names):
        raise InputError(f"{path} has two columns of one name: {', '.join(names)}")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{path} line {reader.reader.line_num} cannot be read as csv: {error}") from error
    for number, row in enumerate(rows, 1):
        if None in row:
            raise InputError(
                f"{path} row {number} has more cells than the header: put a text that contains {delimiter!r} in quotes"
            )
        if delimiter == ";" and re.fullmatch(r"\s*-?\d+,\d+\s*", row.get("answer") or ""):
            raise InputError(
                f"{path} row {number}: the answer {row['answer']} may be a decimal number or two numbers: "
                "write 3.5, or 3, 5 with a blank"
            )
    return rows


def cell(row: dict, *names: str) -> str:
    """The first of the named columns that is not empty in this row, as text; "" where all are."""
    return next((str(row[name]).strip() for name in names if row.get(name) is not None and str(row[name]).strip()), "")


def gold_answer(answer: str, solution: str) -> tuple[str, str]:
    """(final answer, worked solution) from the columns as data sets fill them.

    GSM8K keeps both in `answer`, parted by "####". MATH on the hub has only the solution, whose box is the answer. A
    MATH solution that ends in several boxes ("\\boxed{-2} and \\boxed{1}") has an `answer` column with the last one
    alone: then the solution's list is the answer. Of a whole solution in `answer`, its final answer counts; "" if it
    states none.
    """
    if "####" in answer:
        return answer.rsplit("####", 1)[1].strip().split("\n")[0], answer
    if "\\boxed" in answer or SENTENCES.search(answer) or len(WORDS.findall(answer)) > MAX_WORDS:
        return extract_answer(answer) or "", answer
    boxed = (extract_answer(solution) or "") if solution else ""
    several = answer in [part.strip() for part in boxed.split(",")] and boxed != answer
    return (boxed if several or not answer else answer), solution


def answer_text(row: dict, where: str) -> str:
    """The answer's column as text; the items of a list, or of the source of one, with commas. Raises InputError."""
    name = next((name for name in ANSWER_COLUMNS if row.get(name) not in (None, "")), "answer")
    value = row.get(name)
    if isinstance(value, str) and re.match(r"\s*\[\s*[\"']", value):
        value = text_list(row, name, where)
    for part in value if isinstance(value, (list, tuple)) else (value,):
        kind = "an object" if isinstance(part, dict) else f"of type {type(part).__name__}"
        if isinstance(part, bool) or not isinstance(part, (str, int, float, Decimal, list, tuple, type(None))):
            raise InputError(f"{where}: the answer is {kind}, not a text or a number")
        if isinstance(part, (float, Decimal)) and math.isinf(part):
            raise InputError(f"{where}: the answer is {part}: write what a response would state, as a text")
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    text = cell({"answer": value}, "answer")
    return "" if text.lower() in MISSING else text


def question_text(row: dict, where: str) -> str:
    """The question; of a conversation, what the system and the user say. Raises InputError."""
    value = next((row[name] for name in QUESTION_COLUMNS if row.get(name) not in (None, "")), "")
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        for parse in (json.loads, ast.literal_eval):  # a data frame writes the latter
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = parse(value)
                break
        if isinstance(value, str) and re.search(r"['\"]role['\"]", value):
            raise InputError(f"{where}: the question looks like a conversation, but cannot be read as JSON")
    if not isinstance(value, (str, list)):
        raise InputError(f"{where}: the question is of type {type(value).__name__}, not a text")
    if isinstance(value, str):
        return cell(row, *QUESTION_COLUMNS)
    turns = [(m.get("role"), m.get("content")) if isinstance(m, dict) else (None, None) for m in value]
    if [role for role, _ in turns] not in (["user"], ["system", "user"]) or not all(
        isinstance(t, str) for _, t in turns
    ):
        raise InputError(
            f"{where}: the question is a list, but not one message of the user, perhaps after one of the system"
        )
    return "\n\n".join(text.strip() for _, text in turns).strip()


def text_list(row: dict, name: str, where: str) -> list[str]:
    """A column that holds a list of texts, as a list or as Python or JSON source of one. Raises InputError."""
    value = row.get(name)
    if isinstance(value, str):
        source = value.strip()
        try:
            value = ast.literal_eval(source)  # never eval: this is data
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
        else:
            tokens = tokenize.generate_tokens(io.StringIO(source).readline)
            if isinstance(value, list) and sum(token.type == tokenize.STRING for token in tokens) > len(value):
                reason = "has texts with no comma between them, as numpy writes a list"
                raise InputError(f"{where}: {name} {reason}: write it as JSON")
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {name} is not a list of texts")
    return list(value)


def code_tests(row: dict, where: str, tests_in_prompt: int) -> tuple[tuple[str, ...], str, str]:
    """(asserts, setup code, examples for the prompt that are no asserts) of a row. Raises ValueError."""
    if row.get("input_output"):
        cases = stream_tests(row["input_output"])
        return tuple(stream_asserts(cases)), STREAM_SETUP, examples(cases[:tests_in_prompt])
    if "entry_point" not in row and "test_list" not in row:
        raise ValueError("input_output is empty")
    if row.get("test_list") not in (None, "") or "entry_point" not in row:
        imports = text_list(row, "test_imports", where) if row.get("test_imports") else []
        tests = text_list(row, "test_list", where)
        if not tests:
            raise ValueError("test_list is empty")
        return tuple(tests), "\n".join([*imports, cell(row, "test_setup_code")]).strip(), ""
    tests, setup_code = check_tests(cell(row, "test"), cell(row, "entry_point"))
    return tuple(tests), setup_code, ""


def to_problem(row: dict, where: str, tests_in_prompt: int) -> Problem:
    """One row as a Problem; `where` names the row in errors and is its id. Raises InputError."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: half of a surrogate pair stands alone, which is no character") from error
    question = question_text(row, where)
    if not question:
        raise InputError(f"{where}: the question is empty")
    level = re.search(r"\d{1,9}", cell(row, "level"))
    level, subject = int(level[0]) if level else None, cell(row, "subject", "type")
    tested = any(row.get(name) not in (None, "") for name in CODE_COLUMNS)  # in a table of both kinds some are empty
    answered = cell(row, *ANSWER_COLUMNS) or "\\boxed" in cell(row, *SOLUTION_COLUMNS)
    if tested or (any(name in row for name in CODE_COLUMNS) and not answered):
        reference = cell(row, *REFERENCE_COLUMNS).replace("\r\n", "\n")
        if "entry_point" in row and row.get("canonical_solution"):  # the rest of a function that the prompt begins
            reference = f"{row.get('prompt') or ''}{row['canonical_solution']}"
        try:
            tests, setup_code, shown = code_tests(row, where, tests_in_prompt)
            split_tests(tests, setup_code, defined_names(reference))
        except ValueError as error:
            raise error if isinstance(error, InputError) else InputError(f"{where}: {error}") from error
        if shown:
            question, tests_in_prompt = f"{question}\n\n{shown}", 0
        return Problem(question, "", reference, tests, setup_code, tests_in_prompt, level, subject, id=where)
    text = answer_text(row, where)
    answer, solution = gold_answer(text, cell(row, *SOLUTION_COLUMNS))
    if not answer and text:
        raise NoGold(f"{where}: the answer is a text that states no final answer: {text[:60]!r}")
    if not answer:
        given = any(name in row for name in ANSWER_COLUMNS)
        raise InputError(f"{where}: the {'answer is empty' if given else 'solution states no final answer'}")
    if not re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", answer) and not verify_math(rf"\[\boxed{{ {answer} }}\]", answer):
        raise NoGold(f"{where}: the answer cannot be read, so that no response would be right: {answer[:60]!r}")
    return Problem(question, answer, solution, level=level, subject=subject, id=where)


def to_problems(rows: dict[int, dict], name: str, tests_in_prompt: int, leave_out: bool) -> list[Problem]:
    """The numbered rows of a set as Problems; says on stderr which it leaves out. Raises InputError."""
    problems, left_out = [], []
    for number, row in rows.items():
        try:
            problems.append(to_problem(row, f"{name} row {number}", tests_in_prompt))
        except InputError as error:
            if not cell(row, "entry_point") and not (leave_out and isinstance(error, NoGold)):
                raise
            left_out.append(cell(row, "task_id") or f"row {number}")
    if not problems:
        number, row = next(iter(rows.items()))
        to_problem(row, f"{name} row {number}", tests_in_prompt)  # says why
    if left_out:
        names = ", ".join(left_out[:10]) + f" and {len(left_out) - 10} more" * (len(left_out) > 10)
        say(f"{name}: left out {names}, which nothing could be judged by")
    return problems


def load_file(path: Path, split: str, tests_in_prompt: int, leave_out: bool) -> list[Problem]:
    """The problems of a local file: split "train" or "test" (about one question in ten, by its text), or "all".

    At least one question is in the test split. HumanEval's problems whose check does more than assert are left out, and
    with leave_out those whose answer no response can state.
    """
    rows = read_rows(path)
    for names in (QUESTION_COLUMNS, (*ANSWER_COLUMNS, *SOLUTION_COLUMNS, *CODE_COLUMNS)):
        if not any(name in row for row in rows for name in names):
            columns = ", ".join(rows[0])
            raise InputError(f"{path} has no column {' or '.join(names)}; its columns are {columns}")
    problems = to_problems(dict(enumerate(rows, 1)), str(path), tests_in_prompt, leave_out)
    if split == "all":
        return problems
    held_out = {problem.question for problem in problems if in_test_split(problem.question)}
    held_out = held_out or {min((problem.question for problem in problems), key=split_key)}
    return [problem for problem in problems if (problem.question in held_out) == (split == "test")]


@functools.cache
def say(text: str) -> None:
    """Once in a process."""
    print(text, file=sys.stderr)


def load_hub(dataset: str, split: str, tests_in_prompt: int, leave_out: bool) -> list[Problem]:
    """The problems of a data set on the Hugging Face hub, at a pinned revision."""
    import datasets

    repository, configuration, revision = HUB_DATASETS[dataset]
    try:
        rows = datasets.load_dataset(repository, configuration, split=split, revision=revision)
    except Exception as error:  # no network, a proxy, no disk space: the library raises a dozen types for them
        reason = str(error).split("\n")[0]
        raise InputError(f"{dataset} ({repository}) could not be loaded from the hub: {reason}") from error
    rows = dict(enumerate(rows, 1))
    if dataset == "math":  # two boxes of its training split are empty
        rows = {number: row for number, row in rows.items() if extract_answer(row["solution"])}
    return to_problems(rows, f"{dataset}/{split}", tests_in_prompt, leave_out)


def load_problems(
    dataset: str,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    min_level: int | None = None,
    tests_in_prompt: int = 1,
    leave_out: bool = False,
) -> list[Problem]:
    """The problems of one split.

    dataset: a name of GENERATED or HUB_DATASETS, or the path of a local file. A row with
    test_list, input_output or entry_point is a code problem, any other a mathematical one.
    limit: keep this many, chosen by `seed`; None keeps all. min_level: drop problems of a lower or unknown level.
    tests_in_prompt: number of a code problem's tests shown to the model. leave_out: do without the problems whose
    answer no response can state, and name them.
    Raises InputError for an unknown data set or split, an unreadable file, a missing column, an empty cell, tests that
    cannot be judged.
    """
    path = Path(dataset)
    splits = HUB_SPLITS.get(dataset, ("train", "test") if dataset in GENERATED else ("train", "test", "all"))
    if dataset not in GENERATED and dataset not in HUB_DATASETS:
        if path.suffix.lower() not in FILE_TYPES:
            names = ", ".join((*GENERATED, *HUB_DATASETS))
            raise InputError(
                f"unknown data set {dataset!r}: choose {names}, or a file ending in {' '.join(FILE_TYPES)}"
            )
        if not path.is_file():
            raise InputError(f"{dataset} is no file" if path.exists() else f"the file {dataset} does not exist")
    if split not in splits:
        raise InputError(f"{dataset} has no split {split!r}: choose {' or '.join(splits)}")
    if dataset.startswith("arithmetic") and dataset in GENERATED:
        problems = load_arithmetic(split, GENERATED_SIZES[split], seed, dataset == "arithmetic-socratic")
    elif dataset == "countdown":
        problems = list(load_countdown(split, COUNTDOWN_SIZES[split], seed))
    elif dataset in GENERATED:
        load = load_functions if dataset == "functions" else load_conventions
        problems = list(load(split, GENERATED_SIZES[split], seed, tests_in_prompt))
    elif dataset in HUB_DATASETS:
        problems = load_hub(dataset, split, tests_in_prompt, leave_out)
    else:
        problems = load_file(path, split, tests_in_prompt, leave_out)
    if not problems:
        hint = "; with --split all, name another set to evaluate on with --eval-dataset" if split == "train" else ""
        raise InputError(f"{dataset} has no problems in its split {split!r}{hint}")
    if min_level is not None:
        levels = [problem.level for problem in problems if problem.level is not None]
        problems = [problem for problem in problems if problem.level is not None and problem.level >= min_level]
        if not problems:
            found = f"the highest is {max(levels)}" if levels else "no problem has a level"
            raise InputError(f"--min-level {min_level}: {dataset} has none as high in its split {split!r}: {found}")
    return subset(problems, limit, seed)


def subset(problems: list[Problem], limit: int | None, seed: int) -> list[Problem]:
    """`limit` of the problems, chosen by `seed`; all of them where there are no more, or for None."""
    if limit is None or limit >= len(problems):
        return problems
    return random.Random(f"subset {seed}").sample(problems, limit)


def load_train_and_eval(
    dataset: str,
    split: str,
    eval_dataset: str,
    eval_split: str,
    eval_size: int,
    min_level: int | None = None,
    tests_in_prompt: int = 1,
) -> tuple[list[Problem], list[Problem]]:
    """The training problems and at most `eval_size` held-out ones, the same for every seed.

    Every problem of the whole evaluation split is removed from training, whichever files the two come from: whatever
    asks the same question or, in code, tests the same calls.
    """
    training = load_problems(dataset, split, min_level=min_level, tests_in_prompt=tests_in_prompt)
    held_out = load_problems(eval_dataset, eval_split, tests_in_prompt=tests_in_prompt, leave_out=True)
    # Generated splits share no question, and splitting thousands of tests into calls takes seconds.
    if dataset != eval_dataset or dataset not in GENERATED or split == eval_split:
        seen = {key for problem in held_out for key in identity(problem)}
        training = [problem for problem in training if not seen & identity(problem)]
    if not training:
        raise InputError(f"every problem of {dataset} ({split}) is in the evaluation set {eval_dataset} ({eval_split})")
    return training, subset(held_out, eval_size, 0)


def identity(problem: Problem) -> set[str]:
    """What no other problem has: its question, without layout, and the calls in its tests.

    Programs that read and print are called with the same inputs in many problems: there the outputs belong to it.
    """
    texts = {" ".join(problem.question.split())}
    if problem.tests:
        split = split_tests(problem.tests, problem.setup_code, defined_names(problem.solution))
        texts.add("\n".join(problem.tests if problem.setup_code == STREAM_SETUP else split.calls))
    return texts
