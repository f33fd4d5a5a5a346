"""Expert iteration: its gradient, what it keeps, and that wrong responses teach nothing."""

from pathlib import Path

import pytest
import torch
from conftest import read_jsonl
from enumeration import RESPONSES, TEMPERATURE, TOLERANCE, X, gradient, make_turn, random_model, response_logprob, same
from safetensors.torch import load_file

import common
import expert_iteration

POLICY, REFERENCE = random_model(0), random_model(1)


def test_the_gradient_follows_the_right_responses():
    """That of -mean log pi over the kept responses, each divided by its length, whatever the KL's reference is."""
    args = expert_iteration.Args(temperature=TEMPERATURE, max_new_tokens=2, micro_batch_size=2, kl_coef=0.0)
    turn = make_turn(expert_iteration, args, [X] * 7, RESPONSES, POLICY, REFERENCE)
    rows = torch.tensor([1, 3, 0])
    log_pi = torch.stack([response_logprob(POLICY, X, RESPONSES[i]) for i in rows])
    lengths = torch.tensor([len(RESPONSES[i]) for i in rows])
    exact = gradient(POLICY, -(log_pi / lengths).mean())
    loss = expert_iteration.accumulate_gradients(POLICY, turn, rows, args)
    assert loss == pytest.approx(-(log_pi / lengths).mean().item(), abs=1e-5)
    assert exact.abs().max() > 1e-3 and same(gradient(POLICY), exact, 5 * TOLERANCE)


def test_without_a_right_response_nothing_moves(small, tmp_path, monkeypatch):
    """The row says null, and the run goes on."""
    monkeypatch.setattr(common, "judge_all", lambda responses, *flags: [False] * len(responses))
    args = small(script=expert_iteration, iterations=2)
    expert_iteration.main(args)
    last = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["rollout/trained_responses"] == 0 and last["losses/grad_norm_solver"] is None
    start, end = (
        load_file(path / "model.safetensors") for path in (Path("tiny"), tmp_path / "run/checkpoint-000002/solver")
    )
    assert all(torch.equal(start[name], end[name]) for name in start)
