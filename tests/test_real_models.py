"""Pretrained models with chat templates, tied weights and several end tokens, where REAL_MODELS names their folder.

REAL_MODELS=models python -m pytest tests/test_real_models.py    # models/smollm2, models/qwen05, ...: about an hour
"""

import math
import os
from pathlib import Path

import pytest
import torch
import transformers
from conftest import read_jsonl, small_args
from test_replay_sharedrep import folder as rewards  # noqa: F401, a fixture

import archer
import common
import eval
import expert_iteration
import grpo
import intro
import mlmt_rl
import rl_guided_score
import runs
import score
import sharedrep_grpo

FOLDER = Path(os.environ.get("REAL_MODELS", "none"))
MODELS = sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []
pytestmark = pytest.mark.skipif(not MODELS, reason="REAL_MODELS names no folder of models")
SCRIPTS = (mlmt_rl, score, rl_guided_score, grpo, expert_iteration, intro, archer, sharedrep_grpo)
OWN = {archer: {"critic_batch_size": 4, "actor_batch_size": 4, "warmup_iterations": 0, "critic_lm": "tiny"}}


@pytest.fixture(params=MODELS or ["none"])
def model(request) -> str:
    return str(FOLDER / request.param)


@pytest.mark.parametrize("adapters", [0, 4])
def test_the_sampler_is_the_policy_that_is_trained(model, adapters):
    """What the decode loop notes of each token, the training pass says, and transformers' own forward pass."""
    args = mlmt_rl.Args(policy_lm=model, lora_rank=adapters, micro_batch_size=2, tokens_per_micro_batch=200)
    solver, tokenizer = runs.load_lm(runs.place(args, mlmt_rl.__file__), model, "--policy-lm", "solver")
    problems = common.load_problems("arithmetic", "test", limit=3)
    prompts = [common.encode_prompt(tokenizer, common.attempt_messages(p)) for p in problems for _ in range(2)]
    torch.manual_seed(0)
    turn = mlmt_rl.generate(solver, tokenizer, prompts, 12, args)
    again = mlmt_rl.rollout_logprobs(solver, turn, args)
    assert torch.allclose(turn["logprobs"], again, atol=2e-3)
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for (ids, _), response, mask, logprobs in zip(prompts, turn["response_ids"], turn["response_mask"], again):
        response = response[mask]
        with torch.no_grad():
            logits = whole(torch.cat([torch.tensor(ids), response])[None]).logits[0, len(ids) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        assert torch.allclose(logprobs[mask], expected, atol=2e-3)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_trains_it(model, script, problem_file, rewards, tmp_path):  # noqa: F811
    """Two iterations and an evaluation of the checkpoint; texts hold no special token, metrics are finite."""
    flags = {"policy_lm": model, "lora_rank": 4, "max_new_tokens": 16, "temperature": 1.0, "eval_size": 2}
    dataset = problem_file
    if script is sharedrep_grpo:
        flags |= {"reward_dir": str(rewards / "rewards"), "proportion": 0.5}
        dataset = str(rewards / "plain.jsonl")
    script.main(small_args(dataset, tmp_path / "run", script=script, **flags | OWN.get(script, {})))
    rows, episodes = (read_jsonl(tmp_path / "run" / f"{name}.jsonl") for name in ("metrics", "episodes"))
    assert len(rows) == 3 and all(math.isfinite(v) for row in rows for v in row.values() if v is not None)
    special = transformers.AutoTokenizer.from_pretrained(model).all_special_tokens
    for episode in episodes:
        for turn in ("attempt", "feedback", "refinement"):
            assert not any(token in episode.get(turn, "") for token in special)
    if script is mlmt_rl:
        flags = {"solver": (str(tmp_path / "run"),), "dataset": (problem_file,), "limit": 2, "samples": 1}
        flags |= {"max_new_tokens": 8, "max_feedback_tokens": 8, "run_dir": str(tmp_path / "eval")}
        eval.main(eval.Args(**flags))
        assert len(read_jsonl(tmp_path / "eval" / "episodes.jsonl")) == 2
