"""The wiring of scripts and tools where usual flags do not show a mistake; tests/mutants.py has the mistakes."""

import importlib
import itertools
import json
import re
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_jsonl, small_args, write_jsonl
from enumeration import RESPONSES, X, make_turn, random_model
from replay import save_family
from safetensors.torch import load_file
from test_resume import assert_same_run
from transformers import AutoModelForCausalLM, AutoTokenizer

import archer
import common
import eval as evaluation
import expert_iteration
import figures
import grpo
import intro
import mlmt_rl
import rl_guided_score
import runs
import score
import sharedrep_grpo
import sharedrep_reward as reward
import template_search
from running import folder


@pytest.mark.parametrize(
    ("critic_input", "room", "expected"), [("joint", 0, 1), ("separate", 0, 0), ("separate", -1, 1)]
)
def test_texts_that_the_critic_reads_in_part_are_counted(
    quick, tmp_path, coin_rewards, monkeypatch, critic_input, room, expected
):
    """A critic with room for the longest problem cuts it together with a response, but not by itself."""
    init = archer.Critic.__init__
    problem = common.Problem("Add 2. " * 9, "2", id="a")
    monkeypatch.setattr(common, "load_problems_for", lambda args: ([problem] * 4, [problem] * 4))

    def short(critic, *inputs):
        init(critic, *inputs)
        text = f"{common.attempt_messages(problem)[-1]['content']}\n"
        critic.max_length = critic.tokenize([text]).input_ids.shape[1] + room

    monkeypatch.setattr(archer.Critic, "__init__", short)
    flags = {"critic_batch_size": 4, "actor_batch_size": 2, "critic_input": critic_input}
    archer.main(quick(script=archer, iterations=1, **flags))
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[1]["rollout/critic_truncated"] == expected


def test_the_critic_reads_the_problem_behind_a_system_message(quick, tmp_path, coin_rewards, monkeypatch):
    read, grade = set(), archer.grade
    monkeypatch.setattr(
        archer, "grade", lambda critic, states, *rest: read.update(states) or grade(critic, states, *rest)
    )
    archer.main(quick(script=archer, iterations=1, critic_batch_size=4, actor_batch_size=2, system_prompt="BE GOOD"))
    rows = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    assert read == {f"{row['question']}\n\n{common.SOLVE}\n" for row in rows if row["phase"] == "rollout"}


@pytest.mark.parametrize("script", [archer, score, rl_guided_score], ids=lambda script: script.__name__)
def test_evaluations_leave_training_as_it_was(quick, tmp_path, coin_rewards, script):
    rows, own = [], {"critic_batch_size": 4, "actor_batch_size": 4, "warmup_iterations": 0} if script is archer else {}
    for every in (1, 9):
        script.main(quick(script=script, run_dir=tmp_path / str(every), eval_every=every, **own))
        row = read_jsonl(tmp_path / str(every) / "metrics.jsonl")[2]
        rows.append({name: row[name] for name in row if name.startswith(("rollout/", "losses/"))})
    assert rows[0] == rows[1]


def test_rounds_end_with_a_full_batch(quick, tmp_path, monkeypatch):
    """Three right responses of four, twice, fill a batch of four: two are left over, and no third round is sampled."""
    monkeypatch.setattr(common, "judge_all", lambda responses, *_: [i < 3 for i in range(len(responses))])
    expert_iteration.main(quick(script=expert_iteration, iterations=1, sampling_rounds=3))
    row = read_jsonl(tmp_path / "run" / "metrics.jsonl")[1]
    assert row["rollout/trained_responses"] == 4 and row["charts/episodes"] == 8


def test_evaluations_have_their_own_seed(quick, tmp_path, coin_rewards):
    texts = []
    for seed, eval_seed in ((1, 0), (2, 0), (1, 1)):
        run_dir = tmp_path / f"{seed}{eval_seed}"
        expert_iteration.main(
            quick(script=expert_iteration, run_dir=run_dir, iterations=1, seed=seed, eval_seed=eval_seed)
        )
        rows = read_jsonl(run_dir / "episodes.jsonl")
        texts.append([row["attempt"] for row in rows if (row["phase"], row["iteration"]) == ("eval", 0)])
    assert texts[0] == texts[1] != texts[2]


