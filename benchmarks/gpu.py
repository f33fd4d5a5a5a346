"""What only a GPU can show, in one table: numerics, speed, memory, a resumed run, learning.

    python benchmarks/gpu.py                                one GPU of 80 GB, under 10 minutes
    python benchmarks/gpu.py --device cpu --shape small     the same code where there is none

The models of the speed and memory checks have the shapes of real ones and random weights. A row without a bound is a
figure only. The exit code is the number of checks that failed.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import grpo
import runs
from running import passes

import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

SHAPES = {  # hidden, MLP, layers, heads, heads of keys and values, vocabulary
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 151_936),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151_936),
    "qwen2.5-3b": (2048, 11008, 36, 16, 2, 151_936),
    "small": (64, 128, 2, 4, 2, 1000),
}


@dataclass
class Args:
    device: Literal["cuda", "cpu"] = "cuda"
    shape: Literal["qwen2.5-1.5b", "small"] = "qwen2.5-1.5b"
    """of the model whose speed and memory are measured"""
    bandwidth: float = 3.35e12
    """bytes a second of the GPU's memory; an H100 SXM's by default"""
    flops: float = 989e12
    """bfloat16 operations a second; an H100 SXM's by default"""
    iterations: int = 40
    """of the runs that must learn"""


failures = 0


def row(check: str, found: str, bound: str = "", good: bool = True) -> None:
    global failures
    failures += not good
    print(f"| {check} | {found} | {bound} | {('ok' if good else 'FAILED') if bound else ''} |", flush=True)


def seconds(device: str, work, *inputs, before=lambda: None) -> float:
    """Of the second call: the first may build kernels. before: called first, and not timed."""
    for _ in range(2):
        before()
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def embedded(device: str, dtype: torch.dtype):
    folder = runs.model_source("tiny")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def moved(turn: dict, device: str) -> dict:
    return {key: part.to(device) if isinstance(part, torch.Tensor) else part for key, part in turn.items()}


def gradient(model, turn: dict, flags) -> torch.Tensor:
    """Of GRPO's loss, with advantages of both signs, as one vector on the CPU."""
    model.requires_grad_(True).zero_grad()
    rows = torch.arange(len(turn["response_mask"]), device=model.device)
    grpo.accumulate_gradients(model, turn, rows, 1.0 - 2 * (rows % 2), 0.0, flags)
    return torch.cat([weight.grad.float().cpu().flatten() for weight in model.parameters()])


def numerics(args: Args) -> None:
    """The sampler's log-probabilities are the trainer's; gradients are the CPU's; long ragged rows stay finite."""
    flags = grpo.Args(device=args.device, max_new_tokens=32)
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        model, tokenizer = embedded(args.device, dtype)
        torch.manual_seed(0)
        prompts = [(ids[n % 30 :], 1) for n, ids in enumerate(torch.randint(3, len(tokenizer), (64, 40)).tolist())]
        turn = grpo.generate(model, tokenizer, prompts, 32, flags)
        found = (turn["logprobs"] - grpo.rollout_logprobs(model, turn, flags))[turn["response_mask"]].abs()
        difference = (found.max() if dtype == torch.float32 else found.mean()).item()
        name = f"log-probabilities, sampler and trainer, {str(dtype).removeprefix('torch.')}"
        row(name, f"{difference:.1e}", f"{bound:.0e}", difference < bound)
        if dtype == torch.float32:
            there, here = gradient(model, turn, flags), gradient(embedded("cpu", dtype)[0], moved(turn, "cpu"), flags)
            difference = ((there - here).norm() / here.norm()).item()
            row("gradient, this device and the CPU, float32, relative", f"{difference:.1e}", "1e-4", difference < 1e-4)
        rows = {"prompt_ids": torch.randint(3, len(tokenizer), (16, 128)), "prompt_mask": torch.ones(16, 128).long()}
        rows["response_ids"] = torch.randint(3, len(tokenizer), (16, 640))
        rows["response_mask"] = torch.arange(640) < torch.arange(1, 641, 40)[:, None]
        flat = gradient(model, moved(rows | {"logprobs": torch.zeros(16, 640)}, args.device), flags)
        finite = bool(flat.isfinite().all()) and bool(flat.norm() > 0)
        name = f"gradient over responses of 1 to 601 tokens, {str(dtype).removeprefix('torch.')}"
        row(name, f"norm {flat.norm():.2f}", "finite", finite)


