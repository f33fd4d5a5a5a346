"""eval.py: leakage, training's evaluation reproduced, evaluations cut short and compared, mistakes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from conftest import coins, read_jsonl, small_args, write_jsonl
from test_bad_input import refused  # noqa: F401, a fixture
from transformers import AutoModelForCausalLM, AutoTokenizer

import archer
import common
import eval as evaluation
import grpo
import intro
import mlmt_rl
import rl_guided_score
import score

# ---- feedback quality ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ("the last step gives 5", True),
        ("it is 5.", True),
        (r"\boxed{10/2}", True),
        ("15 is wrong", False),
        ("5.5 is wrong", False),
        ("0.5 is wrong", False),
        ("check step 2", False),
    ],
)
def test_leakage(feedback, expected):
    """Red if a longer number that holds the answer's digits counts, or if only one way to write the answer does."""
    assert evaluation.states_answer(feedback, common.Problem("2 + 3?", "5")) is expected


# ---- whole evaluations ---------------------------------------------------------------------------------------------


def eval_args(problem_file: str, run_dir, **flags) -> evaluation.Args:
    """Flags of an evaluation that takes a second."""
    sizes = {"max_new_tokens": 8, "max_feedback_tokens": 8, "samples": 1, "bootstrap_samples": 10, "limit": 4}
    return evaluation.Args(**{"dataset": (problem_file,), "run_dir": str(run_dir)} | sizes | flags)


def results(args: evaluation.Args) -> list[dict]:
    return json.loads((Path(args.run_dir) / "eval.json").read_text())["results"]


def episodes(args) -> list[dict]:
    return read_jsonl(Path(args.run_dir) / "episodes.jsonl")


EARLY = {"temperature": 1.0, "max_new_tokens": 32, "eval_size": 6, "iterations": 1}
RUNS = {
    "score": (score, {}),
    "rl_guided_score": (rl_guided_score, {"max_feedback_tokens": 32}),
    "unread feedback": (
        rl_guided_score,
        {"max_feedback_tokens": 32, "use_smart_corrections": False, "train_guidance_model": False},
    ),
    "mlmt_rl, bfloat16": (mlmt_rl, {"max_feedback_tokens": 32, "dtype": "bfloat16", "top_p": 0.9}),
    "another's feedback": (mlmt_rl, {"max_feedback_tokens": 32, "feedback_control": "shuffled", "feedback_every": 0}),
    "grpo": (grpo, {"prompt_template": "concise"}),
    "grpo, adapters in bfloat16": (grpo, {"lora_rank": 4, "dtype": "bfloat16", "learning_rate": 1e-2}),
    "intro": (intro, {}),
    "archer": (archer, {"critic_batch_size": 4, "actor_batch_size": 4, "warmup_iterations": 0}),
}


@pytest.mark.parametrize("name", RUNS)
def test_training_settings_reproduce_the_last_evaluation_of_training(problem_file, tmp_path, name):
    """The same texts and figures, from the checkpoint and the run's config.json alone."""
    script, flags = RUNS[name]
    trained = small_args(problem_file, tmp_path / "run", script, **EARLY | flags)
    script.main(trained)
    flags = evaluation.Args(solver=(trained.run_dir,), as_in_training=True, run_dir=str(tmp_path / "eval"))
    args = evaluation.training_settings(flags)
    evaluation.main(args)
    last = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]
    (figures,) = results(args)
    measured = {key: value for key, value in last.items() if key.startswith("eval/") and value is not None}
    for name in ("greedy_accuracy_1", "accuracy_answered"):  # eval.py samples once, and shows no answer
        measured.pop(f"eval/{name}", None)
    assert measured == {key: figures[key.removeprefix("eval/")] for key in measured}
    expected = [row for row in episodes(trained) if row["phase"] == "eval" and row["iteration"] == 1]
    assert len(expected) == 6
    for row, other in zip(episodes(args), expected, strict=True):
        del other["iteration"]
        assert {key: row[key] for key in other} == other


def test_problems_that_nothing_could_be_judged_by_are_left_out(tmp_path, capsys):
    """Red if one whole text among the gold answers ends an evaluation, or counts in it."""
    rows = [{"question": f"{n}?", "answer": "It is big. So is this." if n == 2 else str(n)} for n in range(4)]
    args = eval_args(write_jsonl(tmp_path / "golds.jsonl", rows), tmp_path / "eval", split="all", turns=1, samples=1)
    evaluation.main(args)
    assert {row["answer"] for row in episodes(args)} == {"0", "1", "3"}
    assert "golds.jsonl: left out row 3" in capsys.readouterr().err


