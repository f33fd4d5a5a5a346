"""A second opinion on whole runs: what a run sampled, recorded, and plain arithmetic to recompute what it must do.

`Recording` keeps token ids, random draws and the weights after each optimiser step of a run. The test files
test_replay_*.py recompute these weights and every metric from the initial weights, one sequence at a time, from whole
logits, by the formulas of the scripts' docstrings. Nothing of a script is used for it. What random models write is
never right, so verdicts and forms are drawn from the texts.
"""

import itertools
import math
import types
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from conftest import read_jsonl

import common

TOLERANCE = 1e-5
EPSILON = 1e-3  # Adam's: with 1e-8, a gradient that is nothing but rounding error would make a step of full size
FAMILIES = {"llama": ("tiny", transformers.LlamaConfig), "qwen3": ("tiny/functions", transformers.Qwen3Config)}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}<assistant>"
ADAPTERS = {"lora_rank": 3, "lora_alpha": 12}
TIMES = {"charts/seconds", "charts/verify_seconds", "charts/tokens_per_second"}


def save_family(name: str, folder: Path, seed: int) -> str:
    """A random model of about 10,000 weights with a tokenizer of its own; one in eight tokens ends a response."""
    torch.manual_seed(seed)
    source, config_class = FAMILIES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = TEMPLATE if name == "qwen3" else None
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = transformers.AutoModelForCausalLM.from_config(
        config_class(vocab_size=len(tokenizer), initializer_range=0.15, **sizes, **heads, **ends)
    )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(50, len(tokenizer), 8)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load(folder: str):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


class Delta(torch.nn.Module):
    """W + alpha / r B A: LoRA, arXiv 2106.09685, eq. 3."""

    def __init__(self, A, B, scale: float):
        super().__init__()
        self.A, self.B, self.scale = torch.nn.Parameter(A), torch.nn.Parameter(B), scale

    def forward(self, W):
        return W + self.scale * self.B @ self.A


def add_adapters(model, args, initial: list[torch.Tensor]) -> list:
    """Puts the A and B that a run starts from on every linear layer, where it trains adapters; what is trained."""
    if not args.lora_rank:
        return [*model.parameters()]
    model.requires_grad_(False)
    pairs = zip(initial[::2], initial[1::2], strict=True)
    for module in [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]:
        A, B = next(pairs)
        assert A.shape == (args.lora_rank, module.in_features) and A.abs().max() > 0 and not B.any()
        delta = Delta(A.clone(), B.clone(), args.lora_alpha / args.lora_rank)
        torch.nn.utils.parametrize.register_parametrization(module, "weight", delta)
    assert next(pairs, None) is None
    return [weight for weight in model.parameters() if weight.requires_grad]


def drawn(text: str, sides: int) -> int:
    return zlib.crc32(text.encode()) % sides


def verdict(response: str, problem: common.Problem) -> bool | None:
    side = drawn(f"{problem.question} {response}", 9)
    return None if side == 8 else side % 2 == 0


def well_formed(response: str, problem: common.Problem) -> bool:
    return drawn(response, 3) > 0


class Recording:
    """What a run of a script sampled, drew and did to its weights, each in the order in which it happened."""

    def __init__(self, monkeypatch, script, args):
        self.turns, self.networks, self.steps = [], [], []
        self.draws = {"randperm": [], "randint": []}
        recording, generate = self, script.generate

        class Adam(torch.optim.Adam):
            def __init__(self, params, **flags):
                super().__init__(list(params), eps=EPSILON, **flags)
                self.number = len(recording.networks)
                recording.networks.append(copies(self.param_groups[0]["params"]))

            def step(self, *inputs):
                super().step(*inputs)
                recording.steps.append((self.number, copies(self.param_groups[0]["params"])))

        def recording_generate(model, tokenizer, prompts, max_new_tokens, flags):
            turn = generate(model, tokenizer, prompts, max_new_tokens, flags)
            parts = {"weights": copies(model.parameters()), "prompts": [list(ids) for ids, _ in prompts]}
            parts |= {"ids": turn["response_ids"].tolist(), "temperature": flags.temperature}
            self.turns.append(types.SimpleNamespace(**parts))
            return turn

        def recording_draw(name):
            draw = getattr(torch, name)

            def drawing(*inputs, **flags):
                result = draw(*inputs, **flags)
                self.draws[name].append((*inputs, result.tolist()))
                return result

            return drawing

        ticks = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim, "Adam", Adam)
            patch.setattr(script, "generate", recording_generate)
            patch.setattr(script, "LOGITS_CHUNK", 7)
            patch.setattr(common, "judge_all", lambda texts, problems, *_: [*map(verdict, texts, problems)])
            patch.setattr(common, "well_formed", well_formed)
            patch.setattr(script.time, "time", lambda: float(next(ticks)))
            for name in self.draws:
                patch.setattr(torch, name, recording_draw(name))
            script.main(args)
        self.rows = read_jsonl(Path(args.run_dir) / "metrics.jsonl")