def test_the_time_of_all_rounds_is_counted(quick, tmp_path, monkeypatch):
    verify = common.verify_turns

    def timed(*inputs):
        rewards, log = verify(*inputs)
        return rewards, log | {"charts/verify_seconds": 2.0}

    monkeypatch.setattr(common, "verify_turns", timed)
    monkeypatch.setattr(common, "judge_all", lambda responses, *_: [False] * len(responses))
    grpo.main(quick(script=grpo, iterations=1, dynamic_sampling=3))
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[1]["charts/verify_seconds"] == 6.0


def test_the_test_split_is_chosen_and_asked_as_the_training_split_is(small, tmp_path):
    rows = [
        {"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}", "level": f"Level {n % 5 + 1}"} for n in range(60)
    ]
    path = write_jsonl(tmp_path / "math.jsonl", rows)
    args = small(script=intro, dataset=path, min_level=3, include_test_split=True, solve_prompt="SOLVE IT")
    problems, _ = intro.training_problems(args)
    assert len(problems) == 36 and all(problem.level >= 3 for problem in problems)
    assert all("SOLVE IT" in common.attempt_messages(problem)[-1]["content"] for problem in problems)


def test_there_is_room_for_the_answer(small):
    with pytest.raises(common.InputError, match="--policy-lm reads 8192"):
        intro.main(small(script=intro, answer_template=" {answer}" + " 1:20" * 9000, iterations=1))


def test_a_value_loss_leaves_no_gradient_for_the_next_step_of_the_trunk():

    args = mlmt_rl.Args(micro_batch_size=4)
    model, head = random_model(0), torch.nn.Linear(12, 1)
    turn = make_turn(mlmt_rl, args, [X] * 7, RESPONSES, model, model)
    mlmt_rl.accumulate_gradients(model, turn, torch.arange(7), None, 0.0, args, head, torch.rand(7))
    assert head.weight.grad.abs().max() > 0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_a_turn_without_reward_has_no_baseline_either():
    first, second, zeros = torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 1, 1, 1]), torch.zeros(4)
    for kind in ("batch", "leave-one-out"):
        for turns, without in (("first", 1), ("second", 0)):
            args = score.Args(alpha=2.0, baseline=kind, trained_turns=turns, gamma=0.5)
            A = score.credit(args, False, first, second, zeros, zeros)
            assert not A[without].any() and A[1 - without].any()


def test_the_share_of_offline_attempts_is_rounded(quick, coin_rewards, monkeypatch):
    seen, run_episodes = [], score.run_episodes
    monkeypatch.setattr(score, "run_episodes", lambda *a: seen.append(a[4] if len(a) > 4 else None) or run_episodes(*a))
    score.main(quick(script=score, iterations=1, stage1_iterations=0, offline_first_turn=0.7))
    assert seen == [None, 3, None]


ROOMS = {
    "score": [("--policy-lm", 2 * 8)],
    "rl_guided_score": [("--policy-lm", 2 * 8 + 5), ("--feedback-lm", 8 + 5)],
    "mlmt_rl": [("--policy-lm", 2 * 8 + 5), ("--feedback-lm", 8 + 5)],
}


@pytest.mark.parametrize("name", ROOMS)
def test_there_is_room_for_all_that_a_last_turn_reads_and_writes(quick, monkeypatch, name):
    script, rooms = importlib.import_module(name), []
    monkeypatch.setattr(runs, "check_prompts", lambda *inputs: rooms.append((inputs[-1], inputs[-2])))
    monkeypatch.setattr(runs, "begin", lambda *_: (_ for _ in ()).throw(InterruptedError))
    flags = {"max_feedback_tokens": 5} if script is not score else {}
    with pytest.raises(InterruptedError):
        script.main(quick(script=script, max_new_tokens=8, **flags))
    assert rooms == ROOMS[name]


