"""Whole runs with models of other families, at vocabularies of real size and in bfloat16, randomly initialised."""

import json

import pytest
import torch
import transformers
from conftest import small_args

import archer
import expert_iteration
import grpo
import mlmt_rl
import rl_guided_score
import score

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}<|assistant|>"


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, str]:
    """Folders of a Qwen2 and a Llama whose tokenizers pad with their end token, with and without a chat template."""
    folders = {}
    for name, config_class, vocabulary in (
        ("qwen2", transformers.Qwen2Config, 49_152),
        ("llama", transformers.LlamaConfig, 32_000),
    ):
        torch.manual_seed(0)
        ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
        config = config_class(vocab_size=vocabulary, num_key_value_heads=1, **SIZES, **ends)
        folder = tmp_path_factory.mktemp("families") / name
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained("tiny")
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.chat_template = TEMPLATE if name == "qwen2" else None
        tokenizer.save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture
def recomputing(monkeypatch) -> list[str]:
    """The families of the models that were told to recompute their layers (tests/test_logprobs.py: then they do)."""
    told, enable = [], transformers.PreTrainedModel.activation_checkpointing_enable

    def recording(model, *flags):
        told.append(model.config.model_type)
        return enable(model, *flags)

    monkeypatch.setattr(transformers.PreTrainedModel, "activation_checkpointing_enable", recording)
    return told


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_families_train_together(families, problem_file, tmp_path, dtype, monkeypatch, recomputing):
    """Solver and feedback model of different families and templates train, save and resume in either dtype."""
    monkeypatch.setattr(mlmt_rl, "LOGITS_CHUNK", 16)
    # random models are never right: every other response is called right, so that there is something to learn from
    monkeypatch.setattr(mlmt_rl.common, "judge_all", lambda texts, *rest: [i % 2 == 1 for i in range(len(texts))])
    flags = {"policy_lm": families["qwen2"], "feedback_lm": families["llama"], "dtype": dtype, "learning_rate": 1e-3}
    flags |= {
        "gradient_checkpointing": True,
        "save_every": 1,
        "keep_checkpoints": 0,
        "eval_every": 1,
    }
    whole = small_args(problem_file, tmp_path / "whole", iterations=2, **flags)
    mlmt_rl.main(whole)
    assert sorted(recomputing) == ["llama", "qwen2"]
    parts = small_args(problem_file, tmp_path / "parts", iterations=1, **flags)
    mlmt_rl.main(parts)
    parts.iterations, parts.if_run_exists = 2, "resume"
    mlmt_rl.main(parts)
    rows = [[json.loads(line) for line in (tmp_path / run / "metrics.jsonl").open()] for run in ("whole", "parts")]
    for row in rows[0] + rows[1]:
        for name in ("charts/seconds", "charts/verify_seconds", "charts/tokens_per_second"):
            row.pop(name, None)
    assert rows[0] == rows[1] and len(rows[0]) == 3
    assert all(row["losses/grad_norm_solver"] > 0 and row["losses/grad_norm_feedback"] > 0 for row in rows[0][1:])
    for name, family in (("solver", "qwen2"), ("feedback", "llama")):
        trained = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-000002" / name)
        initial = transformers.AutoModelForCausalLM.from_pretrained(families[family])
        assert trained.dtype == getattr(torch, dtype) and type(trained) is type(initial)
        moved = [not torch.equal(a, b.to(a.dtype)) for a, b in zip(trained.parameters(), initial.parameters())]
        assert all(moved[:1]) and sum(moved) > len(moved) / 2


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A RoBERTa for archer.py's critic, with a tokenizer that pads."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained("tiny")
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=tokenizer.pad_token_id, **SIZES
    )
    folder = tmp_path_factory.mktemp("encoder")
    transformers.RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "script", [score, rl_guided_score, archer, grpo, expert_iteration], ids=lambda script: script.__name__
)
def test_siblings_train_another_family(families, encoder, problem_file, tmp_path, script, monkeypatch, recomputing):
    """A Qwen2 with a chat template in bfloat16; the critic is a RoBERTa with its pooler."""
    monkeypatch.setattr(mlmt_rl.common, "judge_all", lambda texts, *rest: [i % 2 == 1 for i in range(len(texts))])
    flags = {"policy_lm": families["qwen2"], "dtype": "bfloat16", "gradient_checkpointing": True, "iterations": 1}
    if script is archer:
        flags |= {"critic_lm": encoder, "critic_batch_size": 4, "actor_batch_size": 4, "warmup_iterations": 0}
    script.main(small_args(problem_file, tmp_path / "run", script=script, **flags))
    assert set(recomputing) == {"qwen2"}
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()][1:]
    assert row["losses/grad_norm_solver"] > 0
    if script is archer:
        assert row["losses/grad_norm_critic"] > 0 and row["rollout/critic_truncated"] == 0