def copies(weights) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in weights]


class Replay:
    """Goes through a recording, in step with a recomputation, and keeps the largest deviation of anything from it."""

    def __init__(self, args, recording: Recording):
        self.args, self.recording, self.worst = args, recording, {"weights": 0.0, "metrics": 0.0}
        self.turns, self.steps = iter(recording.turns), iter(recording.steps)
        self.draws = {name: iter(draws) for name, draws in recording.draws.items()}
        self.networks, self.optimizers = [], []
        self.training, self.held_out = common.load_train_and_eval(
            args.dataset, args.split, args.dataset, args.eval_split, args.eval_size
        )

    def add_network(self, weights, lr: float) -> list[torch.Tensor]:
        """The next network that the run trains, in the order of its optimisers."""
        weights = list(weights)
        self.networks.append(weights)
        self.optimizers.append(torch.optim.Adam(weights, lr=lr, betas=self.args.adam_betas, eps=EPSILON))
        return weights

    def compare(self, kind: str, mine, recorded, what: str) -> None:
        difference = abs(mine - recorded) if isinstance(mine, float | int) else (mine - recorded).abs().max().item()
        scale = max(1.0, abs(recorded)) if isinstance(recorded, float | int) else 1.0
        self.worst[kind] = max(self.worst[kind], difference / scale)
        assert difference <= TOLERANCE * scale, f"{what}: the recomputation differs by {difference:.1e}"

    def turn(self, model, tokenizer, messages, longest, statements=None, temperature=None) -> list:
        """What was sampled next, by this model for these prompts: prompt, response and text of each episode."""
        turn, ends = next(self.turns), model.generation_config.eos_token_id
        for mine, recorded in zip(model.parameters(), turn.weights, strict=True):
            self.compare("weights", mine.detach(), recorded, "the weights of the model that samples")
        assert turn.temperature == (self.args.temperature if temperature is None else temperature)
        assert all(len(ids) == longest for ids in turn.ids)
        statements = statements or [""] * len(messages)
        prompts = [common.encode_prompt(tokenizer, m, s) for m, s in zip(messages, statements, strict=True)]
        assert turn.prompts == [ids for ids, _ in prompts], "a prompt is not what its turn reads"
        return [self.response(*prompt, ids, ends, tokenizer) for prompt, ids in zip(prompts, turn.ids, strict=True)]

    def response(self, prompt, prefix, ids, ends, tokenizer) -> types.SimpleNamespace:
        stops = [t for t, token in enumerate(ids) if token in ends]
        ids = ids[: stops[0] + 1] if stops else ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return types.SimpleNamespace(prompt=prompt, prefix=prefix, ids=ids, text=text, truncated=not stops)

    def log_policy(self, model, response) -> torch.Tensor:
        """log pi(. | prompt, y_<t) at the sampling temperature, for every token of the response: (T, W)."""
        logits = model(torch.tensor([response.prompt + response.ids])).logits[0, len(response.prompt) - 1 : -1]
        return (logits / self.args.temperature).log_softmax(-1)

    def logprobs(self, model, response) -> torch.Tensor:
        """log pi of each token of the response: (T,)."""
        return self.log_policy(model, response)[range(len(response.ids)), response.ids]

    @torch.no_grad()
    def measure(self, response, model, reference) -> None:
        """Notes what the rollout's policies say of a response."""
        log_pi = self.log_policy(model, response)
        response.logprobs = log_pi[range(len(response.ids)), response.ids]
        response.ref_logprobs = self.logprobs(reference, response)
        response.kl = (response.logprobs - response.ref_logprobs).sum()
        response.entropy = -(log_pi.exp() * log_pi).sum()

    def surrogate(self, model, response, A, kl_coef, reference, low: float, high: float) -> torch.Tensor:
        """(-sum_t min(ratio_t A, clip(ratio_t) A), beta sum_t KL_t), with gradient, of one response."""
        log_pi = self.log_policy(model, response)
        new = log_pi[range(len(response.ids)), response.ids]
        ratio = torch.exp(new - response.logprobs)
        policy = -torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A).sum()
        return policy, kl_coef * self.kl_loss(log_pi, new, response, reference)

    def kl_loss(self, log_pi, new, response, reference) -> torch.Tensor:
        log_ratio = new - response.ref_logprobs
        if self.args.kl_estimator == "k2_loss":
            return (log_ratio**2 / 2).sum()
        if self.args.kl_estimator == "k3_loss":
            return ((response.ref_logprobs - new).exp() - 1 + log_ratio).sum()
        return new.new_zeros(())

    def step(self, number: int, lr: float) -> float:
        """Clips and steps a network as the formulas say, and compares with the run's; returns the norm."""
        weights = self.networks[number]
        norm = torch.stack([weight.grad.pow(2).sum() for weight in weights]).sum().sqrt()
        for weight in weights:
            weight.grad *= min(1.0, self.args.max_grad_norm / (norm.item() + 1e-6))
        self.optimizers[number].param_groups[0]["lr"] = lr
        self.optimizers[number].step()
        self.optimizers[number].zero_grad()
        which, recorded = next(self.steps)
        assert which == number, f"network {which} made a step where {number} should have"
        for mine, theirs in zip(weights, recorded, strict=True):
            self.compare("weights", mine.detach(), theirs, f"network {number} after a step")
        return norm.item()

    def minibatches(self, size: int) -> list[list[int]]:
        """The rows of each optimiser step: every epoch is a shuffle cut into --num-minibatches equal parts."""
        orders = [next(self.draws["randperm"])[-1] for _ in range(self.args.update_epochs)]
        assert all(sorted(order) == list(range(size)) for order in orders)
        n = max(1, -(-size // self.args.num_minibatches))
        return [order[start : start + n] for order in orders for start in range(0, size, n)]

    def problems(self, iteration: int, count: int) -> list[common.Problem]:
        rows = common.problem_rows(iteration, count, len(self.training), self.args.seed)
        return [self.training[row] for row in rows]

    def row(self, iteration: int, expected: dict, tokens: int) -> None:
        """Compares a row of metrics.jsonl, key by key; tokens: sampled in the iteration."""
        row = self.recording.rows[iteration]
        assert row["iteration"] == iteration
        names = {name for name in row if name not in TIMES and not name.startswith("eval/")} - {"iteration"}
        expected = {
            name: value.item() if isinstance(value, torch.Tensor) else value for name, value in expected.items()
        }
        assert names == expected.keys()
        for name, value in expected.items():
            if value is None or row[name] is None:
                assert value is row[name], f"{name}: {value} recomputed, {row[name]} in the run"
            else:
                self.compare("metrics", float(value), row[name], f"iteration {iteration}, {name}")
        ticks = tokens / row["charts/tokens_per_second"]
        assert abs(ticks - round(ticks)) < 1e-6, f"iteration {iteration}: tokens_per_second is not of {tokens} tokens"

    def finish(self, name: str) -> None:
        """Nothing was sampled, drawn or stepped that the recomputation has not gone through."""
        for rest in (self.turns, self.steps, *self.draws.values()):
            assert next(rest, None) is None
        print(f"{name}: weights differ by {self.worst['weights']:.1e} at most, metrics by {self.worst['metrics']:.1e}")


def mean(values) -> float:
    return float(np.mean([float(value) for value in values]))


def outcomes(first: list[float], second: list[float]) -> dict[str, float]:
    pairs = list(zip(first, second, strict=True))
    return {
        "accuracy_1": mean(first),
        "accuracy_2": mean(second),
        "fixed": mean(a < b for a, b in pairs),
        "broken": mean(a > b for a, b in pairs),
    }


def baseline(rewards: torch.Tensor, kind: str) -> torch.Tensor:
    """What --baseline says is subtracted from each reward: (B,)."""
    rows = range(len(rewards))
    others = {"none": lambda i: [], "batch": lambda i: [*rows], "leave-one-out": lambda i: [j for j in rows if j != i]}
    chosen = [[rewards[j] for j in others[kind](i)] for i in rows]
    return torch.tensor([sum(part) / len(part) if part else 0.0 for part in chosen])


def rate_factor(args, iteration: int, iterations: int) -> float:
    """Of the learning rates: up over the warm-up, then down by a line or half a cosine."""
    if iteration <= args.lr_warmup_iterations:
        return iteration / args.lr_warmup_iterations if args.lr_warmup_iterations else float(iteration > 0)
    part = (iteration - args.lr_warmup_iterations) / (iterations - args.lr_warmup_iterations)
    height = {"constant": 1.0, "linear": 1 - part, "cosine": 0.5 + 0.5 * math.cos(part * math.pi)}[args.lr_schedule]
    return args.min_lr_ratio * (1 - height) + height
