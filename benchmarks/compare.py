"""Does feedback help, and when? Every experiment of docs/evidence.md, from nothing to its tables and its figures.

    python benchmarks/compare.py --publish     all of it, five seeds: some nine hours on two free cores
    python benchmarks/compare.py --experiments told read --publish     the first two tables: two to three hours
    python benchmarks/compare.py --quick       one seed, a quarter of the training: 20 minutes, to see that it works

Each run is trained by a script and evaluated by eval.py; what is done is not done again, what was cut short goes on.
Results go to {folder}/compare.json. --publish puts them into the repository: benchmarks/compare.json, the tables
between the marks of docs/evidence.md and README.md, the figures.
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
PAGES, PUBLISHED = (ROOT / "docs/evidence.md", ROOT / "README.md"), ROOT / "benchmarks/compare.json"
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
TRAINED = LADDERS["told"]["all asserts"][0]  # whose checkpoints are looked at too
QUALITIES = ["utility", "specificity", "utilisation", "leakage"]  # of the feedback, at all levels; see figures.py
HEADINGS = {"told": "the feedback model is told", "read": "the solver reads"}
TASKS = ("arithmetic", "functions", "countdown", "conventions")
# method: (command, responses in an episode, episodes of an iteration, flags of its KLs); all have as many responses in
# their episodes, beside which ArCHer samples for its critic and its actor
ONE_KL, TWO_KLS = ("--kl-coef",), ("--kl-coef", "--guidance-kl-coef")
METHODS = {
    "GRPO": ("grpo.py", 1, 64, ONE_KL),
    "expert iteration": ("expert_iteration.py", 1, 64, ONE_KL),
    "InTRO": ("intro.py", 1, 64, ()),  # on arithmetic alone: its embedded teacher reads the answers of sums
    "ArCHer": ("archer.py", 1, 128, ()),
    "SCoRe": ("score.py", 2, 64, ONE_KL),
    "SMART-SCoRe": ("rl_guided_score.py --no-train-guidance-model --use-smart-corrections", 3, 64, ONE_KL),
    "RL-Guided SCoRe": ("rl_guided_score.py", 3, 64, TWO_KLS),
    "MLMT-RL": ("mlmt_rl.py", 3, 64, TWO_KLS),
    "MLMT-RL, stop": ("mlmt_rl.py --stop-value-gradients", 3, 64, TWO_KLS),
}
LONGER = {"countdown": 4}  # times the iterations of a run on the other tasks
SEARCH_SEED = 101
PLAIN = {"no second attempt: GRPO": "GRPO", "no feedback: SCoRe": "SCoRe"}  # a panel of the figure
PLAIN |= {"feedback: RL-Guided SCoRe": "RL-Guided SCoRe", "feedback: MLMT-RL": "MLMT-RL"}
CHANGES = {"delta": "Δ", "fixed": "fixed", "broken": "broken", "accuracy_2_oracle_gated": "attempt 2, oracle-gated"}
EQUALS = {"episodes": 0, "thousand tokens": 1, "minutes": 2}  # a column of `curve`
AGAIN = ("--if-run-exists", "resume", "--device", "cpu")
Job = tuple[str, int, int]  # command, iterations, seed


@dataclass
class Args:
    folder: Path = Path("compare_runs")
    """where the runs go"""
    experiments: tuple[Literal["told", "read", "stages", "methods"], ...] = ("told", "read", "stages", "methods")
    """the tables to make"""
    tasks: tuple[Literal["arithmetic", "functions", "countdown", "conventions"], ...] = TASKS
    """columns of the table of methods"""
    rates: tuple[str, ...] = ("1e-4", "2e-4", "4e-4")
    """learning rates that are tried for each method and task, on a seed of their own, half as long"""
    kls: tuple[str, ...] = ("0", "0.01")
    """weights of the KL that are tried with each; empty: each script's own; one of both: no search"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of each run"""
    iterations: int = 40
    """of mlmt_rl.py, 64 episodes each (countdown: four times as many); the other methods sample as many responses"""
    problems: int = 500
    """test problems of an evaluation, two samples each"""
    workers: int = 2
    """runs side by side, one thread each"""
    quick: bool = False
    """one seed, ten iterations, 100 problems; of the methods functions alone, without the search"""
    publish: bool = False
    """put the results into the repository"""