def test_a_run_that_has_lost_its_feedback_model_is_not_evaluated_without(finished, tmp_path):
    run = shutil.copytree(finished.run_dir, tmp_path / "run")
    shutil.rmtree(run / "checkpoint-000012" / "feedback")
    with pytest.raises(common.InputError, match="checkpoint-000012/feedback, the run's feedback model, is gone"):
        evaluation.training_settings(evaluation.Args(solver=(str(run),), as_in_training=True))


def test_weights_are_looked_for_before_an_evaluation_is_deleted(finished, tmp_path):
    solver = shutil.copytree(Path(finished.run_dir) / "checkpoint-000012" / "solver", tmp_path / "solver")
    (solver / "model.safetensors").unlink()
    with pytest.raises(common.InputError, match="solver cannot be loaded: its folder holds no weights"):
        evaluation.main(eval_args(finished.dataset, tmp_path / "eval", solver=(str(solver),)))
    assert not (tmp_path / "eval").exists()


def test_flags_beside_as_in_training_win(finished):
    """The training settings are defaults of the command line, which --temperature overrules."""
    flags = evaluation.Args(solver=(finished.run_dir,), as_in_training=True)
    default = evaluation.training_settings(flags)
    args = tyro.cli(evaluation.Args, default=default, args=["--temperature", "0", "--limit", "3"])
    assert (args.temperature, args.limit, args.max_new_tokens, args.dataset) == (0, 3, 32, (finished.dataset,))


@pytest.fixture
def coin_verdicts(monkeypatch):
    monkeypatch.setattr(common, "judge_all", coins)


def test_cut_short_and_resumed_is_as_never_stopped(problem_file, tmp_path, coin_verdicts, monkeypatch):
    """Two sets of blocks, killed in the middle of one and of its line; what was done is not sampled again."""
    flags = {"samples": 2, "block_size": 3, "split": "train", "limit": 7, "turns": 2, "feedback": "tiny"}
    whole, cut = (eval_args(problem_file, tmp_path / name, **flags) for name in ("whole", "cut"))
    evaluation.main(whole)
    evaluation.main(cut)
    path = tmp_path / "cut" / "episodes.jsonl"
    text = path.read_bytes()
    assert text == (tmp_path / "whole" / "episodes.jsonl").read_bytes() and text.count(b"\n") == 14
    lines = text.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + lines[9][:100])  # blocks of 3, 2, 2, 3, 2, 2: the fourth lacks a row
    (tmp_path / "cut" / "eval.json").unlink()
    sampled = []
    evaluate_block = evaluation.evaluate_block

    def recording(models, tokenizers, problems, args):
        sampled.append(len(problems))
        return evaluate_block(models, tokenizers, problems, args)

    monkeypatch.setattr(evaluation, "evaluate_block", recording)
    evaluation.main(replace(cut, if_run_exists="resume"))
    assert path.read_bytes() == text and sampled == [3, 2, 2]
    assert results(cut) == results(whole)
    path.write_text(json.dumps(json.loads(lines[0]) | {"solver": "runs/a/checkpoint-000001"}) + "\n")
    with pytest.raises(common.InputError, match="cut began with runs/a/checkpoint-000001: start over"):  # a run went on
        evaluation.main(replace(cut, if_run_exists="resume"))
    for change in ({"block": 9}, {"reward_1": None}):
        row = {name: value for name, value in (json.loads(lines[0]) | change).items() if value is not None}
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(common.InputError, match="episodes.jsonl is damaged, so the evaluation cannot be resumed"):
            evaluation.main(replace(cut, if_run_exists="resume"))
    with pytest.raises(common.InputError, match="--samples is 3, but the run in .* was started with 2"):
        evaluation.main(replace(cut, if_run_exists="resume", samples=3))


def test_samples_and_blocks_are_independent(problem_file, tmp_path):
    """Red if two samples of a problem, or two blocks, are drawn from one seed."""
    twice = write_jsonl(tmp_path / "twice.jsonl", read_jsonl(Path(problem_file))[:1] * 2)
    flags = {"samples": 3, "block_size": 1, "split": "all", "turns": 1, "max_new_tokens": 32}
    args = eval_args(twice, tmp_path / "run", temperature=4.0, top_p=1.0, **flags)
    evaluation.main(args)
    assert len({row["attempt"] for row in episodes(args)}) == 6


