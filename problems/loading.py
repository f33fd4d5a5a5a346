"""Reads problems: the embedded ones, data sets of the Hugging Face hub, local files."""

import ast
import csv
import json
import random
import re
from pathlib import Path

from problems import InputError, Problem
from problems.arithmetic import in_test_split, load_arithmetic
from problems.functions import load_functions
from verifiers.asserts import defined_names, split_tests
from verifiers.math_answers import extract_answer

# name: (hub repository, configuration, revision)
HUB_DATASETS = {
    "math": ("DigitalLearningGmbH/MATH-lighteval", "default", "0530c78699ea5e8eb5530600900e1f328b48acad"),
    "math500": ("HuggingFaceH4/MATH-500", "default", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
    "gsm8k": ("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"),
    "mbpp": ("google-research-datasets/mbpp", "full", "4bb6404fdc6cacfda99d4ac4205087b89d32030c"),
    "mbpp-sanitized": ("google-research-datasets/mbpp", "sanitized", "4bb6404fdc6cacfda99d4ac4205087b89d32030c"),
}
HUB_SPLITS = {"math": ("train", "test"), "math500": ("test",), "gsm8k": ("train", "test")}
HUB_SPLITS |= dict.fromkeys(("mbpp", "mbpp-sanitized"), ("train", "test", "validation", "prompt"))
FILE_TYPES = (".csv", ".json", ".jsonl", ".parquet")

GENERATED = ("arithmetic", "functions")
GENERATED_SIZES = {"train": 5000, "test": 1000}  # problems generated for a split
QUESTION_COLUMNS = ("question", "problem", "prompt", "text")
SOLUTION_COLUMNS = ("correct_answer", "solution")  # of a mathematical problem
REFERENCE_COLUMNS = ("reference_solution", "code", "solution", "canonical_solution")  # of a code problem


def read_rows(path: Path) -> list[dict]:
    """The rows of a .csv, .json (a list of objects), .jsonl or .parquet file. Raises InputError."""
    try:
        if path.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").split("\n")
            rows = [json.loads(line) for line in lines if line.strip()]
        elif path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        else:
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, csv.Error) as error:  # ValueError: bad JSON, bad UTF-8, a broken parquet file
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is not a list of objects, one for each problem")
    if not rows:
        raise InputError(f"{path} holds no rows")
    return rows


def cell(row: dict, *names: str) -> str:
    """The first of the named columns that is not empty in this row, as text; "" where all are."""
    return next((str(row[name]).strip() for name in names if row.get(name) is not None and str(row[name]).strip()), "")


def gold_answer(answer: str, solution: str) -> tuple[str, str]:
    """(final answer, worked solution) from the columns as data sets fill them.

    GSM8K keeps both in `answer`, parted by "####". MATH on the hub has only the solution, whose box is the answer. A
    MATH solution that ends in several boxes ("\\boxed{-2} and \\boxed{1}") has an `answer` column with the last one
    alone: then the solution's list is the answer.
    """
    if "####" in answer:
        return answer.rsplit("####", 1)[1].strip(), answer
    boxed = (extract_answer(solution) or "") if solution else ""
    several = answer in [part.strip() for part in boxed.split(",")] and boxed != answer
    return (boxed if several or not answer else answer), solution


def text_list(row: dict, name: str, where: str) -> list[str]:
    """A column that holds a list of texts, as a list or as Python or JSON source of one. Raises InputError."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)  # never eval: this is data
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {name} is not a list of texts")
    return list(value)


def to_problem(row: dict, where: str, tests_in_prompt: int) -> Problem:
    """One row as a Problem; `where` names the row in errors and is its id. Raises InputError."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: half of a surrogate pair stands alone, which is no character") from error
    question = cell(row, *QUESTION_COLUMNS)
    if not question:
        raise InputError(f"{where}: the question is empty")
    level = re.search(r"\d+", cell(row, "level"))
    level, subject = int(level[0]) if level else None, cell(row, "subject", "type")
    if "test_list" in row:
        tests = tuple(text_list(row, "test_list", where))
        imports = text_list(row, "test_imports", where) if row.get("test_imports") else []
        setup_code = "\n".join([*imports, cell(row, "test_setup_code")]).strip()
        reference = cell(row, *REFERENCE_COLUMNS).replace("\r\n", "\n")
        if not tests:
            raise InputError(f"{where}: test_list is empty")
        try:
            split_tests(tests, setup_code, defined_names(reference))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        return Problem(question, "", reference, tests, setup_code, tests_in_prompt, level, subject, id=where)
    answer, solution = gold_answer(cell(row, "answer"), cell(row, *SOLUTION_COLUMNS))
    if not answer:
        raise InputError(f"{where}: the answer is empty")
    return Problem(question, answer, solution, level=level, subject=subject, id=where)