def call(log: Path, *words) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        ended = subprocess.run([sys.executable, *map(str, words)], stdout=file, stderr=file, env=environment)
    if ended.returncode:
        sys.exit(f"error: a run failed, its last lines are in {log}; mend it and start again, what is done is kept")


def place_of(job: Job, args: Args) -> Path:
    command, iterations, seed = job
    return args.folder / f"{re.sub('[^a-z0-9]+', '_', command)}-{iterations}-{seed}"


def result_of(job: Job, args: Args) -> Path:
    """The file that says that a run is trained and evaluated."""
    return args.folder / f"{place_of(job, args).name}-eval{args.problems}.json"


def train(job: Job, args: Args) -> None:
    command, iterations, seed = job
    script, *flags = command.split()
    place = place_of(job, args)
    sizes = ["--iterations", iterations, "--seed", seed, "--no-report"]
    sizes += ["--keep-checkpoints", 0] * (command == TRAINED)
    call(place.with_name(place.name + ".log"), ROOT / script, *flags, *sizes, *AGAIN, "--run-dir", place)


def evaluate(job: Job, words: list, name: str, args: Args) -> dict:
    """The figures of what `words` name, as eval.py finds them, in a folder beside that of the run."""
    command, place = job[0], place_of(job, args)
    script, folder = command.split()[0], place.with_name(f"{place.name}-{name}")
    told = " ".join(re.findall("--(?:dataset|test-results|feedback-control) [^ ]+", command)).split()
    sampling = "--temperature 1 --top-p 1 --samples 2 --max-new-tokens 40 --max-feedback-tokens 40".split()
    quality = ("--feedback-quality",) * (script in ("rl_guided_score.py", "mlmt_rl.py") and "-control" not in command)
    sizes = ("--turns", turns_of(command), "--limit", args.problems, *quality, "--run-dir", folder)
    call(place.with_name(place.name + ".log"), ROOT / "eval.py", *words, *told, *sampling, *sizes, *AGAIN)
    return json.loads((folder / "eval.json").read_text())["results"][0]


def turns_of(command: str) -> int:
    return 1 if command.split()[0] in ("grpo.py", "expert_iteration.py", "intro.py", "archer.py") else 2


def run(job: Job, args: Args) -> dict:
    """Trains and evaluates one run, where that has not been done; its figures."""
    command, _, seed = job
    place, done = place_of(job, args), result_of(job, args)
    if done.exists():
        return json.loads(done.read_text())
    train(job, args)
    figures = evaluate(job, ["--solver", place], f"eval{args.problems}", args)
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
        "curve": curve(rows, json.loads((place / "config.json").read_text())["args"]),
    }
    result |= {name: figures.get(name) for name in CHANGES}
    turns = turns_of(command)
    for name in ("accuracy_1", f"accuracy_{turns}", f"accuracy_{turns}_standard_error"):
        result[name] = {level: part[name] for level, part in parts.items()}
    done.write_text(json.dumps(result))
    return result


def stage(job: Job, args: Args, iteration: int) -> dict:
    """What both attempts and the feedback are worth after so many iterations of a run; 0: of the embedded model."""
    own, name = ROOT / "tiny/conventions", f"stage{iteration}-{args.problems}"
    done = args.folder / f"{place_of(job, args).name}-{name}.json"
    if done.exists():
        return json.loads(done.read_text())
    words = ["--solver", place_of(job, args) / f"checkpoint-{iteration:06d}"]
    words = words if iteration else ["--solver", own, "--feedback", own]
    figures = evaluate(job, words, name, args)
    kept = ("accuracy_1", "accuracy_2", "feedback_quality")
    result = {"seed": job[2], "iteration": iteration} | {name: figures[name] for name in kept}
    done.write_text(json.dumps(result))
    return result