def test_solvers_sets_and_feedback(problem_file, finished, tmp_path, coin_verdicts):
    """Each solver on each set; a checkpoint brings its own feedback model, other solvers read the fixed instruction."""
    two_turns = {"solver": ("tiny", finished.run_dir), "dataset": (problem_file, "arithmetic"), "limit": 2}
    args = eval_args(problem_file, tmp_path / "own", **two_turns)
    evaluation.main(args)
    checkpoint = str(common.last_checkpoint(Path(finished.run_dir)))
    solvers = ["tiny", "tiny", checkpoint, checkpoint]
    assert [(r["solver"], r["dataset"]) for r in results(args)] == list(zip(solvers, two_turns["dataset"] * 2))
    assert [r["feedback"] for r in results(args)] == [None, None, *[f"{checkpoint}/feedback"] * 2]
    assert ["feedback" in row for row in episodes(args)] == [False] * 4 + [True] * 4
    args = eval_args(problem_file, tmp_path / "none", **two_turns, feedback="none")
    evaluation.main(args)
    assert not any("feedback" in row for row in episodes(args)) and all("refinement" in row for row in episodes(args))
    args = eval_args(problem_file, tmp_path / "one", **two_turns, turns=1)
    evaluation.main(args)
    assert not any("refinement" in row or "feedback" in row for row in episodes(args))


def test_stop_strings_end_every_attempt(problem_file, finished, tmp_path, monkeypatch):
    """Red if a text that is judged goes on after a stop string, in either turn or where feedback is measured."""
    judged, verify_turns = [], common.verify_turns

    def watched(turns, *rest):
        judged.extend(turns)
        return verify_turns(turns, *rest)

    monkeypatch.setattr(common, "verify_turns", watched)
    whole = {"solver": (finished.run_dir,), "feedback_quality": True, "max_new_tokens": 32}
    evaluation.main(eval_args(problem_file, tmp_path / "whole", **whole))
    assert len(judged) == 4 and all(any("\n" in text for text in texts) for texts in judged)
    judged.clear()
    args = eval_args(problem_file, tmp_path / "cut", **whole, stop_strings=("\n",))
    evaluation.main(args)
    assert len(judged) == 4 and not any("\n" in text for texts in judged for text in texts)
    assert not any("\n" in row[turn] for row in episodes(args) for turn in ("attempt", "refinement"))


def test_the_run_folder_is_named_after_the_sets(problem_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluation.main(replace(eval_args(problem_file, ""), run_dir=None, dataset=(problem_file, "arithmetic"), turns=1))
    (folder,) = (tmp_path / "evals").iterdir()
    assert folder.name.startswith("three_steps+arithmetic__0__")
    output = capsys.readouterr().out
    assert f"evals/{folder.name}/eval.json" in output and "| tiny " in output
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "episodes.jsonl", "eval.json"]


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained("tiny"), AutoTokenizer.from_pretrained("tiny")


def test_greedy_takes_the_likeliest_token(problem_file, tiny):
    """Temperature 0, whatever the seed; the shared `generate` of every script does so."""
    problems = common.load_problems(problem_file, "test", limit=3)
    turns = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        args = evaluation.Args(temperature=0.0, max_new_tokens=8, turns=1)
        turns.append(evaluation.run_episodes((tiny[0], None), (tiny[1], None), problems, args)["attempt"])
    assert torch.equal(turns[0]["response_ids"], turns[1]["response_ids"])
    for (ids, _), response in zip(turns[0]["prompts"], turns[0]["response_ids"]):
        for length in range(8):
            read = torch.tensor([*ids, *response[:length].tolist()])[None]
            assert tiny[0](read).logits[0, -1].argmax() == response[length]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_those_of_training(problem_file, tiny, temperature):
    """Red if the temperature is dropped, the end token left out or the slice shifted; greedy is read at 1."""
    problems = common.load_problems(problem_file, "all", limit=5)
    args = evaluation.Args(temperature=temperature, max_new_tokens=30, turns=1, top_p=1.0)
    turn = evaluation.run_episodes((tiny[0], None), (tiny[1], None), problems, args)["attempt"]
    torch.manual_seed(0)
    random_model = AutoModelForCausalLM.from_config(tiny[0].config)  # for which no token is sure, the last one neither
    expected = mlmt_rl.rollout_logprobs(random_model, turn, mlmt_rl.Args(temperature=temperature or 1.0)).sum(1)
    sums = evaluation.response_logprobs(random_model, [ids for ids, _ in turn["prompts"]], turn, args)
    assert torch.allclose(torch.tensor(sums), expected, atol=1e-3) and not turn["truncated"].any()