@pytest.mark.parametrize(("turns", "feedback", "rooms"), [(1, None, [8]), (2, None, [16]), (2, "tiny", [21, 13])])
def test_room_in_an_evaluation(turns, feedback, rooms, monkeypatch):
    found = []
    monkeypatch.setattr(common, "check_lengths", lambda tokenizer, prompts, problems, room, *_: found.append(room))
    args = evaluation.Args(turns=turns, max_new_tokens=8, max_feedback_tokens=5)
    evaluation.check_models("tiny", feedback, [common.Problem("1 + 1?", "2")], args)
    assert found == rooms


def test_the_flags_reach_every_verdict(monkeypatch):
    seen, args = [], mlmt_rl.Args(strict_answers=True, code_timeout=0.5, test_results="all")
    problem = common.Problem("Write f.", "", tests=("assert f(1) == 1",))
    monkeypatch.setattr(common, "judge_all", lambda texts, problems, *flags: seen.append(flags) or [True] * len(texts))
    common.verify_turns([["x"]], [problem], args)
    common.test_results(["x"], [problem], replace(args, test_results="verdict"))
    common.feedback_read(["g"], ["x"], [problem], replace(args, feedback_control="verdict"))
    assert seen == [(True, 0.5)] * 3
    monkeypatch.setattr(common, "tell_tests", lambda *inputs: seen.append(inputs[-1]) or "")
    common.test_results(["x"], [problem], args)
    assert seen[3:] == [0.5]


def eval_args(problem_file, run_dir, **flags):
    sizes = {"max_new_tokens": 8, "max_feedback_tokens": 8, "samples": 1, "bootstrap_samples": 10, "limit": 4}
    return evaluation.Args(**{"dataset": (problem_file,), "run_dir": str(run_dir)} | sizes | flags)


def test_the_seed_of_an_evaluation(problem_file, random_lm, tmp_path):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        flags = {"solver": (random_lm,), "turns": 1, "temperature": 1.0, "top_p": 1.0, "eval_seed": seed}
        evaluation.main(eval_args(problem_file, tmp_path / name, **flags))
        texts.append([row["attempt"] for row in read_jsonl(tmp_path / name / "episodes.jsonl")])
    assert texts[0] == texts[1] != texts[2]


def test_training_settings_are_all_of_the_runs_own(tmp_path):
    flags = {
        "seed": 7,
        "dataset": "arithmetic",
        "eval_dataset": "conventions",
        "eval_split": "train",
        "eval_seed": 3,
        "eval_size": 9,
    }
    flags |= {"temperature": 0.7, "top_p": 0.8, "max_new_tokens": 11, "max_feedback_tokens": 12, "dtype": "bfloat16"}
    flags |= {"generation_batch_size": 13, "strict_answers": True, "code_timeout": 2.0, "tests_in_prompt": 2}
    flags |= {"test_results": "verdict", "feedback_control": "fixed", "chat_template": False}
    flags |= {f"{name}_prompt": name for name in ("solve", "feedback", "refine", "system")}
    args = mlmt_rl.Args(**flags)
    for name in ("solver", "feedback"):
        (tmp_path / "checkpoint-000001" / name).mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps({"args": asdict(args)}))
    write_jsonl(tmp_path / "metrics.jsonl", [{"iteration": 0, "eval/accuracy_2": 0.5}])
    found = evaluation.training_settings(evaluation.Args(solver=(str(tmp_path),), as_in_training=True))
    own = {"device", "run_dir", "if_run_exists", "unsafe_code", "dataset", "split"}
    for name in {field.name for field in fields(found)} & {field.name for field in fields(args)} - own:
        assert getattr(found, name) == getattr(args, name) != getattr(evaluation.Args(), name), name
    assert (found.dataset, found.split, found.limit, found.block_size) == (("conventions",), "train", 9, 9)


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained("tiny"), AutoTokenizer.from_pretrained("tiny")


