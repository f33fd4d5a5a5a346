r"""The mathematical verifier beside Math-Verify: verdicts and their cost, on labelled cases and on real responses.

    pip install math-verify==0.9.0  # for this comparison alone; without it, only our figures are printed
    python benchmarks/verifiers.py --cases ../shared/cases/grader_cases.jsonl \
        --responses ../shared/data/gsm8k/model_solutions_600.jsonl ../shared/data/MATH.csv --hostile 10000

Both verifiers judge each pair in turn, in this process. Math-Verify runs with its defaults, a timeout of 5 s included.
Hostile pairs (hostile_answers.py) go to our verifier alone; one that seems slow is measured three times more, and its
best time counts, because other programs share the machine.
"""

import csv
import json
import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
from benchmarks.hostile_answers import hostile_pair
from verifiers.math_answers import judge_math, verify_math

Verifier = Callable[[str, str], bool]
SLOW = 0.02  # seconds from which a hostile pair is measured again


@dataclass
class Args:
    cases: Path | None = None
    """labelled cases: a .jsonl file with prediction, gold, expected, ambiguous"""
    responses: tuple[Path, ...] = ()
    """real responses: .jsonl or .csv files with solution (or correct_answer) and gold (or answer)"""
    limit: int = 600
    """most rows of each file of responses"""
    hostile: int = 0
    """generated hostile pairs"""
    seed: int = 0
    """of the choice of rows and of the hostile pairs"""


def read(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


def peer() -> dict[str, Verifier]:
    try:
        from math_verify import parse, verify
    except ImportError:
        print("math-verify is not installed: our figures alone")
        return {}
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return {"Math-Verify": lambda response, gold: bool(verify(parse(f"${gold}$"), parse(response)))}


def compare(pairs: list[tuple[str, str]], verifiers: dict[str, Verifier]) -> dict[str, tuple[list[bool], np.ndarray]]:
    """Verdicts and milliseconds of each verifier, which judge every pair one after the other."""
    verdicts: dict[str, list[bool]] = {name: [] for name in verifiers}
    times: dict[str, list[float]] = {name: [] for name in verifiers}
    for response, gold in pairs:
        for name, verifier in verifiers.items():
            start = time.perf_counter()
            verdicts[name].append(verifier(response, gold))
            times[name].append(1000 * (time.perf_counter() - start))
    for name, ms in times.items():
        print(f"  {name:12s} median {np.median(ms):.3f} ms, p99 {np.percentile(ms, 99):.2f}, worst {max(ms):.1f}")
    if len(times) == 2:
        ours, theirs = (np.median(ms) for ms in times.values())
        print(f"  ratio of the medians, ours to Math-Verify: {ours / theirs:.4f}")
    return {name: (verdicts[name], np.array(times[name])) for name in verifiers}


def best_time(response: str, gold: str) -> float:
    """Seconds of a verdict: the first measurement, or the best of four if that was slow."""
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        judge_math(response, gold)
        best = min(best, time.perf_counter() - start)
        if best < SLOW:
            break
    return best


def main(args: Args) -> None:
    verifiers: dict[str, Verifier] = {"ours": verify_math} | peer()
    if args.cases:
        cases = [case for case in read(args.cases) if not case["ambiguous"]]
        print(f"{len(cases)} unambiguous cases of {args.cases.name}")
        expected = np.array([case["expected"] for case in cases])
        results = compare([(case["prediction"], case["gold"]) for case in cases], verifiers)
        for name, (verdicts, _) in results.items():
            accepted = np.array(verdicts)
            false_positives, false_negatives = sum(accepted & ~expected), sum(expected & ~accepted)
            right = f"{np.mean(accepted == expected):.1%} right"
            print(f"  {name:12s} {right}, {false_positives} false positives, {false_negatives} false negatives")
    for path in args.responses:
        rows = read(path)
        rows = random.Random(args.seed).sample(rows, min(args.limit, len(rows)))
        pairs = [(row.get("solution") or row["correct_answer"], row.get("gold") or row["answer"]) for row in rows]
        print(f"{len(pairs)} responses of {path.name}")
        for name, (verdicts, _) in compare(pairs, verifiers).items():
            print(f"  {name:12s} {sum(verdicts)} accepted")
    if args.hostile:
        generator = random.Random(args.seed)
        pairs = [hostile_pair(generator) for _ in range(args.hostile)]
        ms = 1000 * np.array([best_time(*pair) for pair in pairs])
        print(f"{args.hostile} hostile pairs")
        print(f"  ours         median {np.median(ms):.3f} ms, p99 {np.percentile(ms, 99):.2f}, worst {ms.max():.1f}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