def test_feedback_quality_reads_what_it_says(problem_file, tmp_path, tiny, monkeypatch):
    """Without: the fixed instruction. Shuffled: another problem's feedback. The main episodes stay as they are."""
    flags = {"feedback": "tiny", "max_new_tokens": 32, "max_feedback_tokens": 32, "limit": 6, "split": "all"}
    plain = eval_args(problem_file, tmp_path / "plain", **flags)
    evaluation.main(plain)
    prompts = []
    generate = evaluation.generate

    def recording(model, tokenizer, encoded, max_new_tokens, args):
        prompts.append([tokenizer.decode(ids) for ids, _ in encoded])
        return generate(model, tokenizer, encoded, max_new_tokens, args)

    def scoring(model, ids, turn, args):
        scored.append([tokenizer_of_tiny.decode(prompt) for prompt in ids])
        return logprobs(model, ids, turn, args)

    scored, logprobs, tokenizer_of_tiny = [], evaluation.response_logprobs, tiny[1]
    monkeypatch.setattr(evaluation, "generate", recording)
    monkeypatch.setattr(evaluation, "response_logprobs", scoring)
    args = eval_args(problem_file, tmp_path / "quality", **flags, feedback_quality=True)
    evaluation.main(args)
    rows = episodes(args)
    assert [{key: row[key] for key in other} for row, other in zip(rows, episodes(plain))] == episodes(plain)
    assert len(prompts) == 5  # attempt, feedback, refinement, without, shuffled
    assert scored == [prompts[2], prompts[3]]  # the refinement after its own prompt, and after that without feedback
    for i, row in enumerate(rows):
        start = f"{row['question']}\n\n{common.SOLVE}\n{row['attempt']}\n"
        assert prompts[3][i] == f"{start}{common.SELF_CORRECT}\n"
        other = rows[(i + 1) % len(rows)]
        assert prompts[4][i] == f"{start}{common.FEEDBACK}{other['feedback']}\n\n{common.REFINE}\n"
        assert row["leaked"] == evaluation.states_answer(row["feedback"], common.Problem("", row["answer"]))
        assert row["leaked_by_chance"] == evaluation.states_answer(other["feedback"], common.Problem("", row["answer"]))
    (figures,) = results(args)
    assert set(figures["feedback_quality"]) >= {"utility", "specificity", "utilisation", "leakage"}


def test_prompt_templates(problem_file, tmp_path, monkeypatch):
    """The template's messages stand before the problem in both turns, and no other prompt changes."""
    messages = [{"role": "system", "content": "Be brief."}, *common.PROMPT_TEMPLATES["concise"]]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(messages), encoding="utf-8")
    for name, template in [*common.PROMPT_TEMPLATES.items(), (str(path), messages)]:
        prompts = []

        def recording(tokenizer, messages, statement="", prompts=prompts):
            prompts.append(messages)
            return [5], 1

        monkeypatch.setattr(common, "encode_prompt", recording)
        flags = {"prompt_template": name, "limit": 1}
        args = eval_args(problem_file, tmp_path / Path(name).stem / "tiny", feedback="tiny", **flags)
        evaluation.main(args)
        evaluation.main(eval_args(problem_file, tmp_path / Path(name).stem / "none", **flags))
        (row,) = episodes(args)
        first = {"role": "user", "content": f"{row['question']}\n\n{common.SOLVE}"}
        assert prompts[0] == [*template, first]
        assert prompts[1] == common.feedback_messages(common.Problem(row["question"], ""), row["attempt"])
        for second in (prompts[2], prompts[4]):
            assert second[: len(template) + 2] == [*template, first, {"role": "assistant", "content": row["attempt"]}]
    for name, messages in common.PROMPT_TEMPLATES.items():
        if messages:  # a demonstration is right, and its answer can be found
            assert common.extract_answer(messages[-1]["content"]) == {"baseline": "3", "step_by_step": "29"}.get(
                name, "21"
            )


# ---- two evaluations ----------------------------------------------------------------------------------------------