def curve(rows: list[dict], flags: dict) -> list[list[float]]:
    """At each evaluation in training: episodes, tokens sampled, minutes, and how many last attempts were right.

    What ArCHer samples for its critic and its actor counts with the length of the rollout's responses.
    """
    points, tokens, episodes = [], 0.0, 0
    for row in rows:
        lengths = ("rollout/response_length_1", "rollout/response_length_2", "rollout/feedback_length")
        sampled = (row["charts/episodes"] - episodes) * (1 + flags.get("critic_epochs", 0))
        if "critic_epochs" in flags and row["iteration"] > flags["warmup_iterations"]:
            sampled += flags["actor_epochs"] * flags["actor_batch_size"]
        tokens += sum(row.get(name) or 0 for name in lengths) * sampled
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


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def ladder(name: str, results: list[dict]) -> str:
    """The table of told or read."""
    columns = [HEADINGS[name], "no question open", "one", "two: attempt 1", "two: attempt 2", "ceiling"]
    columns, lines = columns + QUALITIES * (name == "told"), []
    for label, (command, ceiling) in LADDERS[name].items():
        cells = [label, *(number(summary(results, command, level)[0]) for level in "01")]
        cells += [number(summary(results, command, "2", turn=1)[0]), with_interval(summary(results, command, "2"))]
        rows = [row for row in results if row["command"] == command]
        qualities = [np.mean([row["feedback_quality"][key] for row in rows]) for key in columns[6:]]
        lines.append([*cells, number(ceiling), *map(number, qualities)])
    return markdown(columns, lines)


def stage_table(stages: list[dict]) -> str:
    """Both attempts at all levels and the quality of the feedback through training; means of the seeds."""
    rows = []
    for iteration in sorted({row["iteration"] for row in stages}):
        found = [row for row in stages if row["iteration"] == iteration]
        means = [np.mean([row[name] for row in found]) for name in ("accuracy_1", "accuracy_2")]
        means += [np.mean([row["feedback_quality"][name] for row in found]) for name in QUALITIES]
        rows.append([str(iteration), *map(number, means)])
    return markdown(["iterations", "attempt 1", "attempt 2", *QUALITIES], rows)


def method_command(method: str, task: str, rate: str, kl: str | None = None) -> str:
    """kl None: each script's own coefficients."""
    command, responses, _, kls = METHODS[method]
    told = " --test-results all" if task == "conventions" and responses == 3 else ""
    guidance = f" --guidance-lr {rate}" if responses == 3 else ""
    penalties = "".join(f" {flag} {kl}" for flag in kls if kl is not None)
    return f"{command} --dataset {task}{told} --learning-rate {rate}{guidance}{penalties}"


def method_job(pair: tuple[str, str], command: str, iterations: int, seed: int) -> Job:
    """As many responses as mlmt_rl.py samples in `iterations`, on countdown four times as many. pair: method, task."""
    _, responses, episodes, _ = METHODS[pair[0]]
    return command, iterations * LONGER.get(pair[1], 1) * 3 * 64 // (responses * episodes), seed


def commands_of(results: list[dict], method: str, task: str) -> list[str]:
    """What was run of a method on a task, in order; several settings where it was a search."""
    start = method_command(method, task, "RATE").split("RATE")[0]
    return list(dict.fromkeys(row["command"] for row in results if row["command"].startswith(start)))


def best_command(results: list[dict], method: str, task: str) -> str | None:
    """The setting with the best last attempts, the first of several; None where the method was not run."""
    tried = commands_of(results, method, task)
    return max(tried, key=lambda command: summary(results, command, "all")[0], default=None)


def chosen_command(searched: list[dict], method: str, task: str) -> str:
    """What the search settles on: of the settings within a standard error of the best, the gentlest one.

    That is the lowest learning rate, then the heaviest KL: a run of the search is half as long, and what a high rate
    breaks often breaks later.
    """
    tried = {command: summary(searched, command, "all") for command in commands_of(searched, method, task)}
    best, (low, _) = max(tried.values())  # low: two standard errors below
    near = [command for command, (right, _) in tried.items() if right >= (best + low) / 2]

    def force(command: str) -> tuple[float, float]:
        rate, *kl = map(float, re.findall("--(?:learning-rate|kl-coef) ([^ ]+)", command))
        return rate, -sum(kl)

    return min(near, key=force)


