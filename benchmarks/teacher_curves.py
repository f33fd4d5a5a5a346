"""The README's figure of intro.py: entropies of student and teacher, response length, with and without a constant w.

python intro.py --seed 1 --run-dir runs/stop-1
python intro.py --seed 1 --run-dir runs/flow-1 --no-stop-weight-gradients  # and the same with --seed 2
python benchmarks/teacher_curves.py --stop runs/stop-1 runs/stop-2 --flow runs/flow-1 runs/flow-2
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("svg")
from matplotlib import pyplot


@dataclass
class Args:
    stop: tuple[str, ...]
    """run folders with a constant w"""
    flow: tuple[str, ...]
    """run folders with --no-stop-weight-gradients"""
    output: str = "docs/intro.svg"
    """the figure"""


def curve(folders: tuple[str, ...], metric: str) -> tuple[list[int], np.ndarray]:
    """The iterations that have the metric, and its mean over the runs."""
    runs = []
    for folder in folders:
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        runs.append({row["iteration"]: row[metric] for row in map(json.loads, lines) if row.get(metric) is not None})
    shared = sorted(set.intersection(*map(set, runs)))
    return shared, np.array([[run[iteration] for iteration in shared] for run in runs]).mean(0)


def main(args: Args) -> None:
    panels = {
        "accuracy": {"student": "eval/accuracy_1", "answer shown": "eval/accuracy_answered"},
        "entropy, nats a token": {"q, the student": "losses/entropy", "p, the teacher": "losses/entropy_teacher"},
        "tokens of a response": {"": "rollout/response_length_1"},
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    for axis, (title, metrics) in zip(axes, panels.items()):
        for (label, metric), style in zip(metrics.items(), ("-", "--")):
            for folders, colour, kind in ((args.stop, "C0", "w constant"), (args.flow, "C3", "gradient through w")):
                axis.plot(*curve(folders, metric), style, color=colour, label=f"{kind}: {label}".rstrip(": "))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    pyplot.rcParams["svg.hashsalt"] = "0"
    figure.savefig(args.output, metadata={"Date": None})
    print(f"{args.output}: {Path(args.output).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
