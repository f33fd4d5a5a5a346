"""Does feedback help, and when? Every experiment of docs/evidence.md, from nothing to its tables and its figures.

    python benchmarks/compare.py --publish     all of it, five seeds: some 11 hours on two cores, estimated
    python benchmarks/compare.py --experiments told read --publish     the first two tables: some 3 hours
    python benchmarks/compare.py --quick       one seed and a quarter of the training, to see that it works

Each run is trained by a script and evaluated by eval.py; what is done is not done again, what was cut short goes on.
Results go to {folder}/compare.json. --publish puts them into the repository: benchmarks/compare.json, the tables
between the marks of docs/evidence.md, its figures.
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
from typing import Literal

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGE, PUBLISHED = ROOT / "docs/evidence.md", ROOT / "benchmarks/compare.json"
FIGURES = {"levels": ROOT / "docs/evidence.svg", "methods": ROOT / "docs/methods.svg"}

CONVENTIONS = "mlmt_rl.py --dataset conventions --test-results"
# experiment: {what its table calls a row: (command, ceiling of the second attempt at two open questions)}
LADDERS = {
    "told": {
        "nothing": (f"{CONVENTIONS} none", 0.25),
        "right or wrong": (f"{CONVENTIONS} verdict", 0.5),
        "the assert of the prompt": (f"{CONVENTIONS} shown", 0.25),
        "all asserts": (f"{CONVENTIONS} all", 1.0),
    },
    "read": {
        "what the trained model writes": (f"{CONVENTIONS} all", 1.0),
        "what the untrained model writes": (f"{CONVENTIONS} all --feedback-every 0", 1.0),
        "right or wrong": (f"{CONVENTIONS} all --feedback-control verdict --feedback-every 0", 0.5),
        "another problem's feedback": (f"{CONVENTIONS} all --feedback-control shuffled --feedback-every 0", 0.25),
        "one fixed sentence": (f"{CONVENTIONS} all --feedback-control fixed --feedback-every 0", 0.25),
    },
}
QUALITIES = ["utility", "specificity", "utilisation", "leakage"]  # of the feedback, at all levels; see figures.py
HEADINGS = {"told": "the feedback model is told", "read": "the solver reads"}
TASKS = ("arithmetic", "functions", "countdown", "conventions")
# method: (command, responses in an episode, episodes of an iteration); each method samples as many responses
METHODS = {
    "GRPO": ("grpo.py", 1, 64),
    "expert iteration": ("expert_iteration.py", 1, 64),
    "ArCHer": ("archer.py", 1, 128),
    "SCoRe": ("score.py", 2, 64),
    "SMART-SCoRe": ("rl_guided_score.py --no-train-guidance-model --use-smart-corrections", 3, 64),
    "RL-Guided SCoRe": ("rl_guided_score.py", 3, 64),
    "MLMT-RL": ("mlmt_rl.py", 3, 64),
    "MLMT-RL, stop": ("mlmt_rl.py --stop-value-gradients", 3, 64),
}
SEARCH_SEED = 101
Job = tuple[str, int, int]  # command, iterations, seed


@dataclass
class Args:
    folder: Path = Path("compare_runs")
    """where the runs go"""
    experiments: tuple[Literal["told", "read", "methods"], ...] = ("told", "read", "methods")
    """the tables to make"""
    tasks: tuple[Literal["arithmetic", "functions", "countdown", "conventions"], ...] = TASKS
    """columns of the table of methods"""
    rates: tuple[str, ...] = ("1e-4", "2e-4", "4e-4")
    """learning rates that are tried for each method and task, on a seed of their own, half as long; one: no search"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of each run"""
    iterations: int = 40
    """of a run of mlmt_rl.py, 64 episodes each; other methods sample as many responses"""
    problems: int = 500
    """test problems of an evaluation, two samples each"""
    workers: int = 2
    """runs side by side, one thread each"""
    quick: bool = False
    """one seed, ten iterations, 200 problems; of the methods countdown alone, without the search for learning rates"""
    publish: bool = False
    """put the results into the repository"""