def test_columns_of_feedback_quality(problem_file, tiny, monkeypatch):
    """Each figure in its own column; the solver alone writes and reads second turns, behind the template."""
    problems = common.load_problems(problem_file, "all", limit=2)
    (solver, tokenizer), feedback = tiny, AutoModelForCausalLM.from_pretrained("tiny")
    args = evaluation.Args(max_new_tokens=4, max_feedback_tokens=6, prompt_template="concise")
    wrote, asked, generate, encode = [], [], evaluation.generate, common.encode_prompt
    monkeypatch.setattr(evaluation, "generate", lambda *a: wrote.append((a[0], a[3])) or generate(*a))
    monkeypatch.setattr(common, "encode_prompt", lambda t, m, *rest: asked.append(m) or encode(t, m, *rest))
    episodes = evaluation.run_episodes((solver, feedback), (tokenizer, tokenizer), problems, args)
    monkeypatch.setattr(common, "verify_turns", lambda *_: ([[0.25] * 2, [0.75] * 2], {}))

    def logprobs(model, prompts, turn, args):
        assert model is solver
        return [float(prompts == [ids for ids, _ in turn["prompts"]])] * 2

    monkeypatch.setattr(evaluation, "response_logprobs", logprobs)
    columns = evaluation.quality_columns((solver, feedback), (tokenizer, tokenizer), problems, episodes, args)
    figures = ("reward_without", "reward_shuffled", "logprob", "logprob_without")
    assert [[column[name] for name in figures] for column in columns] == [[0.25, 0.75, 1.0, 0.0]] * 2
    assert wrote == [(solver, 4), (feedback, 6)] + [(solver, 4)] * 3
    template = common.PROMPT_TEMPLATES["concise"]
    assert all(m[: len(template)] == template for m in asked[:2] + asked[4:]) and len(asked) == 10


def test_lengths_are_those_of_the_responses(problem_file, tiny):
    problems = common.load_problems(problem_file, "all", limit=3)
    args = evaluation.Args(temperature=0.0, max_new_tokens=60, turns=1)
    for row in evaluation.evaluate_block((tiny[0], None), (tiny[1], None), problems, args):
        assert row["attempt_length"] == len(tiny[1](row["attempt"]).input_ids) + (not row["truncated"]) < 60


