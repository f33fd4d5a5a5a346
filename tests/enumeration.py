"""A world small enough to enumerate: random Llamas over three tokens (0 ends a response), responses of two tokens.

What stands here is written without anything of the scripts, but for `make_turn`, which lays responses out for them.
"""

import torch
import transformers

RESPONSES = [[0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
X = [1, 2, 1]
TEMPERATURE = 0.7
TOLERANCE = 1e-6


def random_model(seed: int) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=3,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.25,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


def make_turn(script, args, prompts: list[list[int]], responses: list[list[int]], model, reference) -> dict:
    """The responses of one turn, laid out as `generate` does: prompts left-, responses right-padded."""
    P = max(map(len, prompts))
    turn = {
        "prompt_ids": torch.tensor([[0] * (P - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in prompts]),
        "prefix_length": torch.full((len(prompts),), len(X)),
        "response_ids": torch.tensor([r + [0] * (2 - len(r)) for r in responses]),
        "response_mask": torch.tensor([[True] * len(r) + [False] * (2 - len(r)) for r in responses]),
        "texts": [""] * len(prompts),
    }
    if hasattr(script, "rollout_logprobs"):  # not in archer.py, which has no KL
        turn["logprobs"] = script.rollout_logprobs(model, turn, args)
        turn["ref_logprobs"] = script.rollout_logprobs(reference, turn, args)
    return turn


def distribution(model, prompt: list[int], prefix: list[int]) -> torch.Tensor:
    """log pi(. | prompt, prefix) from a plain forward pass: no padding, no cache, no code of the script."""
    return (model(torch.tensor([prompt + prefix])).logits[0, -1].double() / TEMPERATURE).log_softmax(-1)


def response_logprob(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    return sum(distribution(model, prompt, response[:t])[token] for t, token in enumerate(response))


def gradient(model, loss: torch.Tensor | None = None) -> torch.Tensor:
    """The gradient of `loss`, or the one accumulated in .grad, as one vector."""
    if loss is not None:
        parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    else:
        parts = [p.grad for p in model.parameters()]
    parts = [torch.zeros_like(p) if part is None else part for p, part in zip(model.parameters(), parts)]
    model.zero_grad()
    return torch.cat([part.flatten() for part in parts])


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    return (a - b).abs().max().item() < tolerance