def pairs_of(tasks: tuple[str, ...]) -> list[tuple[str, str]]:
    """(method, task), of those that can be compared."""
    return [(method, task) for task in tasks for method in METHODS if method != "InTRO" or task == "arithmetic"]


def settings(method: str, task: str, args: Args) -> list[str]:
    """The commands that the search tries."""
    return list(
        dict.fromkeys(method_command(method, task, rate, kl) for rate in args.rates for kl in args.kls or [None])
    )


def setting(command: str) -> str:
    """The learning rate, and the weight of the KL where it is not the script's own."""
    return ", KL ".join(re.findall("--(?:learning-rate|kl-coef) ([^ ]+)", command))


def tasks_of(results: list[dict]) -> list[str]:
    return [task for task in TASKS if any(f"--dataset {task} " in row["command"] for row in results)]


def method_table(results: list[dict]) -> str:
    """Accuracy of the last attempt, by method and task; in brackets the setting."""
    tasks, rows = tasks_of(results), []
    for method in METHODS:
        commands = [best_command(results, method, task) for task in tasks]
        found = [f"{with_interval(summary(results, c, 'all'))} [{setting(c)}]" if c else "–" for c in commands]
        rows.append([method, *found])
    return markdown(["method", *tasks], rows)


def turn_table(results: list[dict], task: str) -> str:
    """Both attempts, and what the second one changes, in the form of the papers; means of the seeds."""
    rows = []
    for method in METHODS:
        if command := best_command(results, method, task):
            seeds = [row for row in results if row["command"] == command]
            first, last = summary(results, command, "all", turn=1), with_interval(summary(results, command, "all"))
            cells = [last, *["–"] * (1 + len(CHANGES))]
            if turns_of(command) == 2:
                changes = [number(np.mean([row[name] for row in seeds])) for name in CHANGES]
                cells = [number(first[0]), last, *changes]
            rows.append([f"`{command.split(' --dataset')[0]}`", *cells])
    return markdown(["", "attempt 1", "attempt 2", *CHANGES.values()], rows)


def search_table(searched: list[dict]) -> str:
    """The accuracy of the last attempt with every setting that was tried."""
    rows = []
    for task in tasks_of(searched):
        for method in METHODS:
            tried = {setting(c): number(summary(searched, c, "all")[0]) for c in commands_of(searched, method, task)}
            if tried:
                rows.append([task, method, ", ".join(f"{right} [{name}]" for name, right in tried.items())])
    return markdown(["task", "method", "accuracy of the last attempt [setting]"], rows)


def mean_curve(results: list[dict], command: str) -> np.ndarray:
    """(evaluations, 4): episodes, thousand tokens, minutes, accuracy of the last attempt; the mean of the seeds."""
    curves = np.mean([row["curve"] for row in results if row["command"] == command], axis=0)
    return curves / [1, 1000, 1, 1]


def equal_table(results: list[dict]) -> str:
    """Accuracy of the last attempt, evaluated in training, after as many episodes, tokens, minutes as every method has.

    Between two evaluations the line through them counts.
    """
    rows = []
    for task in tasks_of(results):
        best = {method: best_command(results, method, task) for method in METHODS}
        curves = {method: mean_curve(results, command) for method, command in best.items() if command}
        ends = {name: min(curve[-1, place] for curve in curves.values()) for name, place in EQUALS.items()}
        rows.append([f"**{task}**, at", *(f"{end:,.0f}" if end >= 10 else f"{end:.1f}" for end in ends.values())])
        for method, curve in curves.items():
            right = [np.interp(ends[name], curve[:, place], curve[:, 3]) for name, place in EQUALS.items()]
            rows.append([method, *map(number, right)])
    return markdown(["", *EQUALS], rows)


