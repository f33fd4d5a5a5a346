"""Adapters (LoRA): one base model for all, folders that hold an adapter alone. Their gradients: test_replay_*.py."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl, small_args
from safetensors.torch import load_file
from test_bad_input import refused  # noqa: F401, a fixture
from transformers import AutoTokenizer

import common
import eval as evaluation
import grpo
import mlmt_rl
import runs

REPO = Path(__file__).resolve().parents[1]
ADAPTERS = {"lora_rank": 4, "learning_rate": 3e-2, "guidance_lr": 3e-2, "rollout_size": 4, "groups_per_batch": 2}
TOKENS = torch.arange(5, 25)[None]


def loaded(script, run_dir=None, trained_as=None, **flags):
    """A model as a script's main loads it, and the run that it belongs to."""
    args = script.Args(**flags)
    run = runs.place(args, script.__file__)
    run.resumed = run_dir
    return runs.load_lm(run, args.policy_lm or "tiny", "--policy-lm", trained_as)[0], run


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.fixture(scope="module")
def trained(problem_file, tmp_path_factory) -> Path:
    """A finished run of mlmt_rl.py with adapters that have moved far."""
    run_dir = tmp_path_factory.mktemp("adapters") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "judge_all", lambda texts, *_: [len(text) % 2 == 0 for text in texts])
        mlmt_rl.main(
            small_args(problem_file, run_dir, **{k: v for k, v in ADAPTERS.items() if k != "groups_per_batch"})
        )
    return run_dir


def test_all_models_of_a_run_share_one_base_and_nothing_else():
    """Red if a second copy takes memory, a base can move, or one adapter is seen by another model."""
    args = mlmt_rl.Args(lora_rank=4)
    run = runs.place(args, mlmt_rl.__file__)
    solver, feedback, reference = (
        runs.load_lm(run, "tiny", "--policy-lm", name)[0] for name in ("solver", "feedback", None)
    )
    before, weights = logits(reference), {tensor.data_ptr() for tensor in reference.parameters()}
    for model in (solver, feedback):
        assert torch.equal(logits(model), before)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        assert {w.data_ptr() for w in model.parameters()} - {w.data_ptr() for w in trained} == weights
        assert len(trained) == 2 * 7 * model.config.num_hidden_layers  # A and B of all linear layers but the head
        assert sum(w.numel() for w in trained) < 0.1 * sum(w.numel() for w in reference.parameters())
    assert not any(weight.requires_grad for weight in reference.parameters())
    bytes_of = [sum(w.nbytes for w in model.parameters()) for model in (reference, solver, feedback)]
    assert run.sizes == {"models": sum(bytes_of) - 2 * bytes_of[0], "saved": sum(bytes_of[1:]) - 2 * bytes_of[0]}
    with torch.no_grad():
        for weight in (weight for weight in solver.parameters() if weight.requires_grad):
            weight += 0.1
    assert not torch.allclose(logits(solver), before, atol=0.1)
    assert torch.equal(logits(feedback), before) and torch.equal(logits(reference), before)


def test_a_checkpoint_holds_the_adapter_and_names_its_base(trained):
    folder = common.last_checkpoint(trained) / "solver"
    assert not (folder / "model.safetensors").exists() and (folder / "tokenizer.json").is_file()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(REPO / "tiny"), 4, 32)
    assert all("lora_" in name for name in load_file(folder / "adapter_model.safetensors"))


def test_a_folder_with_an_adapter_is_a_model(trained, problem_file, tmp_path, coin_rewards):
    """Red if the adapter is left out: for an evaluation, as a start of all weights, and of an adapter on top."""
    folder = str(common.last_checkpoint(trained) / "solver")
    resumed, _ = loaded(mlmt_rl, common.last_checkpoint(trained), "solver", lora_rank=4)
    expected = logits(resumed)
    assert not torch.allclose(expected, logits(loaded(mlmt_rl)[0]), atol=1.0)
    args = evaluation.Args()
    frozen, _ = runs.load_lm(runs.place(args, evaluation.__file__), folder, "--solver")
    assert torch.equal(logits(frozen), expected) and not any(w.requires_grad for w in frozen.parameters())
    for rank in (0, 4):
        start, _ = loaded(grpo, trained_as="solver", policy_lm=folder, lora_rank=rank)
        assert torch.allclose(logits(start), expected, atol=1e-4)
        flags = {"script": grpo, "policy_lm": folder, "lora_rank": rank, "groups_per_batch": 8, "learning_rate": 1e-2}
        grpo.main(small_args(problem_file, tmp_path / f"run{rank}", **flags))
        kl = [row["losses/kl_solver"] for row in read_jsonl(tmp_path / f"run{rank}" / "metrics.jsonl")[1:]]
        assert abs(kl[0]) < 1e-4 and abs(kl[1]) > 1e-3  # the reference is what training starts from
    top = str(common.last_checkpoint(tmp_path / "run4") / "solver")  # an adapter on an adapter
    first, _ = loaded(grpo, common.last_checkpoint(tmp_path / "run4"), "solver", policy_lm=folder, lora_rank=4)
    both, _ = runs.load_lm(runs.place(args, evaluation.__file__), top, "--solver")
    assert torch.equal(logits(both), logits(first)) and not torch.allclose(logits(both), expected, atol=0.1)
    flags = {"solver": (str(tmp_path / "run4"),), "dataset": (problem_file,), "limit": 2, "samples": 1, "turns": 1}
    evaluation.main(evaluation.Args(**flags, max_new_tokens=8, run_dir=str(tmp_path / "eval")))
    assert len(read_jsonl(tmp_path / "eval" / "episodes.jsonl")) == 2


def test_a_folder_with_an_adapter_is_read_by_its_own_tokenizer(trained, tmp_path):
    """Red if a model that was trained with one chat template, or without any, is asked in that of its base."""
    folder = tmp_path / "model"
    shutil.copytree(common.last_checkpoint(trained) / "solver", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template is None
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    for script, flag in ((evaluation, "--solver"), (grpo, "--policy-lm")):
        for asked, template in ((True, tokenizer.chat_template), (False, None)):
            run = runs.place(script.Args(chat_template=asked), script.__file__)
            assert runs.load_lm(run, str(folder), flag)[1].chat_template == template


def test_what_is_missing_is_named(small, refused, trained, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "model"
    shutil.copytree(common.last_checkpoint(trained) / "solver", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    error = refused(small(policy_lm=str(folder)))
    assert f"--policy-lm {folder} is an adapter of another model: {tmp_path / 'gone'} cannot be loaded: " in error
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "peft" else find(name, *_))
    assert "--lora-rank needs peft: pip install peft" in refused(small(lora_rank=4))
    assert f"--policy-lm {folder}, an adapter, needs peft: pip install peft" in refused(small(policy_lm=str(folder)))