def saved(folder: Path, verdicts: dict[str, list[tuple[int, int]]], solvers=("s",), **flags) -> str:
    """A finished evaluation, by hand: the verdicts on both attempts at each question; all but one solver fail."""
    folder.mkdir()
    rows = [
        {"solver": solver, "dataset": "d", "question": question, "answer": "5"}
        | {"reward_1": r1 * (solver == solvers[0]), "reward_2": r2 * (solver == solvers[0])}
        for solver in solvers
        for question, samples in verdicts.items()
        for r1, r2 in samples
    ]
    write_jsonl(folder / "episodes.jsonl", rows)
    sizes = {"problems": len(verdicts), "samples": len(next(iter(verdicts.values())))}
    found = [{"solver": solver} | sizes for solver in solvers]
    (folder / "eval.json").write_text(json.dumps({"args": {"temperature": 1.0} | flags, "results": found}))
    return str(folder)


def compared(capsys, *names: str) -> list[list[str]]:
    evaluation.main(evaluation.Args(compare=names, bootstrap_samples=4000))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| d ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_comparison_by_hand(tmp_path, capsys):
    """A at turn 1: (1, 0, 1/2), B: (0, 0, 1), on the three problems of both, whatever their order."""
    a = saved(tmp_path / "a", {"p": [(1, 1)] * 2, "q": [(0, 1)] * 2, "r": [(1, 0), (0, 0)], "only a": [(1, 1)] * 2})
    b = saved(tmp_path / "b", {"r": [(1, 0)], "only b": [(1, 1)], "q": [(0, 1)], "p": [(0, 1)]})
    first, second = compared(capsys, a, b)
    assert first[:6] == ["d", "1", "3", "0.500", "0.333", "+0.167"] and first[7:] == ["1", "1", "1"]
    assert first[6] == "-0.500 to +1.000"  # all three draws are r, or all p, with probability 1/27
    assert second[:6] == ["d", "2", "3", "0.667", "0.667", "+0.000"] and second[7:] == ["0", "0", "3"]
    assert compared(capsys, b, a)[0][5] == "-0.167"


def test_comparison_names_what_else_differs(tmp_path, capsys):
    a, b = saved(tmp_path / "a", {"p": [(1, 1)]}), saved(tmp_path / "b", {"p": [(1, 1)]}, temperature=0.5)
    evaluation.main(evaluation.Args(compare=(a, b), bootstrap_samples=10))
    assert "temperature 1.0 against 0.5" in capsys.readouterr().out


def test_comparison_of_solvers_in_one_folder(tmp_path, capsys):
    both = saved(tmp_path / "both", {"p": [(1, 1)]}, solvers=("s", "t"))
    assert compared(capsys, f"{both}#1", f"{both}#2")[0][3:6] == ["1.000", "0.000", "+1.000"]
    assert compared(capsys, f"{both}#2", f"{both}#1")[0][7:] == ["0", "1", "0"]