def test_the_feedback_model_reads_by_its_own_tokenizer(problem_file, tmp_path, monkeypatch):
    """Of another family and template than the solver's."""
    folders = [save_family(name, tmp_path / name, seed) for seed, name in enumerate(("llama", "qwen3"))]
    read, generate = [], evaluation.generate

    def reading(model, tokenizer, prompts, *rest):
        read.append(
            (model.config.model_type, tokenizer.chat_template is None, [tokenizer.decode(ids) for ids, _ in prompts])
        )
        return generate(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(evaluation, "generate", reading)
    evaluation.main(eval_args(problem_file, tmp_path / "run", solver=(folders[0],), feedback=folders[1], limit=2))
    assert [(kind, plain) for kind, plain, _ in read] == [("llama", True), ("qwen3", False), ("llama", True)]
    rows = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    assert all(row["question"].split()[0] in text and text.startswith("<user>") for row, text in zip(rows, read[1][2]))


@pytest.mark.parametrize("name", ["eval", "sharedrep_reward", "template_search"])
def test_tools_read_the_prompt_flags_too(name, problem_file, random_lm, tmp_path, monkeypatch):
    asked, encode = [], common.encode_prompt
    monkeypatch.setattr(common, "encode_prompt", lambda t, m, *rest: asked.append(m) or encode(t, m, *rest))
    flags = {"solve_prompt": "SOLVE IT", "system_prompt": "BE GOOD", "max_new_tokens": 4}
    if name == "eval":
        flags |= {
            "dataset": (problem_file,),
            "solver": (random_lm,),
            "turns": 1,
            "limit": 2,
            "run_dir": str(tmp_path / "run"),
        }
    else:
        flags |= {"dataset": problem_file, "policy_lm": random_lm}
    if name == "sharedrep_reward":
        reward.main(
            reward.Args(stage="generate", split="all", num_prompts=2, reward_dir=str(tmp_path / "run"), **flags)
        )
    elif name == "eval":
        evaluation.main(evaluation.Args(**flags))
    else:
        for text in ("a", "b"):
            (tmp_path / f"{text}.json").write_text(json.dumps([{"role": "user", "content": text}]))
        flags |= {"templates": str(tmp_path), "output": str(tmp_path / "best.txt"), "search_size": 2}
        template_search.main(template_search.Args(**flags))
    assert asked and all(m[0]["content"] == "BE GOOD" and m[-1]["content"].endswith("SOLVE IT") for m in asked)


def figure_row(problem, sample, r):
    row = {"id": problem, "level": 1, "subject": "", "code": False, "truncated": []}
    row |= {"attempt": r"\boxed{5}" if r[0] else r"\boxed{7}", "refinement": r"\boxed{5}" if r[1] else r"\boxed{7}"}
    return row | {"reward_1": float(r[0]), "reward_2": float(r[1]), "attempt_length": 3, "refinement_length": 4}


ROWS = [figure_row("a", i, r) for i, r in enumerate([(1, 0), (0, 0), (0, 1)])]


ROWS += [figure_row("b", i, r) for i, r in enumerate([(0, 1), (0, 1), (0, 1)])]


def test_pass_at_every_sample_is_told():
    found = figures.summarise(ROWS, evaluation.Args(bootstrap_samples=10))
    assert found["pass_at_k_1"] == pytest.approx({"1": 1 / 6, "2": (2 / 3 + 0) / 2, "3": 1 / 2})


def test_tables_stand_under_their_headings(capsys):
    found = figures.summarise(ROWS, evaluation.Args(bootstrap_samples=10))
    figures.print_tables([{"solver": "s", "feedback": None, "dataset": "d"} | found])
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if "|" in line
    ]
    tables = [dict(zip(lines[i], lines[i + 2])) for i in range(0, len(lines), 3)]
    assert tables[0]["fixed"] == "0.667" and tables[0]["broken"] == "0.167" and tables[0]["delta"].startswith("0.500")
    assert tables[0]["accuracy 2, oracle-gated"] == "0.833" and tables[0]["problems x k"] == "2 x 3"
    for turn, part in (("1", tables[1]), ("2", tables[2])):
        assert [part["from"], part["to"]] == [f"{bound:.3f}" for bound in found[f"accuracy_{turn}_interval"]]
        assert (
            part["pass@3"] == f"{found[f'pass_at_k_{turn}']['3']:.3f}"
            and part["maj@3"] == f"{found[f'majority_{turn}']:.3f}"
        )


def test_the_interval_of_a_win_rate():
    """Half of 400 questions are won: .5, give or take 1.96 times .025."""
    ours = [{"id": str(i), "minority": float(i % 2)} for i in range(400)]
    rates = common.win_rates(ours, {str(i): {"minority": 0.5} for i in range(400)}, ["minority"], 0)
    assert rates["win_minority_low"] == pytest.approx(0.451, abs=0.006)
    assert rates["win_minority_high"] == pytest.approx(0.549, abs=0.006)


def test_the_last_evaluation_is_the_one_to_beat(tmp_path):
    write_jsonl(tmp_path / "scores.jsonl", [{"iteration": i, "id": "p", "minority": i / 10} for i in (0, 5, 9)])
    assert common.opponent(str(tmp_path), [common.Problem("", "", id="p")])["p"]["minority"] == 0.9


def test_templates_are_measured_with_the_same_random_numbers(problem_file, random_lm, monkeypatch):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(random_lm), AutoTokenizer.from_pretrained(random_lm)
    problems, texts = common.load_problems(problem_file, "train", limit=3), []
    monkeypatch.setattr(common, "judge_all", lambda responses, *_: texts.append(responses) or [False] * len(responses))
    for seed in (1, 1, 2):
        args = template_search.Args(templates="", seed=seed, max_new_tokens=8)
        template_search.accuracy(model, tokenizer, problems, [], args)
    assert texts[0] == texts[1] != texts[2]


