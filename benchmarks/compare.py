"""Does feedback help, and when? Every experiment of docs/evidence.md, from nothing to its tables and its figure.

    python benchmarks/compare.py --publish     five seeds, some 3 hours on two cores
    python benchmarks/compare.py --quick       one seed and a quarter of the training, some 15 minutes: not timed

Each run is trained by a script and evaluated by eval.py; what is done is not done again, what was cut short goes on.
Results go to {folder}/compare.json. --publish puts them into the repository: benchmarks/compare.json, the tables
between the marks of docs/evidence.md, docs/evidence.svg.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGE, FIGURE, PUBLISHED = ROOT / "docs/evidence.md", ROOT / "docs/evidence.svg", ROOT / "benchmarks/compare.json"

# experiment: {what its table calls a row: (flags of mlmt_rl.py, ceiling of the second attempt at two open questions)}
EXPERIMENTS = {
    "told": {
        "nothing": ("--test-results none", 0.25),
        "right or wrong": ("--test-results verdict", 0.5),
        "the assert of the prompt": ("--test-results shown", 0.25),
        "all asserts": ("--test-results all", 1.0),
    },
    "read": {
        "what the trained model writes": ("--test-results all", 1.0),
        "what the untrained model writes": ("--test-results all --feedback-every 0", 1.0),
        "right or wrong": ("--test-results all --feedback-control verdict --feedback-every 0", 0.5),
        "another problem's feedback": (
            "--test-results all --feedback-control shuffled --feedback-every 0",
            0.25,
        ),
        "one fixed sentence": ("--test-results all --feedback-control fixed --feedback-every 0", 0.25),
    },
}
HEADINGS = {"told": "the feedback model is told", "read": "the solver reads"}


@dataclass
class Args:
    folder: Path = Path("compare_runs")
    """where the runs go"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of each run"""
    iterations: int = 40
    """of each run, 64 episodes each"""
    problems: int = 500
    """test problems of an evaluation, two samples each"""
    workers: int = 2
    """runs side by side, one thread each"""
    quick: bool = False
    """one seed, ten iterations, 200 problems"""
    publish: bool = False
    """put the results into the repository"""


def call(log: Path, *words) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        ended = subprocess.run([sys.executable, *map(str, words)], stdout=file, stderr=file, env=environment)
    if ended.returncode:
        sys.exit(f"error: a run failed, its last lines are in {log}; mend it and start again, what is done is kept")


def run(job: tuple[str, int], args: Args) -> dict:
    """Trains and evaluates one run, where that has not been done; its figures."""
    flags, seed = job
    place = args.folder / f"{re.sub('[^a-z0-9]+', '_', flags).strip('_')}-{args.iterations}-{seed}"
    again = ("--if-run-exists", "resume", "--device", "cpu")
    sizes = ("--dataset", "conventions", "--iterations", args.iterations, "--seed", seed, "--no-report")
    call(place.with_suffix(".log"), ROOT / "mlmt_rl.py", *flags.split(), *sizes, *again, "--run-dir", place)
    told = re.sub("--feedback-every 0", "", flags).split()
    sampling = "--temperature 1 --top-p 1 --samples 2 --max-new-tokens 40 --max-feedback-tokens 40".split()
    sizes = ("--dataset", "conventions", "--limit", args.problems, "--run-dir", f"{place}-eval")
    call(place.with_suffix(".log"), ROOT / "eval.py", "--solver", place, *told, *sampling, *sizes, *again)
    figures = json.loads(Path(f"{place}-eval", "eval.json").read_text())["results"][0]
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    curve = [[row["charts/episodes"], row["eval/accuracy_2"]] for row in rows if "eval/accuracy_2" in row]
    return {
        "flags": flags,
        "seed": seed,
        "iterations": rows[-1]["iteration"],
        "minutes": round(rows[-1]["charts/seconds"] / 60, 1),
        "accuracy_1": {level: found["accuracy_1"] for level, found in figures["by_level"].items()},
        "accuracy_2": {level: found["accuracy_2"] for level, found in figures["by_level"].items()},
        "error_2": {level: found["accuracy_2_standard_error"] for level, found in figures["by_level"].items()},
        "curve": curve,
    }


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half of the last axis; of five values, of the middle three."""
    cut = values.shape[-1] // 4
    return np.sort(values)[..., cut : values.shape[-1] - cut].mean(-1)


def interval(values: list[float]) -> list[float]:
    """The middle 95 % of interquartile means of as many seeds, drawn with replacement."""
    drawn = np.random.default_rng(0).choice(np.array(values), (10_000, len(values)))
    return np.percentile(interquartile_mean(drawn), [2.5, 97.5]).tolist()


def summary(results: list[dict], flags: str, turn: str, level: str) -> tuple[float, list[float]]:
    """Of one run's seeds: the interquartile mean and its interval; of one seed, two standard errors over problems."""
    rows = [row for row in results if row["flags"] == flags]
    values = [row[turn][level] for row in rows]
    if len(values) > 1:
        return float(interquartile_mean(np.array(values))), interval(values)
    error = 2 * rows[0].get("error_2", {}).get(level, 0)
    return values[0], [max(0.0, values[0] - error), min(1.0, values[0] + error)]


