"""Peak memory and time of the chunked log-probabilities, as ratios to the same pass with all logits at once.

    python benchmarks/logprobs.py

One forward and backward pass of `mlmt_rl.accumulate_gradients` over random tokens, with a randomly initialised model of
the real vocabulary (Qwen2: 151,936), two layers, float32, on the CPU. Every measurement is a process of its own, since
peak memory is a property of a process; chunked and whole runs take turns, and the medians are compared.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root, where the scripts stand
import mlmt_rl


@dataclass
class Args:
    batch_size: int = 8
    """sequences in the pass"""
    response_length: int = 256
    """response tokens of each; as many prompt tokens come before"""
    vocabulary: int = 151_936
    """rows of the output embedding"""
    chunk: int = 1024
    """LOGITS_CHUNK of the chunked pass"""
    repeats: int = 3
    """measurements of each kind"""
    measure: int | None = None
    """internal: measure one pass with this chunk size and print it"""


def measure(args: Args) -> dict[str, float]:
    """Seconds of one pass and the process's peak resident memory above what it held before, in GiB."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Qwen2Config(
        vocab_size=args.vocabulary, num_key_value_heads=2, tie_word_embeddings=True, **sizes
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    B, T = args.batch_size, args.response_length
    turn = {
        "prompt_ids": torch.randint(args.vocabulary, (B, T)),
        "prompt_mask": torch.ones(B, T, dtype=torch.long),
        "response_ids": torch.randint(args.vocabulary, (B, T)),
        "response_mask": torch.ones(B, T, dtype=torch.bool),
        "logprobs": torch.full((B, T), -12.0),
    }
    flags, mlmt_rl.LOGITS_CHUNK = mlmt_rl.Args(micro_batch_size=B), args.measure
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    mlmt_rl.accumulate_gradients(model, turn, torch.arange(B), torch.ones(B), 0.0, flags)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "GiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20}


def main(args: Args) -> None:
    if args.measure:
        print(json.dumps(measure(args)))
        return
    kinds = {"chunked": args.chunk, "whole": args.batch_size * args.response_length}
    results: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for _ in range(args.repeats):
        for kind, chunk in kinds.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(chunk)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[kind].append(json.loads(output.splitlines()[-1]))
    for figure in ("GiB", "seconds"):
        chunked, whole = (statistics.median(row[figure] for row in results[kind]) for kind in kinds)
        print(f"{figure:8}  chunked {chunked:6.2f}  whole {whole:6.2f}  ratio {chunked / whole:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