def call(log: Path, *words) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        ended = subprocess.run([sys.executable, *map(str, words)], stdout=file, stderr=file, env=environment)
    if ended.returncode:
        sys.exit(f"error: a run failed, its last lines are in {log}; mend it and start again, what is done is kept")


def run(job: Job, args: Args) -> dict:
    """Trains and evaluates one run, where that has not been done; its figures."""
    command, iterations, seed = job
    place = args.folder / f"{re.sub('[^a-z0-9]+', '_', command)}-{iterations}-{seed}"
    evaluated = place.with_name(f"{place.name}-eval{args.problems}")
    done = evaluated.with_name(evaluated.name + ".json")
    if done.exists():
        return json.loads(done.read_text())
    script, *flags = command.split()
    log, again = place.with_name(place.name + ".log"), ("--if-run-exists", "resume", "--device", "cpu")
    sizes = ("--iterations", iterations, "--seed", seed, "--no-report")
    call(log, ROOT / script, *flags, *sizes, *again, "--run-dir", place)
    told = re.findall("--(?:dataset|test-results|feedback-control) [^ ]+", command)
    sampling = "--temperature 1 --top-p 1 --samples 2 --max-new-tokens 40 --max-feedback-tokens 40".split()
    turns = 1 if script in ("grpo.py", "expert_iteration.py", "archer.py") else 2
    quality = ("--feedback-quality",) * (script in ("rl_guided_score.py", "mlmt_rl.py") and "-control" not in command)
    sizes = ("--turns", turns, "--limit", args.problems, *quality, "--run-dir", evaluated)
    call(log, ROOT / "eval.py", "--solver", place, *" ".join(told).split(), *sampling, *sizes, *again)
    figures = json.loads((evaluated / "eval.json").read_text())["results"][0]
    parts = figures["by_level"] | {"all": figures}
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    explained = [row.get("losses/explained_variance") for row in rows[len(rows) // 2 :]]
    explained = [value for value in explained if value is not None]
    result = {
        "command": command,
        "seed": seed,
        "iterations": rows[-1]["iteration"],
        "minutes": round(rows[-1]["charts/seconds"] / 60, 1),
        "explained_variance": float(np.mean(explained)) if explained else None,
        "feedback_quality": figures.get("feedback_quality"),
        "curve": curve(rows),
    }
    for name in ("accuracy_1", f"accuracy_{turns}", f"accuracy_{turns}_standard_error"):
        result[name] = {level: part[name] for level, part in parts.items()}
    done.write_text(json.dumps(result))
    return result


def curve(rows: list[dict]) -> list[list[float]]:
    """At each evaluation in training: episodes, tokens sampled, minutes, and how many last attempts were right."""
    points, tokens, episodes = [], 0.0, 0
    for row in rows:
        lengths = ("rollout/response_length_1", "rollout/response_length_2", "rollout/feedback_length")
        tokens += sum(row.get(name) or 0 for name in lengths) * (row["charts/episodes"] - episodes)
        episodes = row["charts/episodes"]
        last = row.get("eval/accuracy_2", row.get("eval/accuracy_1"))
        if last is not None:
            points.append([episodes, round(tokens), round(row["charts/seconds"] / 60, 2), last])
    return points


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half of the last axis; of five values, of the middle three."""
    cut = values.shape[-1] // 4
    return np.sort(values)[..., cut : values.shape[-1] - cut].mean(-1)


def interval(values: list[float]) -> list[float]:
    """The middle 95 % of interquartile means of as many seeds, drawn with replacement."""
    drawn = np.random.default_rng(0).choice(np.array(values), (10_000, len(values)))
    return np.percentile(interquartile_mean(drawn), [2.5, 97.5]).tolist()


def summary(results: list[dict], command: str, level: str, turn: int | None = None) -> tuple[float, list[float]]:
    """Of one run's seeds: the interquartile mean and its interval; of one seed, two standard errors over problems.

    turn: 1, or None for the last.
    """
    rows = [row for row in results if row["command"] == command]
    turn = turn or (2 if "accuracy_2" in rows[0] else 1)
    values = [row[f"accuracy_{turn}"][level] for row in rows]
    if len(values) > 1:
        return float(interquartile_mean(np.array(values))), interval(values)
    error = 2 * rows[0].get(f"accuracy_{turn}_standard_error", {}).get(level, 0)
    return values[0], [max(0.0, values[0] - error), min(1.0, values[0] + error)]


def number(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def with_interval(found: tuple[float, list[float]]) -> str:
    return f"{number(found[0])} ({' to '.join(map(number, found[1]))})"


def ladder(name: str, results: list[dict]) -> str:
    """The table of told or read."""
    columns = [HEADINGS[name], "no question open", "one", "two: attempt 1", "two: attempt 2", "ceiling"]
    columns += QUALITIES * (name == "told")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for label, (command, ceiling) in LADDERS[name].items():
        cells = [label, *(number(summary(results, command, level)[0]) for level in "01")]
        cells += [number(summary(results, command, "2", turn=1)[0]), with_interval(summary(results, command, "2"))]
        rows = [row for row in results if row["command"] == command]
        qualities = [np.mean([row["feedback_quality"][key] for row in rows]) for key in columns[6:]]
        lines.append(f"| {' | '.join([*cells, number(ceiling), *map(number, qualities)])} |")
    return "\n".join(lines)


def method_command(method: str, task: str, rate: str) -> str:
    command = METHODS[method][0]
    told = " --test-results all" if task == "conventions" and METHODS[method][1] == 3 else ""
    guidance = f" --guidance-lr {rate}" if METHODS[method][1] == 3 else ""
    return f"{command} --dataset {task}{told} --learning-rate {rate}{guidance}"


def method_job(method: str, task: str, rate: str, iterations: int, seed: int) -> Job:
    """As many responses as mlmt_rl.py samples in `iterations`."""
    _, responses, episodes = METHODS[method]
    return method_command(method, task, rate), iterations * 3 * 64 // (responses * episodes), seed


def best_rate(results: list[dict], method: str, task: str) -> str:
    """The learning rate with the best last attempts in the search; the first of several."""
    start = method_command(method, task, "RATE").split("RATE")[0]
    tried = [row["command"].removeprefix(start).split()[0] for row in results if row["command"].startswith(start)]
    return max(tried, key=lambda rate: summary(results, method_command(method, task, rate), "all")[0])


def tasks_of(results: list[dict]) -> list[str]:
    return [task for task in TASKS if any(f"--dataset {task} " in row["command"] for row in results)]


def method_table(results: list[dict], searched: list[dict]) -> str:
    """Last attempts that are right, by method and task; in brackets the learning rate that the search chose."""
    tasks = tasks_of(results)
    lines = [f"| method | {' | '.join(tasks)} |", "|---|" + "---|" * len(tasks)]
    for method in METHODS:
        cells = []
        for task in tasks:
            rate = best_rate(searched or results, method, task)
            cells.append(f"{with_interval(summary(results, method_command(method, task, rate), 'all'))} [{rate}]")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(found: dict[str, list[dict]]) -> dict[str, str]:
    """The table of each experiment, as docs/evidence.md has it; found: the results by experiment."""
    texts = {name: ladder(name, found[name]) for name in LADDERS if name in found}
    if "methods" in found:
        texts["methods"] = method_table(found["methods"], found.get("search", []))
    return texts


def style(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def ladder_figure(found: dict[str, list[dict]], path: Path) -> None:
    """Second attempts at two open questions, beside their ceilings."""
    drawing, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for ax, (name, experiment) in zip(axes, LADDERS.items()):
        for place, (command, ceiling) in enumerate(reversed(experiment.values())):
            middle, (low, high) = summary(found[name], command, "2")
            error = [[middle - low], [high - middle]]
            ax.barh(place, middle, xerr=error, color="#4878a8", ecolor="#303030", height=0.6)
            ax.plot([ceiling] * 2, [place - 0.4, place + 0.4], color="#c04040", linewidth=2)
        ax.set(yticks=range(len(experiment)), yticklabels=reversed(experiment), xlim=(0, 1.02), title=HEADINGS[name])
        ax.set_xlabel("right second attempts (red: ceiling)")
        style(ax)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def method_figure(results: list[dict], searched: list[dict], path: Path) -> None:
    """Last attempts that are right in training's evaluations, over the tokens sampled; means of the seeds."""
    tasks = tasks_of(results)
    size = (2.6 * len(tasks) + 1.6, 2.8)
    drawing, axes = plt.subplots(1, len(tasks), figsize=size, layout="constrained", squeeze=False)
    for ax, task in zip(axes[0], tasks):
        for i, method in enumerate(METHODS):
            command = method_command(method, task, best_rate(searched or results, method, task))
            curves = np.mean([row["curve"] for row in results if row["command"] == command], axis=0)
            ax.plot(curves[:, 1] / 1000, curves[:, 3], color=f"C{i}", label=method, linewidth=1.3)
        ax.set(title=task, xlabel="thousand tokens sampled", ylim=(0, 1))
        style(ax)
    axes[0][0].set_ylabel("right last attempts")
    drawing.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right", frameon=False)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def figures(found: dict[str, list[dict]]) -> None:
    plt.rcParams.update({"svg.hashsalt": "compare", "svg.fonttype": "none", "font.size": 9})
    if LADDERS.keys() <= found.keys():
        ladder_figure(found, FIGURES["levels"])
    if "methods" in found:
        method_figure(found["methods"], found.get("search", []), FIGURES["methods"])


def with_tables(page: str, found: dict[str, list[dict]]) -> str:
    """The page, with new tables between its marks."""
    for name, table in tables(found).items():
        marks = f"<!-- compare: {name} -->", f"<!-- end of {name} -->"
        before, rest = page.split(marks[0])
        page = f"{before}{marks[0]}\n{table}\n{marks[1]}{rest.split(marks[1])[1]}"
    return page


def run_all(jobs: list[Job], args: Args) -> list[dict]:
    """The results of all jobs, `workers` of them at a time."""
    start, results = time.time(), []
    with ThreadPoolExecutor(args.workers) as pool:
        for job, result in zip(jobs, pool.map(lambda job: run(job, args), jobs)):
            results.append(result)
            left = (time.time() - start) / len(results) * (len(jobs) - len(results)) / 60
            right = summary([result], job[0], "all")[0]
            print(f"{job[0]}, seed {job[2]}: {right:.3f}; about {left:.0f} minutes left", flush=True)
    return results


def main(args: Args) -> None:
    if args.quick and args.publish:
        sys.exit("error: --quick trains too little to be published: leave out one of --quick and --publish")
    if args.quick:
        args.seeds, args.iterations, args.problems = args.seeds[:1], 10, 200
        args.tasks, args.rates = ("countdown",), ("2e-4",)
    args.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in (name for name in LADDERS if name in args.experiments):
        jobs = [(command, args.iterations, seed) for seed in args.seeds for command, _ in LADDERS[name].values()]
        found[name] = run_all(jobs, args)
    if "methods" in args.experiments:
        pairs = [(method, task) for task in args.tasks for method in METHODS]
        if len(args.rates) > 1:
            half = args.iterations // 2
            jobs = [method_job(*pair, rate, half, SEARCH_SEED) for pair in pairs for rate in args.rates]
            found["search"] = run_all(jobs, args)
        chosen = {pair: best_rate(found["search"], *pair) if "search" in found else args.rates[0] for pair in pairs}
        jobs = [method_job(*pair, chosen[pair], args.iterations, seed) for seed in args.seeds for pair in pairs]
        found["methods"] = run_all(jobs, args)
    text = json.dumps(found, indent=1) + "\n"
    (args.folder / "compare.json").write_text(text)
    for name, table in tables(found).items():
        print(f"\n{name}\n\n{table}")
    if args.publish:
        found = json.loads(PUBLISHED.read_text()) | found  # an experiment that was left out stays as it was
        PUBLISHED.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
        figures(found)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