# ---- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"solver": ("tiny", "no/such/model")}, "--solver no/such/model cannot be loaded: there is no such folder"),
        ({"feedback": "no/such/model"}, "--feedback no/such/model cannot be loaded"),
        ({"feedback": "tiny", "turns": 1}, "--feedback tiny is written for a second turn"),
        ({"dataset": ("arithmetics",)}, "unknown data set 'arithmetics'"),
        ({"split": "validation"}, "no split 'validation'"),
        ({"samples": 0}, "--samples must not be 0"),
        ({"temperature": -1.0}, "--temperature must not be -1.0"),
        ({"top_p": 0.0}, "--top-p 0.0"),
        ({"solver": ("tiny", "")}, "--solver is empty"),
        ({"feedback": ""}, "--feedback is empty"),
        ({"temperature": 0.0, "samples": 2}, "add --samples 1"),
        ({"stop_strings": ("",)}, "an empty text ends every response"),
        ({"max_new_tokens": 9000}, "tokens, but the model of --solver tiny reads 8192"),
        ({"feedback_quality": True}, "--feedback-quality needs --turns 2 and a --feedback model"),
        ({"feedback_quality": True, "feedback": "tiny", "use_smart_corrections": False}, "whose feedback is read"),
        ({"feedback_quality": True, "feedback": "tiny", "limit": 1}, "--block-size 200 leaves one of 1 alone"),
        (
            {"feedback_quality": True, "feedback": "tiny", "limit": 3, "block_size": 2},
            "--feedback-quality takes feedback of another problem",
        ),
        (
            {"feedback_control": "shuffled", "feedback": "tiny", "limit": 5, "block_size": 2},
            "--feedback-control shuffled takes feedback of another problem of the same block, but --block-size 2",
        ),
        ({"feedback_control": "fixed"}, "--feedback-control fixed needs --turns 2 and a --feedback model"),
        ({"feedback_control": "fixed", "feedback": "tiny", "turns": 1}, "needs --turns 2"),
        ({"feedback_control": "fixed", "feedback": "tiny", "use_smart_corrections": False}, "whose feedback is read"),
        (
            {"feedback_control": "fixed", "feedback": "tiny", "feedback_quality": True},
            "--feedback-quality measures what was written: it needs --feedback-control none",
        ),
        ({"dataset": ()}, "--dataset is empty"),
        ({"prompt_template": "brief"}, "unknown --prompt-template brief: choose none, baseline"),
        ({"prompt_template": "none.json"}, "--prompt-template none.json cannot be read"),
        ({"prompt_template": "concise", "dataset": ("functions",)}, "choose none or a file for code"),
        ({"refine_prompt": "Again.", "turns": 1}, "--refine-prompt is read by no model here"),
        ({"feedback_prompt": "Judge."}, "--feedback-prompt is read by no model here"),
        ({"compare": ("a", "b")}, "--compare a is not a finished evaluation"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_sentence(refused, problem_file, tmp_path, flags, sentence):  # noqa: F811
    """Before anything is written, and before a model's weights are read."""
    assert sentence in refused(eval_args(problem_file, tmp_path / "run", **flags))


def test_no_reference_that_passes(tmp_path):
    row = {"question": "f?", "test_list": ["assert f() == 1"], "code": "def f(): return 2"}
    path = write_jsonl(tmp_path / "code.jsonl", [row])
    with pytest.raises(common.InputError, match=f"no reference solution of {path} passes its own tests"):
        evaluation.main(eval_args(path, tmp_path / "run", split="all"))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_no_feedback_model(refused, problem_file, tmp_path):  # noqa: F811
    """It holds two: red if its solver is looked at, and the folder that cannot be loaded is found after the start."""
    shutil.copytree("tiny", tmp_path / "checkpoint" / "solver")
    error = refused(eval_args(problem_file, tmp_path / "run", feedback=str(tmp_path / "checkpoint")))
    assert f"--feedback {tmp_path / 'checkpoint'} cannot be loaded" in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "messages",
    [{"role": "user"}, [{"role": "user"}], [{"role": "robot", "content": "x"}], [{"role": "user", "content": 1}]],
)
def test_a_template_that_holds_no_messages(refused, problem_file, tmp_path, messages):  # noqa: F811
    path = tmp_path / "template.json"
    path.write_text(json.dumps(messages))
    assert f"--prompt-template {path}" in refused(eval_args(problem_file, tmp_path / "run", prompt_template=str(path)))


def test_comparisons_that_cannot_be_made(refused, tmp_path):  # noqa: F811
    one, other = saved(tmp_path / "one", {"p": [(1, 1)]}), saved(tmp_path / "other", {"q": [(1, 1)]})
    both = saved(tmp_path / "both", {"p": [(1, 1)]}, solvers=("s", "t"))
    args = evaluation.Args(compare=(one, other))
    assert "have no problem in common" in refused(args)
    assert f"{both}#1 (s), {both}#2 (t)" in refused(replace(args, compare=(one, both)))
    with_number = saved(tmp_path / "a#1", {"p": [(1, 1)]})
    assert "a#1 and" in refused(replace(args, compare=(with_number, other)))  # the folder a#1, not the first of a
    longer = saved(tmp_path / "longer", {"p": [(1, 1)], "q": [(1, 1)]})
    for text in ((tmp_path / "one" / "episodes.jsonl").read_text(), '{"solver": "s"}\n' * 2):
        (tmp_path / "longer" / "episodes.jsonl").write_text(text)
        assert "longer is not a finished evaluation: episodes.jsonl is not whole" in refused(
            replace(args, compare=(longer, one))
        )
    (tmp_path / "other" / "episodes.jsonl").unlink()
    assert "other is not a finished evaluation" in refused(args)
    assert f"{both}#1 (s), {both}#2 (t)" in refused(replace(args, compare=(f"{both}#3", one)))


def test_training_settings_need_a_checkpoint(refused, finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(evaluation, "main", evaluation.training_settings)
    for solver in ((), ("tiny",), (finished.run_dir, finished.run_dir)):
        assert "needs one --solver" in refused(evaluation.Args(solver=solver, as_in_training=True))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert "no checkpoint yet" in refused(evaluation.Args(solver=(str(tmp_path / "run"),), as_in_training=True))