def test_nothing_is_known_of_a_token_behind_a_stop_string(random_lm):
    tokenizer = AutoTokenizer.from_pretrained(random_lm)
    ids = torch.tensor([tokenizer("1:20\n2:30").input_ids])
    turn = {"texts": ["1:20\n2:30"], "response_ids": ids, "response_mask": torch.ones_like(ids).bool()}
    turn |= {"truncated": torch.tensor([True]), "logprobs": -torch.ones(ids.shape), "entropies": torch.ones(ids.shape)}
    runs.cut_at_stops(turn, tokenizer, ("\n",))
    assert 0 < turn["response_mask"].sum() < ids.numel()
    assert torch.equal(turn["logprobs"], -turn["response_mask"].float())
    assert torch.equal(turn["entropies"], turn["response_mask"].float())


def test_a_text_beyond_the_context_loses_its_beginning(random_lm):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(random_lm).eval(), AutoTokenizer.from_pretrained(random_lm)
    model.config.max_position_embeddings = 6
    text = "1:20\n2:30\n3:45 6 7"
    ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id][-6:]
    with torch.no_grad():
        states = model.base_model(torch.tensor([ids])).last_hidden_state[0]
    h = runs.features(model, tokenizer, [""], [text], "last", 1)
    assert torch.allclose(h[0], states[-1], atol=1e-5)


def test_a_checkpoint_is_noted_with_its_own_evaluation(finished):
    rows = {row["iteration"]: row for row in read_jsonl(Path(finished.run_dir) / "metrics.jsonl")}
    for row in read_jsonl(Path(finished.run_dir) / "checkpoints.jsonl"):
        figures = {name: value for name, value in rows[row["iteration"]].items() if name.startswith("eval/")}
        assert {name: value for name, value in row.items() if name.startswith("eval/")} == figures


def test_what_a_resumed_run_may_change():
    may = {
        "run_dir",
        "if_run_exists",
        "iterations",
        "save_every",
        "keep_checkpoints",
        "report",
        "track",
        "wandb_project",
    }
    source = Path(mlmt_rl.__file__).read_text(encoding="utf-8")
    memory = set(re.findall(r"^    (\w+): .+# .*(?:\(memory only\)|less memory)", source, re.MULTILINE))
    assert set(folder.RESUME_MAY_CHANGE) == may | memory


def test_all_that_responses_are_judged_by_is_in_the_fingerprint():
    problem = common.Problem("q", "1", tests=("assert f() == 1",), setup_code="import math")
    others = [
        replace(problem, **change) for change in ({"answer": "2"}, {"tests": ("assert f() == 2",)}, {"setup_code": ""})
    ]
    assert len({runs.fingerprint([["q"]], [p]) for p in (problem, *others)}) == 4


def test_the_end_names_the_newest_and_the_best(quick, monkeypatch, capsys):
    monkeypatch.setattr(common, "judge_all", lambda texts, *_: [next(calls) < 4] * len(texts))
    calls = itertools.count()
    mlmt_rl.main(quick(iterations=2, save_every=1))
    said = capsys.readouterr().out
    assert "the newest checkpoint is checkpoint-000002, the best in training checkpoint-000001" in said