def number(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def tables(results: list[dict]) -> dict[str, str]:
    """The table of each experiment, as docs/evidence.md has it."""
    found = {}
    for name, experiment in EXPERIMENTS.items():
        lines = [f"| {HEADINGS[name]} | no question open | one | two: attempt 1 | two: attempt 2 | ceiling |"]
        lines.append("|---|---|---|---|---|---|")
        for label, (flags, ceiling) in experiment.items():
            cells = [number(summary(results, flags, "accuracy_2", level)[0]) for level in "01"]
            first = summary(results, flags, "accuracy_1", "2")[0]
            second, bounds = summary(results, flags, "accuracy_2", "2")
            cells += [number(first), f"{number(second)} ({' to '.join(map(number, bounds))})", number(ceiling)]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        found[name] = "\n".join(lines)
    return found


def figure(results: list[dict], path: Path) -> None:
    """Second attempts at two open questions, beside their ceilings."""
    plt.rcParams.update({"svg.hashsalt": "compare", "svg.fonttype": "none", "font.size": 9})
    drawing, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for ax, (name, experiment) in zip(axes, EXPERIMENTS.items()):
        for place, (flags, ceiling) in enumerate(reversed(experiment.values())):
            middle, (low, high) = summary(results, flags, "accuracy_2", "2")
            ax.barh(
                place, middle, xerr=[[middle - low], [high - middle]], color="#4878a8", ecolor="#303030", height=0.6
            )
            ax.plot([ceiling] * 2, [place - 0.4, place + 0.4], color="#c04040", linewidth=2)
        ax.set(yticks=range(len(experiment)), yticklabels=reversed(experiment), xlim=(0, 1.02), title=HEADINGS[name])
        ax.set_xlabel("right second attempts (red: ceiling)")
        ax.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def with_tables(page: str, results: list[dict]) -> str:
    """The page, with new tables between its marks."""
    for name, table in tables(results).items():
        marks = f"<!-- compare: {name} -->", f"<!-- end of {name} -->"
        before, rest = page.split(marks[0])
        page = f"{before}{marks[0]}\n{table}\n{marks[1]}{rest.split(marks[1])[1]}"
    return page


def main(args: Args) -> None:
    if args.quick and args.publish:
        sys.exit("error: --quick trains too little to be published: leave out one of --quick and --publish")
    if args.quick:
        args.seeds, args.iterations, args.problems = args.seeds[:1], 10, 200
    args.folder.mkdir(parents=True, exist_ok=True)
    flags = dict.fromkeys(flags for experiment in EXPERIMENTS.values() for flags, _ in experiment.values())
    jobs = [(each, seed) for seed in args.seeds for each in flags]
    start, results = time.time(), []
    with ThreadPoolExecutor(args.workers) as pool:
        for (each, seed), result in zip(jobs, pool.map(lambda job: run(job, args), jobs)):
            results.append(result)
            left = (time.time() - start) / len(results) * (len(jobs) - len(results)) / 60
            print(f"{each}, seed {seed}: {result['accuracy_2']['2']:.3f}; about {left:.0f} minutes left", flush=True)
    text = json.dumps(results, indent=1) + "\n"
    (args.folder / "compare.json").write_text(text)
    for name, table in tables(results).items():
        print(f"\n{name}\n\n{table}")
    if args.publish:
        PUBLISHED.write_text(text)
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
        figure(results, FIGURE)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