def tables(found: dict[str, list[dict]]) -> dict[str, str]:
    """The table of each experiment, as docs/evidence.md has it; found: the results by experiment."""
    texts = {name: ladder(name, found[name]) for name in LADDERS if name in found}
    if "stages" in found:
        texts["stages"] = stage_table(found["stages"])
    if "methods" in found:
        texts |= {"methods": method_table(found["methods"]), "equal": equal_table(found["methods"])}
    if "functions" in tasks_of(found.get("methods", [])):
        texts["functions"] = turn_table(found["methods"], "functions")
    if found.get("search"):
        texts["search"] = search_table(found["search"])
    return texts


def style(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def ladder_figure(found: dict[str, list[dict]], path: Path) -> None:
    """Second attempts at two open questions, beside their ceilings; and last attempts where nothing is hidden."""
    panels = []
    for name, experiment in LADDERS.items():
        rows = [
            (label, summary(found[name], command, "2"), ceiling) for label, (command, ceiling) in experiment.items()
        ]
        panels.append((HEADINGS[name], rows))
    shown = {label: best_command(found.get("methods", []), method, "functions") for label, method in PLAIN.items()}
    if all(shown.values()):
        rows = [(label, summary(found["methods"], command, "all"), 1) for label, command in shown.items()]
        panels.append(("nothing is hidden (functions)", rows))
    drawing, axes = plt.subplots(1, len(panels), figsize=(4.1 * len(panels), 2.7), layout="constrained")
    for ax, (title, rows) in zip(axes, panels):
        for place, (_, (middle, (low, high)), ceiling) in enumerate(reversed(rows)):
            error = [[middle - low], [high - middle]]
            ax.barh(place, middle, xerr=error, color="#4878a8", ecolor="#303030", height=0.6)
            ax.plot([ceiling] * 2, [place - 0.4, place + 0.4], color="#c04040", linewidth=2)
        ax.set(yticks=range(len(rows)), yticklabels=[row[0] for row in reversed(rows)], xlim=(0, 1.02), title=title)
        ax.set_xlabel("last attempts right (red: ceiling)")
        style(ax)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def method_figure(results: list[dict], path: Path) -> None:
    """Accuracy of the last attempt, evaluated in training, over the tokens sampled; means of the seeds."""
    tasks = tasks_of(results)
    size = (2.6 * len(tasks) + 1.6, 2.8)
    drawing, axes = plt.subplots(1, len(tasks), figsize=size, layout="constrained", squeeze=False)
    for ax, task in zip(axes[0], tasks):
        ends, best = [], []
        for i, method in enumerate(METHODS):
            if command := best_command(results, method, task):
                curve = mean_curve(results, command)
                ends, best = [*ends, curve[-1, 1]], [*best, curve[:, 3].max()]
                ax.plot(curve[:, 1], curve[:, 3], color=f"C{i}", label=method, linewidth=1.3)
        longest = sorted(ends)[-2:][0]  # ArCHer's line goes on, five times as far
        limits = {"xlim": (0, 1.03 * longest), "ylim": (0, min(1, 1.2 * max(best)))}
        ax.set(title=task, xlabel="thousand tokens sampled", **limits)
        style(ax)
    axes[0][0].set_ylabel("accuracy of the last attempt")
    drawing.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right", frameon=False)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def figures(found: dict[str, list[dict]]) -> None:
    plt.rcParams.update({"svg.hashsalt": "compare", "svg.fonttype": "none", "font.size": 9})
    if LADDERS.keys() <= found.keys():
        ladder_figure(found, FIGURES["levels"])
    if "methods" in found:
        method_figure(found["methods"], FIGURES["methods"])


def with_tables(page: str, found: dict[str, list[dict]]) -> str:
    """The page, with new tables between those marks that it has."""
    for name, table in tables(found).items():
        marks = f"<!-- compare: {name} -->", f"<!-- end of {name} -->"
        if marks[0] in page:
            before, rest = page.split(marks[0])
            page = f"{before}{marks[0]}\n{table}\n{marks[1]}{rest.split(marks[1])[1]}"
    return page


def run_all(name: str, jobs: list[Job], args: Args) -> list[dict]:
    """The results of all jobs of a table, `workers` of them at a time."""
    start, results = time.time(), []
    new = [not result_of(job, args).exists() for job in jobs]
    with ThreadPoolExecutor(args.workers) as pool:
        for job, result in zip(jobs, pool.map(lambda job: run(job, args), jobs)):
            results.append(result)
            ran, rest = sum(new[: len(results)]), sum(new[len(results) :])
            left = f"; for {name} about {(time.time() - start) / 60 / ran * rest:.0f} minutes left" if ran else ""
            at, right = f"{name}, {len(results)} of {len(jobs)}", summary([result], job[0], "all")[0]
            print(f"{at}: {job[0]}, seed {job[2]}: {right:.3f}{left}", flush=True)
    return results


def main(args: Args) -> None:
    for name in ("experiments", "tasks", "rates", "seeds", "iterations", "problems", "workers"):
        value = getattr(args, name)
        if value == () or isinstance(value, int) and value < 1:
            sys.exit(f"error: --{name} must not be {'empty' if value == () else value}")
    for value in (*args.rates, *args.kls):
        if not re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", value):
            sys.exit(f"error: --rates and --kls take numbers of 0 or more, and {value!r} is none")
    if len({*args.seeds}) < len(args.seeds) or min(args.seeds) < 0:
        sys.exit("error: --seeds must be different, and 0 or more")
    if args.folder.exists() and not args.folder.is_dir():
        sys.exit(f"error: --folder {args.folder} is no folder")
    if args.quick and args.publish:
        sys.exit("error: --quick trains too little to be published: leave out one of --quick and --publish")
    if args.quick:
        args.seeds, args.iterations, args.problems = args.seeds[:1], 10, 100
        args.tasks, args.rates, args.kls = ("functions",), ("2e-4",), ()
    args.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in (name for name in LADDERS if name in args.experiments):
        jobs = [(command, args.iterations, seed) for seed in args.seeds for command, _ in LADDERS[name].values()]
        found[name] = run_all(name, jobs, args)
    if "stages" in args.experiments:
        jobs = [(TRAINED, args.iterations, seed) for seed in args.seeds]
        run_all("stages", jobs, args)
        stages = [(jobs[0], args, 0)]  # the embedded model, which is the same for all seeds
        stages += [(job, args, iteration) for job in jobs for iteration in range(10, args.iterations + 1, 10)]
        with ThreadPoolExecutor(args.workers) as pool:
            found["stages"] = list(pool.map(lambda words: stage(*words), stages))
    if "methods" in args.experiments:
        pairs = pairs_of(args.tasks)
        tried = [(pair, command) for pair in pairs for command in settings(*pair, args)]
        chosen, found["search"] = dict(tried), []
        if len(tried) > len(pairs):
            half = args.iterations // 2
            jobs = [method_job(pair, command, half, SEARCH_SEED) for pair, command in tried]
            found["search"] = run_all("search", jobs, args)
            chosen = {pair: chosen_command(found["search"], *pair) for pair in pairs}
        jobs = [method_job(pair, chosen[pair], args.iterations, seed) for seed in args.seeds for pair in pairs]
        found["methods"] = run_all("methods", jobs, args)
    text = json.dumps(found, indent=1) + "\n"
    (args.folder / "compare.json").write_text(text)
    for name, table in tables(found).items():
        print(f"\n{name}\n\n{table}")
    if args.publish:
        published = json.loads(PUBLISHED.read_text())
        for name in found.keys() & {"search", "methods"}:
            kept = [row for row in published.get(name, []) if not set(tasks_of([row])) & set(args.tasks)]
            found[name] = kept + found[name]
        found = published | found  # an experiment or a task that was left out stays as it was
        PUBLISHED.write_text(json.dumps(found, indent=1) + "\n")
        for page in PAGES:
            page.write_text(with_tables(page.read_text(encoding="utf-8"), found), encoding="utf-8")
        figures(found)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on")