def test_two_families_resume_under_guidance(problem_file, tmp_path, coin_rewards):
    folders = [save_family(name, tmp_path / name, seed) for seed, name in enumerate(("llama", "qwen3"))]
    flags = {
        "script": rl_guided_score,
        "policy_lm": folders[0],
        "feedback_lm": folders[1],
        "save_every": 1,
        "eval_every": 1,
        "kl_coef": 0.1,
        "guidance_kl_coef": 0.1,
    }
    rl_guided_score.main(small_args(problem_file, tmp_path / "whole", iterations=2, **flags))
    rl_guided_score.main(small_args(problem_file, tmp_path / "parts", iterations=1, **flags))
    rl_guided_score.main(small_args(problem_file, tmp_path / "parts", iterations=2, if_run_exists="resume", **flags))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_expert_iteration_resumes(quick, tmp_path, coin_rewards):
    flags = {
        "script": expert_iteration,
        "groups_per_batch": 3,
        "group_size": 2,
        "sampling_rounds": 2,
        "update_epochs": 2,
        "kl_coef": 0.2,
    }
    flags |= {"iterations": 4, "eval_every": 2, "save_every": 2, "keep_checkpoints": 0}
    expert_iteration.main(quick(run_dir=tmp_path / "whole", **flags))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-000004")
    expert_iteration.main(quick(run_dir=tmp_path / "parts", if_run_exists="resume", **flags))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    place = tmp_path_factory.mktemp("two")
    return [save_family(name, place / name, seed) for seed, name in enumerate(("llama", "qwen3"))]


@pytest.fixture(scope="module")
def solution_files(tmp_path_factory):
    place, files = tmp_path_factory.mktemp("solutions"), {}
    for name in ("arithmetic", "arithmetic-socratic"):
        problems = [p for split, n in (("train", 12), ("test", 5)) for p in common.load_problems(name, split)[:n]]
        rows = [{"question": p.question, "answer": p.answer, "solution": p.solution} for p in problems]
        files[name] = write_jsonl(place / f"{name}.jsonl", rows)
    return files


def reward_flags(two: list[str], files: dict[str, str], tmp_path: Path) -> dict:
    """The smallest reward folder that sharedrep_grpo.py can train on."""
    flags = {"dataset": files["arithmetic"], "socratic_dataset": files["arithmetic-socratic"], "split": "all"}
    flags |= {"policy_lm": two[0], "proportion": 0.4, "test_fraction": 0.3, "epochs": 1, "max_new_tokens": 8}
    return flags | {"reward_dir": str(tmp_path / "rewards")}


def test_another_backbone_and_pooling_reach_every_score(two, solution_files, tmp_path):
    flags = reward_flags(two, solution_files, tmp_path)
    flags |= {
        "backbone": two[1],
        "pooling": "last",
    }
    reward.main(reward.Args(**flags))
    rows = read_jsonl(tmp_path / "rewards" / "scores.jsonl")
    questions, texts = [row["question"] for row in rows], [row["response"] for row in rows]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(two[1]).eval(), AutoTokenizer.from_pretrained(two[1])
    phi = runs.features(model, tokenizer, questions, texts, "last", 8)
    assert torch.allclose(load_file(tmp_path / "rewards" / "phi.safetensors")["phi"], phi, atol=1e-4)
    args = sharedrep_grpo.Args(policy_lm=two[0], reward_dir=str(tmp_path / "rewards"), proportion=0.4)
    scorer = sharedrep_grpo.load_scorer(runs.place(args, sharedrep_grpo.__file__), args, [])
    assert torch.allclose(scorer["phi"](questions, texts), phi, atol=1e-4)


