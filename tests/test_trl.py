"""grpo.py against TRL's GRPOTrainer: the same model, prompts, responses and rewards give the same loss and gradient.

TRL stands in no requirements. To run these, put it apart:

    pip install --target trl-packages --no-deps trl==1.16.0 accelerate==1.15.0 psutil==7.2.2
    PYTHONPATH=trl-packages python -m pytest -s tests/test_trl.py
"""

import copy
import warnings

import pytest
import torch
from conftest import coins
from transformers import AutoModelForCausalLM, AutoTokenizer

import common
import grpo

pytest.importorskip("trl", reason="TRL is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
G = 4
# our flags: TRL's
PAIRS = {
    "GRPO": ({"loss_reduction": "sequence"}, {"loss_type": "grpo"}),
    "Dr.GRPO": (
        {"loss_reduction": "constant", "advantage_norm": "none"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
    ),
    "DAPO": ({"loss_reduction": "token", "clip_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "CISPO": (
        {"loss_reduction": "token", "loss_fn": "cispo", "clip_low": 1.0, "clip_high": 0.3},
        {"loss_type": "cispo", "epsilon_high": 1.3},
    ),
}


@pytest.fixture(scope="module")
def rollout() -> tuple:
    """16 responses to 4 problems: (policy, reference, tokenizer, turn, rewards); the policy has left the reference."""
    reference, tokenizer = AutoModelForCausalLM.from_pretrained("tiny"), AutoTokenizer.from_pretrained("tiny")
    policy = copy.deepcopy(reference)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * weight.std() * torch.randn_like(weight)
    problems = [p for p in common.load_problems("arithmetic", "test", limit=4) for _ in range(G)]
    args = grpo.Args(max_new_tokens=30)
    turn = grpo.run_episodes((policy,), (tokenizer,), problems, args)["attempt"]
    rewards = torch.tensor(coins(turn["texts"], problems)).float() - 0.1 * (torch.arange(16) % 3 == 0)
    turn["ref_logprobs"] = grpo.rollout_logprobs(reference, turn, args)
    # The rollout's log-probabilities are not the policy's: so the ratio is not 1, and some of it is clipped.
    turn["old_logprobs"] = grpo.rollout_logprobs(policy, turn, args)
    turn["old_logprobs"] += 0.4 * torch.randn_like(turn["old_logprobs"]) * turn["response_mask"]
    return policy, reference, tokenizer, turn, rewards


def gradients(model) -> torch.Tensor:
    parts = [weight.grad.flatten() for weight in model.parameters()]
    model.zero_grad()
    return torch.cat(parts)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_loss_and_gradient_are_those_of_trl(rollout, tmp_path, name, beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
    policy, reference, tokenizer, turn, rewards = rollout
    own_flags, trl_flags = PAIRS[name]
    args = grpo.Args(max_new_tokens=30, kl_coef=beta, kl_estimator="k3_loss", **own_flags)
    A = grpo.group_advantages(rewards, G, args.advantage_norm)
    grpo.accumulate_gradients(policy, turn, torch.arange(16), A, 0.0, args)
    without_kl = gradients(policy)
    loss = grpo.accumulate_gradients(policy, turn, torch.arange(16), A, beta, args)
    own = gradients(policy)

    prompts = [ids for ids, _ in turn["prompts"]]
    responses = [ids[mask].tolist() for ids, mask in zip(turn["response_ids"], turn["response_mask"])]
    sampled = {"prompt_ids": prompts, "completion_ids": responses, "logprobs": None}
    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=16,
        num_generations=G,
        max_completion_length=30,
        beta=beta,
        use_bias_correction_kl=False,  # TRL's own default multiplies the KL by the ratio; GRPO's paper does not
        use_cpu=True,
        bf16=False,
        report_to=[],
        **trl_flags,
    )
    trainer = GRPOTrainer(
        model=copy.deepcopy(policy),
        reward_funcs=lambda **columns: rewards.tolist(),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 16}),
        processing_class=tokenizer,
        rollout_func=lambda prompts, trainer: dict(sampled),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions([{"prompt": "x"}] * 16)
    assert torch.allclose(batch["advantages"], A, atol=1e-5)
    assert torch.equal(batch["completion_mask"].bool(), turn["response_mask"][:, : batch["completion_mask"].shape[1]])
    T = batch["completion_ids"].shape[1]
    batch["old_per_token_logps"] = turn["old_logprobs"][:, :T]
    batch["ref_per_token_logps"] = turn["ref_logprobs"][:, :T]
    trl_loss = trainer._compute_loss(trainer.model, batch)
    trl_loss.backward()
    other = gradients(trainer.model)
    difference = (own - other).abs().max().item()
    print(
        f"{name}, beta {beta}: loss {loss:.6f}, gradients differ by {difference:.1e} of {other.abs().max():.1e} at most"
    )
    assert other.abs().max() > 1e-3 and difference < 1e-5
    assert beta == 0 or (own - without_kl).abs().max() > 1e-3  # the KL is a visible part of it
    if beta == 0:  # ours is reported without the KL
        assert abs(loss - trl_loss.item()) < 1e-5
