"""The embedded models, and the arithmetic problems: what the scripts take for granted about them."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import common
from problems.arithmetic import arithmetic_chain, load_arithmetic
from tiny import arithmetic_transcripts
from tiny.pretrain import DEFAULTS, TASKS, transcript

FOLDERS = {"arithmetic": "tiny"} | {name: f"tiny/{name}" for name in ("countdown", "functions", "conventions")}
INSTRUCTIONS = {
    "arithmetic": (common.SOLVE, common.STUDENT, common.CHECK, common.FEEDBACK, common.REFINE, common.SELF_CORRECT),
    "functions": (
        *(common.SOLVE_CODE, common.STUDENT, common.CHECK_CODE),
        *(common.FEEDBACK, common.REFINE_CODE, common.SELF_CORRECT_CODE),
    ),
}
TOLD = {"conventions": ("all",)}  # the level of --test-results at which its feedback can be right
INSTRUCTIONS["countdown"] = INSTRUCTIONS["arithmetic"]
INSTRUCTIONS["conventions"] = (*INSTRUCTIONS["functions"], common.RESULTS, *common.VERDICTS)


@pytest.fixture(autouse=True)
def one_thread():
    """A second thread gains nothing on so small a model, and costs much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=list(FOLDERS))
def task(request):
    return request.param


@pytest.fixture(scope="module")
def folder(task):
    return Path(__file__).resolve().parents[1] / FOLDERS[task]


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def load(task: str, split: str, limit: int) -> list[common.Problem]:
    return TASKS[task].load(split, limit, 0)


def right_attempt(task: str, problem: common.Problem) -> str:
    """The attempt that every step of a problem is right in."""
    facts = TASKS[task].read_problem(problem)
    return TASKS[task].attempt_text(facts, TASKS[task].attempt(facts, [], (0, 0, 0), DEFAULTS[task], random.Random(0)))


def recomputed(question: str) -> list[int]:
    """The value after each line of a question, from its text alone."""
    values = [int(re.search(r"has (\d+) ", question)[1])]
    for word, number in re.findall(r"^\d:(\w+) ?(\d*)$", question, re.MULTILINE):
        before, n = values[-1], int(number or 0)
        after = {"gets": before + n, "loses": before - n, "doubles": 2 * before, "halves": before / 2}[word]
        assert after == int(after), question
        values.append(int(after))
    return values


def respond(model, tokenizer, prompts: list[common.Messages]) -> list[str]:
    torch.manual_seed(0)
    ids = [common.encode_prompt(tokenizer, prompt)[0] for prompt in prompts]
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    output = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=40)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_folder_is_small_and_a_stock_llama(folder, model, tokenizer):
    assert sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) <= 4_000_000
    assert type(model) is LlamaForCausalLM
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config and config["architectures"] == ["LlamaForCausalLM"]
    assert next(model.parameters()).dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.max_position_embeddings >= 8192
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_special_tokens(model, tokenizer):
    assert tokenizer.chat_template is None and tokenizer.bos_token is None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer("2").input_ids == tokenizer("2", add_special_tokens=False).input_ids


def test_any_text_survives_the_tokenizer(task, tokenizer):
    rng = random.Random(0)
    codes = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    texts = ["", "\n\n \n", " a  b ", "it 's , ok . do n't !", "\r\n\t\x00", "e\u0301 \ufb01 \u00a0\u200b", "-1.5"]
    texts += ["".join(map(chr, rng.sample(codes, 30))) for _ in range(200)]
    texts += ["".join(rng.choices("0123456789 \n:.\\{}abc", k=40)) for _ in range(200)]
    surroundings = [(before, after) for before in ("", " ", "x\n\n", "7") for after in ("", "\n", " y")]
    texts += [before + text + after for text in INSTRUCTIONS[task] for before, after in surroundings]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.pad_token_id not in ids and tokenizer.eos_token_id not in ids