def test_what_the_fits_are_of(two, solution_files, tmp_path, monkeypatch):
    fits, fit, betas, Adam = [], reward.fit, [], torch.optim.Adam
    monkeypatch.setattr(reward, "fit", lambda *a: fits.append(a) or fit(*a))
    monkeypatch.setattr(torch.optim, "Adam", lambda *a, **k: betas.append(k.get("betas")) or Adam(*a, **k))
    flags = reward_flags(two, solution_files, tmp_path)
    flags |= {
        "oracle_pairs": 10,
        "num_prompts": 16,
    }
    flags |= {
        "oracle_lr": 0.5,
        "oracle_epochs": 3,
        "adam_betas": (0.7, 0.8),
    }
    reward.main(reward.Args(**flags))
    oracle, heads = fits
    assert [len(part) for part in oracle[:3]] == [7, 7, 7] and (oracle[4].reward_lr, oracle[4].epochs) == (0.5, 3)
    assert (heads[4].reward_lr, heads[4].epochs) == (3e-3, 1) and betas == [(0.7, 0.8)] * 2
    rows, pairs = (read_jsonl(tmp_path / "rewards" / f"{name}.jsonl") for name in ("scores", "pairs-0.4"))
    phi = dict(
        zip(
            [(row["question"], row["response"]) for row in rows],
            load_file(tmp_path / "rewards" / "phi.safetensors")["phi"],
        )
    )
    head, (noted,) = (
        load_file(tmp_path / "rewards" / "sharedrep-k2-0.4.safetensors"),
        read_jsonl(tmp_path / "rewards" / "heads.jsonl"),
    )
    for u, name in enumerate(reward.GROUPS):
        ours = [pair for pair in pairs if pair["split"] == "test" and pair["group_id"] == u]
        r = [
            [reward.reward_heads(phi[p["prompt"], p[side]][None], head)[0, u] for side in ("chosen", "rejected")]
            for p in ours
        ]
        assert noted[f"accuracy_{name}"] == pytest.approx(np.mean([chosen > rejected for chosen, rejected in r]))


def test_evaluations_leave_training_on_rewards_as_it_was(two, solution_files, tmp_path):
    flags = reward_flags(two, solution_files, tmp_path)
    reward.main(reward.Args(**flags))
    rows = []
    for every in (1, 9):
        args = sharedrep_grpo.Args(
            dataset=flags["dataset"],
            policy_lm=two[0],
            reward_dir=flags["reward_dir"],
            proportion=0.4,
            run_dir=str(tmp_path / str(every)),
            groups_per_batch=2,
            group_size=2,
            eval_size=2,
            iterations=2,
            eval_every=every,
            max_new_tokens=8,
            report=False,
        )
        sharedrep_grpo.main(args)
        row = read_jsonl(tmp_path / str(every) / "metrics.jsonl")[2]
        rows.append({name: row[name] for name in row if name.startswith(("rollout/", "losses/"))})
    assert rows[0] == rows[1]


def test_the_number_of_shown_tests_reaches_the_problems(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        common, "load_problems", lambda *a, **k: seen.append(k) or (_ for _ in ()).throw(InterruptedError)
    )
    with pytest.raises(InterruptedError):
        evaluation.main(evaluation.Args(tests_in_prompt=3, limit=5, run_dir=str(tmp_path / "run")))
    assert seen == [{"limit": 5, "tests_in_prompt": 3, "leave_out": True}]


def test_the_seed_chooses_the_problems(problem_file, random_lm, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        common, "judge_all", lambda texts, problems, *_: asked.append([p.id for p in problems]) or [False] * len(texts)
    )
    for text in ("a", "b"):
        (tmp_path / f"{text}.json").write_text(json.dumps([{"role": "user", "content": text}]))
    for seed in (0, 1):
        flags = {
            "templates": str(tmp_path),
            "output": str(tmp_path / f"{seed}.txt"),
            "search_size": 3,
            "max_new_tokens": 4,
        }
        template_search.main(template_search.Args(**flags, dataset=problem_file, policy_lm=random_lm, seed=seed))
    assert asked[0] == asked[1] and asked[2] == asked[3] and asked[0] != asked[2]


def test_responses_that_do_not_divide_are_split_evenly(quick, monkeypatch):
    """Five kept responses in four batches are four steps: red if they are three, one of them on a single response."""
    sizes, accumulate = [], expert_iteration.accumulate_gradients

    def judge_all(responses, problems, *flags):
        return [i < 5 for i in range(len(responses))]

    monkeypatch.setattr(common, "judge_all", judge_all)
    monkeypatch.setattr(
        expert_iteration,
        "accumulate_gradients",
        lambda model, turn, batch, *rest: sizes.append(len(batch)) or accumulate(model, turn, batch, *rest),
    )
    flags = {"groups_per_batch": 2, "group_size": 4, "num_minibatches": 4, "iterations": 1}
    expert_iteration.main(quick(script=expert_iteration, **flags))
    assert sizes == [2, 1, 1, 1]
