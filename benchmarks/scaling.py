"""How the cost of sampling and of a training pass of grpo.py grows with responses, their length, and the model.

    python benchmarks/scaling.py

Each table varies one of the three; the last row is the slope of log seconds over log size: 1 means in proportion, less
that small sizes waste time, more that something grows faster than the work. Random Llamas; prompts of 32 tokens.
"""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
import grpo
import runs

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig


@dataclass
class Args:
    responses: tuple[int, ...] = (16, 32, 64, 128)
    """responses of an iteration, in groups of 8"""
    lengths: tuple[int, ...] = (16, 32, 64, 128)
    """tokens of every response"""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """hidden size of four layers: .2 to 13 million weights besides the embedding"""
    repeats: int = 3
    """measurements of each, after one that does not count; the sizes take turns"""
    threads: int = 1
    """of torch"""


def work(responses: int, length: int, width: int, tokenizer):
    """Two functions without arguments: one samples the responses, one makes the gradient of GRPO's loss over them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=width // 32, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    flags = grpo.Args(device="cpu", kl_coef=0.0, max_new_tokens=length, micro_batch_size=16)
    questions = torch.randint(len(tokenizer), (responses // 8, 32)).tolist()
    prompts = [(question, 32) for question in questions for _ in range(8)]
    turn = grpo.generate(model, tokenizer, prompts, length, flags)
    rows = torch.arange(responses)

    def sample():
        grpo.generate(model, tokenizer, prompts, length, flags)

    def learn():
        grpo.accumulate_gradients(model, turn, rows, torch.ones(responses), 0.0, flags)

    return sample, learn


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    runs.end_ids = lambda model, tokenizer: [-1]  # no token ends a response
    tokenizer = AutoTokenizer.from_pretrained(runs.model_source("tiny"))
    usual = {"responses": 64, "length": 64, "width": 256}
    for name, column in zip(usual, (args.responses, args.lengths, args.widths), strict=True):
        fixed = ", ".join(f"{other} {size}" for other, size in usual.items() if other != name)
        print(f"\n| {name} ({fixed}) | sampling, s | training pass, s |\n|---|---|---|")
        jobs = {size: work(**usual | {name: size}, tokenizer=tokenizer) for size in column}
        seconds = {size: ([], []) for size in column}
        for _ in range(args.repeats + 1):
            for size, parts in jobs.items():
                for part, found in zip(parts, seconds[size]):
                    start = time.perf_counter()
                    part()
                    found.append(time.perf_counter() - start)
        medians = np.array([[statistics.median(found[1:]) for found in seconds[size]] for size in column])
        for size, (sampling, learning) in zip(column, medians):
            print(f"| {size} | {sampling:.2f} | {learning:.2f} |")
        slopes = [np.polyfit(np.log(column), np.log(medians[:, part]), 1)[0] for part in (0, 1)]
        print(f"| slope | {slopes[0]:.2f} | {slopes[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