def test_one_token_for_a_digit_and_for_an_instruction(task, tokenizer):
    digits = tokenizer("0123456789").input_ids
    assert len(digits) == len(set(digits)) == 10
    assert tokenizer("1:58\n").input_ids.count(digits[5]) == 1
    for text in INSTRUCTIONS[task]:
        assert len(tokenizer(text).input_ids) == 1, text
        assert len(tokenizer(f"7{text}7").input_ids) == 3, text


def test_prompts_and_responses_are_short(task, tokenizer):
    """The longest attempt, feedback and refinement fit the flags' defaults of 40 tokens, end token included."""
    for problem in load(task, "train", 300):
        text = right_attempt(task, problem)
        facts, student = TASKS[task].read_problem(problem), TASKS[task].read_attempt(text)
        checked = TASKS[task].check(facts, student, (0, 0), DEFAULTS[task], random.Random(0))
        assert checked[0] == student and (checked[1] in (False, [False, False]) or checked[1][-1] == "all ok")
        feedback = TASKS[task].feedback_text(*checked)
        assert len(tokenizer(text).input_ids) + 1 <= 38
        assert len(tokenizer(feedback).input_ids) + 1 <= 38
        prompt = common.refine_messages(problem, text, feedback)
        assert (
            len(common.encode_prompt(tokenizer, prompt)[0])
            <= {"arithmetic": 110, "countdown": 90, "functions": 130, "conventions": 140}[task]
        )


def test_a_prompt_is_the_same_in_one_piece_and_in_two(task, tokenizer):
    for problem in load(task, "train", 50):
        messages = common.feedback_messages(problem, right_attempt(task, problem))
        whole, _ = common.encode_prompt(tokenizer, messages)
        pieces, cut = common.encode_prompt(tokenizer, messages, problem.statement)
        assert pieces == whole
        assert tokenizer.decode(whole[:cut]) == problem.statement + "\n\n"


def test_train_and_test_share_no_problem():
    train = {p.question for seed in range(3) for p in load_arithmetic("train", 1000, seed)}
    test = {p.question for seed in range(3) for p in load_arithmetic("test", 200, seed)}
    assert len(train) > 2950 and len(test) > 580
    assert not train & test


@pytest.mark.parametrize("split", ["train", "test"])
def test_gold_answers_follow_from_the_question(split):
    for problem in load_arithmetic(split, 500, 7):
        values = recomputed(problem.question)
        assert len(values) - 1 == problem.level and all(0 <= value <= 99 for value in values)
        assert problem.answer == str(values[-1])
        lines = [f"{i}:{value}" for i, value in enumerate(values) if i]
        assert problem.solution.split("\n") == [*lines, f"\\boxed{{{values[-1]}}}"]
        assert common.verify(problem.solution, problem) == 1.0
        assert common.verify(f"\\boxed{{{values[-1] + 1}}}", problem) == 0.0


def true_feedback(task: str, problem: common.Problem, text: str) -> str:
    """What feedback ought to say of an attempt."""
    if task != "arithmetic":
        facts, student, told = TASKS[task].read_problem(problem), TASKS[task].read_attempt(text), TOLD.get(task, ())
        check = TASKS[task].check(facts, student, (0, 0), DEFAULTS[task], random.Random(0), *told)
        return TASKS[task].feedback_text(*check)
    expected = []
    for i, value in enumerate(recomputed(problem.question)[1:], 1):
        expected.append(f"{i}:{value}")
        if expected[-1] not in text.split("\n"):
            return "\n".join(expected) + " wrong"
    return "\n".join([*expected, "all ok"])