def load_file(path: Path, split: str, tests_in_prompt: int) -> list[Problem]:
    """The problems of a local file: split "train" or "test" (about one question in ten, by its text), or "all"."""
    rows = read_rows(path)
    columns = list(rows[0])
    for names in (QUESTION_COLUMNS, ("answer", *SOLUTION_COLUMNS, "test_list")):
        if not any(name in row for row in rows for name in names):
            raise InputError(
                f"{path} has no column {' or '.join(names)}; its columns are {', '.join(map(str, columns))}"
            )
    problems = [to_problem(row, f"{path} row {number}", tests_in_prompt) for number, row in enumerate(rows, 1)]
    if split == "all":
        return problems
    return [problem for problem in problems if in_test_split(problem.question) == (split == "test")]


def load_hub(dataset: str, split: str, tests_in_prompt: int) -> list[Problem]:
    """The problems of a data set on the Hugging Face hub, at a pinned revision."""
    import datasets

    repository, configuration, revision = HUB_DATASETS[dataset]
    try:
        rows = datasets.load_dataset(repository, configuration, split=split, revision=revision)
    except Exception as error:  # no network, a proxy, no disk space: the library raises a dozen types for them
        reason = str(error).split("\n")[0]
        raise InputError(f"{dataset} ({repository}) could not be loaded from the hub: {reason}") from error
    problems = []
    for number, row in enumerate(rows, 1):
        # Two boxes of MATH train are empty.
        if "test_list" in row or gold_answer(cell(row, "answer"), cell(row, *SOLUTION_COLUMNS))[0]:
            problems.append(to_problem(row, f"{dataset}/{split}/{number}", tests_in_prompt))
    return problems


def load_problems(
    dataset: str,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    min_level: int | None = None,
    tests_in_prompt: int = 1,
) -> list[Problem]:
    """The problems of one split.

    dataset: "arithmetic" or "functions" (generated), "math", "math500", "gsm8k", "mbpp", "mbpp-sanitized" (hub), or the
    path of a local file. A row with test_list is a code problem, any other a mathematical one.
    limit: keep this many, chosen by `seed`; None keeps all. min_level: drop problems of a lower or unknown level.
    tests_in_prompt: number of a code problem's tests shown to the model.
    Raises InputError for an unknown data set or split, an unreadable file, a missing column, an empty cell, tests that
    cannot be judged.
    """
    path = Path(dataset)
    splits = HUB_SPLITS.get(dataset, ("train", "test") if dataset in GENERATED else ("train", "test", "all"))
    if dataset not in GENERATED and dataset not in HUB_DATASETS:
        if path.suffix not in FILE_TYPES:
            names = ", ".join((*GENERATED, *HUB_DATASETS))
            raise InputError(
                f"unknown data set {dataset!r}: choose {names}, or a file ending in {' '.join(FILE_TYPES)}"
            )
        if not path.is_file():
            raise InputError(f"the file {dataset} does not exist")
    if split not in splits:
        raise InputError(f"{dataset} has no split {split!r}: choose {' or '.join(splits)}")
    if dataset == "arithmetic":
        problems = load_arithmetic(split, GENERATED_SIZES[split], seed)
    elif dataset == "functions":
        problems = load_functions(split, GENERATED_SIZES[split], seed, tests_in_prompt)
    elif dataset in HUB_DATASETS:
        problems = load_hub(dataset, split, tests_in_prompt)
    else:
        problems = load_file(path, split, tests_in_prompt)
    if min_level is not None:
        problems = [problem for problem in problems if problem.level is not None and problem.level >= min_level]
    if limit is not None and limit < len(problems):
        problems = random.Random(f"subset {seed}").sample(problems, limit)
    if not problems:
        level = "" if min_level is None else f" of level {min_level} or higher"
        raise InputError(f"{dataset} has no problems{level} in its split {split!r}")
    return problems


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
    held_out = load_problems(eval_dataset, eval_split, tests_in_prompt=tests_in_prompt)
    seen = {key for problem in held_out for key in identity(problem)}
    generated = dataset == eval_dataset == "functions"  # its splits share short calls such as keys(3), but no question
    training = [problem for problem in training if generated or not seen & identity(problem)]
    if not training:
        raise InputError(f"every problem of {dataset} ({split}) is in the evaluation set {eval_dataset} ({eval_split})")
    return training, load_problems(eval_dataset, eval_split, limit=eval_size, tests_in_prompt=tests_in_prompt)


def identity(problem: Problem) -> set[str]:
    """What no other problem has: its question, without layout, and the calls in its tests."""
    texts = {" ".join(problem.question.split())}
    if problem.tests:
        texts.add("\n".join(split_tests(problem.tests, problem.setup_code, defined_names(problem.solution)).calls))
    return texts
