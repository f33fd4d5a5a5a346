"""--feedback-control: what the solver reads in the feedback's place, in training and evaluation."""

import pytest
import torch
from conftest import read_jsonl, small_args
from safetensors.torch import load_file
from transformers import AutoTokenizer

import common
import eval
import mlmt_rl
import runs

SUMS = [common.Problem("1 + 1?", "2"), common.Problem("2 + 2?", "4"), common.Problem("3 + 3?", "6")]
ATTEMPTS = ["\\boxed{2}", "\\boxed{5}", "\\boxed{6}"]
READ = {
    "none": ["a", "b", "c"],
    "shuffled": ["b", "c", "a"],
    "verdict": ["The solution is right.", "The solution is wrong.", "The solution is right."],
    "fixed": ["There may be a mistake in your solution."] * 3,
}


@pytest.mark.parametrize("control", READ)
def test_what_is_read(control):
    args = mlmt_rl.Args(feedback_control=control)
    assert common.feedback_read(["a", "b", "c"], ATTEMPTS, SUMS, args) == READ[control]


def test_one_problem_has_no_other():
    with pytest.raises(common.InputError, match="shuffled needs two problems"):
        common.feedback_read(["a"], ATTEMPTS[:1], SUMS[:1], mlmt_rl.Args(feedback_control="shuffled"))


@pytest.mark.parametrize("control", ["shuffled", "verdict", "fixed"])
def test_a_run_reads_it_and_leaves_the_feedback_model_alone(control, problem_file, tmp_path, monkeypatch):
    """Red if turn 2 reads what was written, episodes.jsonl says so, or training moves what nobody reads."""
    tokenizer, turns = AutoTokenizer.from_pretrained(runs.model_source("tiny")), []
    generate = mlmt_rl.generate

    def noting(model, tokenizer_, prompts, *rest):
        turns.append(([tokenizer.decode(ids) for ids, _ in prompts], generate(model, tokenizer_, prompts, *rest)))
        return turns[-1][1]

    monkeypatch.setattr(mlmt_rl, "generate", noting)
    flags = {"feedback_control": control, "feedback_every": 0, "learning_rate": 1e-2, "iterations": 1, "eval_every": 1}
    mlmt_rl.main(small_args(problem_file, tmp_path / "run", **flags))
    rows = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    assert len(turns) == 9  # three of an evaluation, of the rollout, and of an evaluation
    for attempts, feedback, refinements in zip(*[iter(turns)] * 3):
        written = tokenizer.batch_decode(feedback[1]["response_ids"], skip_special_tokens=True)
        for i, prompt in enumerate(refinements[0]):
            texts = {row["feedback"] for row in rows if row["attempt"] == attempts[1]["texts"][i]}
            (read,) = {text for text in texts if f"Feedback on your solution:\n{text}\n" in prompt}
            if control == "fixed":
                assert read == READ["fixed"][0]
            if control == "verdict":
                assert read in READ["verdict"]
            if control == "shuffled":
                other = written[(i + 1) % len(written)]
                assert other.startswith(read) and not written[i].startswith(read)
    starts = load_file(f"{runs.model_source('tiny')}/model.safetensors")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    for name, same in (("feedback", True), ("solver", False)):
        ends = load_file(checkpoint / name / "model.safetensors")
        assert same == all(torch.equal(weight.float(), ends[key].float()) for key, weight in starts.items())


def test_an_evaluation_reads_it_too(problem_file, tmp_path):
    flags = {"dataset": (problem_file,), "limit": 3, "samples": 1, "feedback": "tiny", "feedback_control": "fixed"}
    args = eval.Args(split="all", run_dir=str(tmp_path / "eval"), max_new_tokens=8, max_feedback_tokens=8, **flags)
    eval.main(args)
    assert {row["feedback"] for row in read_jsonl(tmp_path / "eval" / "episodes.jsonl")} == {READ["fixed"][0]}