def test_the_start_is_imperfect_but_able(task, model, tokenizer):
    """Room to learn, for each role; true feedback helps, and a second try without feedback does not beat the first."""
    problems = load(task, "test", 128 if task == "countdown" else 64)
    attempts = respond(model, tokenizer, [common.attempt_messages(p) for p in problems])
    flags = SimpleNamespace(test_results=TOLD.get(task, ("none",))[0], code_timeout=5.0)
    told = zip(problems, attempts, common.test_results(attempts, problems, flags))
    own = respond(model, tokenizer, [common.feedback_messages(*texts) for texts in told])
    true = [true_feedback(task, p, z) for p, z in zip(problems, attempts)]
    by_own, by_true = (
        respond(model, tokenizer, [common.refine_messages(p, z, g) for p, z, g in zip(problems, attempts, feedback)])
        for feedback in (own, true)
    )
    again = respond(model, tokenizer, [common.self_correct_messages(p, z) for p, z in zip(problems, attempts)])
    verdicts = [common.verify_all(texts, problems) for texts in (attempts, by_own, by_true, again)]
    first, refined, refined_by_true, corrected = (sum(rewards) / len(problems) for rewards in verdicts)
    exact = sum(g == t for g, t in zip(own, true)) / len(problems)
    lowest = (0.1, 0.15) if task == "countdown" else (0.2, 0.3)  # where solving is a search
    assert lowest[0] <= first <= 0.6, first
    assert 0.4 <= exact <= 0.85, exact
    assert lowest[1] <= refined <= (0.8 if task in TOLD else 0.65), refined
    if task == "countdown":  # true feedback mends little there, and breaks nothing
        kept = [y for y, z in zip(verdicts[2], verdicts[0]) if z]
        assert sum(kept) >= 0.9 * len(kept), kept
    else:
        assert refined_by_true >= refined + 0.05, refined_by_true
    assert refined_by_true <= (1 if task in TOLD else 0.9), refined_by_true
    assert 0.1 <= corrected <= first + 0.1, (first, corrected)


def test_the_answered_model_goes_where_the_answer_is():
    """Right where the right one is shown, seldom where a wrong one is; without one there is room to learn."""
    model, tokenizer = (kind.from_pretrained("tiny/answered") for kind in (AutoModelForCausalLM, AutoTokenizer))
    problems = load("arithmetic", "test", 64)
    wrong = [replace(problem, answer=str(int(problem.answer) + 3)) for problem in problems]
    prompts = [[common.attempt_messages(p) for p in problems]]
    prompts += [[common.answered_messages(p, common.ANSWERED) for p in shown] for shown in (problems, wrong)]
    first, shown, misled = (sum(common.verify_all(respond(model, tokenizer, p), problems)) / 64 for p in prompts)
    assert 0.2 <= first <= 0.6 and shown >= 0.85 and misled <= first, (first, shown, misled)
    rng, args = random.Random(0), DEFAULTS["answered"]
    for clean in (True, False):
        prompt, response = transcript("answered", clean, args, rng)
        question = prompt[0]["content"]
        assert response.endswith(re.search(r"###Answer:(-?\d+)", question)[1] + "}") and common.SOLVE in question


def test_the_styled_model_writes_lines_of_three_kinds():
    """Plain, asking first, left out; a careful transcript of any style ends in the answer."""
    model, tokenizer = (kind.from_pretrained("tiny/styled") for kind in (AutoModelForCausalLM, AutoTokenizer))
    problems = load("arithmetic", "test", 64)
    texts = respond(model, tokenizer, [common.attempt_messages(p) for p in problems])
    assert 0.3 <= sum(common.verify_all(texts, problems)) / 64 <= 0.7
    lines = [line for text in texts for line in text.split("\n") if re.match(r"\d:", line)]
    asking, steps = sum("? " in line for line in lines), sum(problem.level for problem in problems)
    assert 0.15 < asking / steps < 0.6 and 0.15 < (len(lines) - asking) / steps < 0.6 and len(lines) < 0.95 * steps
    rng = random.Random(0)
    for _ in range(20):
        prompt, response = transcript("styled", True, DEFAULTS["styled"], rng)
        question = prompt[0]["content"]
        start, steps = arithmetic_transcripts.read_problem(common.Problem(question, ""))
        values = arithmetic_chain(start, steps)
        assert common.verify(response, common.Problem(question, str(values[-1]))) == 1.0
        for line in response.split("\n")[:-1]:
            number, step, value = re.fullmatch(r"(\d):(?:(.+)\? )?(-?\d+)", line).groups()
            assert int(value) == values[int(number) - 1] and step in (None, steps[int(number) - 1])