def random_model(shape: str, device: str):
    hidden, mlp, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    sizes = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "vocab_size": vocabulary}
    heads = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    config = Qwen2Config(**sizes, **heads, tie_word_embeddings=True, max_position_embeddings=4096)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def speed(args: Args) -> None:
    """Sampling against the time to read all weights and the cache; a training pass against the peak."""
    _, _, layers, heads, kv_heads, vocabulary = SHAPES[args.shape]
    model = random_model(args.shape, args.device)
    tokenizer = embedded("cpu", torch.float32)[1]
    runs.end_ids = lambda model, tokenizer: [-1]  # no token ends a response
    N = sum(weight.numel() for weight in model.parameters())
    small = args.shape == "small"
    P, T = (32, 8) if small else (256, 128)
    kv_bytes = 2 * 2 * layers * model.config.hidden_size // heads * kv_heads  # of one token
    graphs = passes.has_graphs
    for batch, plain in ((8, False),) if small else ((32, True), (32, False), (128, False), (512, True), (512, False)):
        passes.has_graphs = (lambda model: False) if plain else graphs
        flags = grpo.Args(device=args.device, generation_batch_size=batch, micro_batch_size=16)
        prompts = [(ids, P) for ids in torch.randint(len(tokenizer), (batch // 8, P)).tolist() for _ in range(8)]
        took = seconds(args.device, grpo.generate, model, tokenizer, prompts, T, flags)
        bound = T * (2 * N + batch * (P + T / 2) * kv_bytes) / args.bandwidth
        found = f"{batch * T / took:.0f} tokens/s, {1000 * took / T:.1f} ms a step, {bound / took:.2f} of the bound"
        row(f"sampling, {batch} responses of {T} after {P}{', without CUDA graphs' * plain}", found)
    optimizer = None
    for L in (64,) if small else (512, 1024):
        turn = {"prompt_ids": torch.randint(vocabulary, (16, L // 2)), "prompt_mask": torch.ones(16, L // 2).long()}
        turn |= {"response_ids": turn["prompt_ids"], "response_mask": turn["prompt_mask"].bool()}
        turn = moved(turn | {"logprobs": torch.zeros(16, L // 2)}, args.device)
        optimizer = optimizer or runs.Adam(model.requires_grad_(True), lr=1e-6, betas=flags.adam_betas)
        rows = torch.arange(16, device=model.device)
        for checkpointing in (False, True):
            if checkpointing:
                model.activation_checkpointing_enable({"use_reentrant": False})
            flags.gradient_checkpointing = checkpointing
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            inputs = (model, turn, rows, torch.ones(16, device=model.device), 0.0, flags)
            took = seconds(args.device, grpo.accumulate_gradients, *inputs)
            tokens = 16 * L
            found = f"{tokens / took:.0f} tokens/s, MFU {6 * N * tokens / took / args.flops:.2f}"
            if args.device == "cuda":
                found += f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
            row(f"training pass, 16 x {L}{', checkpointing' * checkpointing}", found)
        model.activation_checkpointing_disable()
    took = seconds(args.device, optimizer.step, 1.0, {}, before=lambda: grpo.accumulate_gradients(*inputs))
    row(f"step of Adam, {N / 1e9:.2f} G weights with masters", f"{1000 * took:.0f} ms")


def train(folder: Path, device: str, *flags: str) -> list[dict]:
    """The metrics of a run of mlmt_rl.py; none where it fails, which is a row."""
    command = [sys.executable, str(ROOT / "mlmt_rl.py"), "--device", device, "--run-dir", str(folder), "--no-report"]
    ended = subprocess.run([*command, *flags], capture_output=True, text=True)
    if ended.returncode:
        row("mlmt_rl.py " + " ".join(flags), ended.stderr.strip().splitlines()[-1], "runs", False)
        return []
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def memory(args: Args) -> None:
    """Two models and their reference in mlmt_rl.py, beside what docs/hardware.md computes without activations."""
    for shape, flags, computed in (
        ("qwen2.5-0.5b", (), 2 * 18 + 2),
        ("qwen2.5-0.5b", ("--lora-rank", "16"), 2),
        ("qwen2.5-3b", ("--lora-rank", "16"), 2),
    ):
        if args.device == "cpu":
            shape, flags = "small", (*flags, "--dtype", "bfloat16")
        with tempfile.TemporaryDirectory() as folder:
            model, tokenizer = random_model(shape, args.device), embedded("cpu", torch.float32)[1]
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            weights, adapters = sum(weight.numel() for weight in model.parameters()), 0
            if "--lora-rank" in flags:
                linear = [part for part in model.base_model.modules() if isinstance(part, torch.nn.Linear)]
                adapters = 2 * 16 * sum(part.in_features + part.out_features for part in linear)  # of both models
            del model
            if args.device == "cuda":
                torch.cuda.empty_cache()
            small = ("--rollout-size", "8", "--micro-batch-size", "4", "--eval-size", "4", "--iterations", "1")
            found = train(Path(folder) / "run", args.device, "--policy-lm", folder, *small, *flags)
            if found and args.device == "cuda":
                bound = f"{(weights * computed + adapters * 18) / 1e9:.1f} GB computed without activations"
                peak = f"peak {found[-1]['charts/gpu_memory_gb']:.1f} GB, {bound}"
                row(f"mlmt_rl.py, two models of {weights / 1e9:.2f} G {' '.join(flags)}", peak)


def training(args: Args) -> None:
    """A run that is cut and goes on is one that was not; both dtypes learn."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder) / "whole", args.device, "--iterations", "4", "--eval-every", "2")
        train(Path(folder) / "cut", args.device, "--iterations", "2", "--eval-every", "2")
        more = ("--iterations", "4", "--eval-every", "2", "--if-run-exists", "resume")
        resumed = train(Path(folder) / "cut", args.device, *more)
        timed = ("charts/seconds", "charts/verify_seconds", "charts/tokens_per_second", "charts/gpu_memory_gb")
        differing = [
            f"iteration {one['iteration']}: {key}"
            for one, other in zip(whole, resumed, strict=True)
            for key in one
            if key not in timed and one[key] != other[key]
        ]
        row("resumed as uninterrupted", differing[0] if differing else "every figure equal", "equal", not differing)
        shutil.rmtree(Path(folder) / "cut")
        for dtype in ("float32", "bfloat16"):
            flags = ("--dtype", dtype, "--iterations", str(args.iterations))
            rows = train(Path(folder) / dtype, args.device, *flags)
            scores = [found["eval/accuracy_2"] for found in rows if "eval/accuracy_2" in found] or [0.0]
            name = f"mlmt_rl.py, embedded maths, {dtype}, {args.iterations} iterations"
            row(name, f"{scores[0]:.3f} -> {scores[-1]:.3f}", "+ .35", scores[-1] - scores[0] > 0.35)


def main(args: Args) -> None:
    if args.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("error: --device cuda: torch finds no GPU here; try --device cpu --shape small")
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}\n")
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in a run
    print("| check | found | bound | |\n|---|---|---|---|")
    for part in (numerics, speed, memory, training):
        part(args)
    sys.exit(failures)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
