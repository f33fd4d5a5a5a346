"""Sampling by grpo.py beside the `generate` of transformers: same model, prompts, lengths and threads.

    python benchmarks/rollout.py
    python benchmarks/rollout.py --policy-lm HuggingFaceTB/SmolLM2-135M-Instruct --batches 8 32

Groups of eight responses, all as long as they may be. Ours also gives every token's log-probability and the entropy,
for which a second pass follows `generate`. They take turns; prints medians of tokens a second, and the ratio.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[1::-1])  # the repository root and this folder
import common  # first: it sets how idle threads wait, for both
import grpo
import runs
from iteration import save_llama

import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Args:
    policy_lm: str | None = None
    """a folder or hub name; by default a random Llama of a million weights"""
    batches: list[int] = field(default_factory=lambda: [8, 64, 256])
    """responses sampled at once, in groups of 8"""
    max_new_tokens: int = 64
    """tokens of every response"""
    turns: int = 3
    """times that each is run, after one that does not count"""
    threads: int = 1
    """of torch"""


def ours(model, tokenizer, prompts, args: Args) -> None:
    grpo.generate(model, tokenizer, prompts, args.max_new_tokens, grpo.Args(device="cpu"))


def theirs(model, tokenizer, prompts, args: Args) -> None:
    ids, mask = runs.pad_left([ids for ids, _ in prompts], "cpu")
    lengths = {"min_new_tokens": args.max_new_tokens, "max_new_tokens": args.max_new_tokens}
    model.generate(input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, pad_token_id=0, **lengths)


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    runs.end_ids = lambda model, tokenizer: [-1]  # no token ends a response
    problems = common.load_problems("arithmetic")
    with tempfile.TemporaryDirectory() as folder:
        source = args.policy_lm or save_llama(folder)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    print("| responses at once | grpo.py, tokens/s | transformers, tokens/s | ratio |\n|---|---|---|---|")
    for batch in args.batches:
        messages = [common.attempt_messages(problem) for problem in problems[: batch // 8] for _ in range(8)]
        prompts = [common.encode_prompt(tokenizer, message) for message in messages]
        seconds = {ours: [], theirs: []}
        for _ in range(args.turns + 1):
            for sample, found in seconds.items():
                start = time.perf_counter()
                sample(model, tokenizer, prompts, args)
                found.append(time.perf_counter() - start)
        mine, others = (statistics.median(found[1:]) for found in seconds.values())
        tokens = batch * args.max_new_tokens
        print(f"| {batch} | {tokens / mine:.0f} | {tokens / others:.0f} | {others / mine:.2f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
