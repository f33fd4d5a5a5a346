"""Minority and majority scores of every reward of sharedrep_grpo.py, over seeds and proportions of the minority.

    python benchmarks/sharedrep.py --folder sharedrep_runs --workers 2

Runs the whole pipeline of each seed, then every reward at every proportion; what is done is not run again. Variants at
one proportion show what the authors' settings change: MaxMin at a tenth of the rate, heads that are not calibrated.
Writes {folder}/results.jsonl and prints the tables of docs/sharedrep.md: means, and half of the 95 % t interval.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import common  # noqa: E402

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}  # of a mean of so many seeds
HEADS = ("sharedrep", "maxmin", "uniform")


@dataclass
class Args:
    folder: Path = Path("sharedrep_runs")
    """where the runs go"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of the whole pipeline"""
    proportions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2)
    """shares of questions that the minority judges"""
    variants_at: float = 0.05
    """the proportion at which the authors' settings are tried"""
    workers: int = 2
    """runs side by side, one thread each"""


def call(script: str, log: Path, *flags) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=file, env=environment, check=True)


def prepare(seed: int, args: Args) -> None:
    """The reward folder of a seed with all heads, and two copies with other ones."""
    folder = args.folder / f"reward-{seed}"
    if (folder / "done").exists():
        return
    for proportion in args.proportions:
        for method in HEADS:
            flags = ("--seed", seed, "--reward-dir", folder, "--proportion", proportion, "--method", method)
            call("sharedrep_reward.py", args.folder / f"reward-{seed}.log", *flags)
    for variant, more in (("slow", ("--reward-lr", 3e-4)), ("raw", ("--no-calibrate-heads",))):
        copy = args.folder / f"reward-{seed}-{variant}"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        for method in HEADS[:2]:
            flags = ("--seed", seed, "--reward-dir", copy, "--proportion", args.variants_at, "--method", method)
            call("sharedrep_reward.py", args.folder / f"reward-{seed}-{variant}.log", "--stage", "train", *flags, *more)
    (folder / "done").touch()


def train(job: tuple, args: Args) -> dict:
    """The last row of one run, with what it was a run of."""
    seed, reward, proportion, variant = job
    name = f"{reward}{variant}-{proportion}-{seed}"
    run_dir, rewards = args.folder / name, args.folder / f"reward-{seed}{variant}"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()] if run_dir.exists() else []
    if not rows or "eval/minority" not in rows[-1] or not rows[-1]["iteration"]:
        flags = ["--seed", seed, "--reward", reward, "--proportion", proportion, "--reward-dir", rewards]
        flags += ["--run-dir", run_dir, "--if-run-exists", "delete" if run_dir.exists() else "raise", "--no-report"]
        call("sharedrep_grpo.py", args.folder / f"{name}.log", *flags, "--eval-every", 40, "--eval-size", 400)
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
        print(name, f"{rows[-1]['eval/worst_group']:.3f}", flush=True)
    figures = {key[5:]: value for key, value in rows[-1].items() if key.startswith("eval/") and value is not None}
    return {"reward": reward + variant, "proportion": proportion, "seed": seed, "run": name} | figures


def interval(values: list[float]) -> str:
    half = T_95[len(values)] * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{np.mean(values):.3f} ± {half:.3f}".replace("0.", ".").replace("-", "−")


def add_wins(results: list[dict], args: Args) -> None:
    """How often a run's responses beat those of the same seed's gold run, by each group's gold score."""
    for row in results:
        gold = args.folder / f"gold-{args.proportions[0]}-{row['seed']}"
        ours, theirs = (last_scores(folder) for folder in (args.folder / row["run"], gold))
        wins = common.win_rates(list(ours.values()), theirs, ["minority", "majority"], 0)
        row |= {name: wins[name] for name in ("win_minority", "win_majority")}


def last_scores(run_dir: Path) -> dict[str, dict]:
    """The rows of scores.jsonl of a run's last evaluation, by problem."""
    rows = common.read_rows(run_dir / "scores.jsonl")
    return {row["id"]: row for row in rows if row["iteration"] == rows[-1]["iteration"]}


def differences_table(results: list[dict], args: Args) -> None:
    """SharedRep minus MaxMin, both of the same seed."""
    print("\n| sharedrep − maxmin | minority | majority | worst group | accuracy |\n|---|---|---|---|---|")
    runs = {(row["reward"], row["proportion"], row["seed"]): row for row in results}
    for proportion in args.proportions:
        pairs = [[runs[reward, proportion, seed] for reward in HEADS[:2]] for seed in args.seeds]
        names = ("minority", "majority", "worst_group", "accuracy_1")
        figures = [interval([ours[name] - theirs[name] for ours, theirs in pairs]) for name in names]
        print(f"| {f'{proportion:g}'.lstrip('0')} | {' | '.join(figures)} |")


def heads_table(args: Args) -> None:
    """Held-out pairs that the heads order as each group does, over the seeds."""
    print("\n| heads | proportion | minority pairs | minority | majority |\n|---|---|---|---|---|")
    for proportion in args.proportions:
        for method in HEADS:
            rows = []
            for seed in args.seeds:
                lines = (args.folder / f"reward-{seed}" / "heads.jsonl").read_text().splitlines()
                found = [
                    row for row in map(json.loads, lines) if (row["method"], row["proportion"]) == (method, proportion)
                ]
                rows.append(found[-1])
            pairs = np.mean([row["pairs_minority"] for row in rows])
            figures = [interval([row[f"accuracy_{group}"] for row in rows]) for group in ("minority", "majority")]
            print(f"| {method} | {f'{proportion:g}'.lstrip('0')} | {pairs:.0f} | {' | '.join(figures)} |")


def main(args: Args) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, "gold", args.proportions[0], "") for seed in args.seeds]
    jobs += [(seed, reward, p, "") for seed in args.seeds for p in args.proportions for reward in HEADS]
    variants = (("maxmin", "-slow"), ("sharedrep", "-raw"), ("maxmin", "-raw"))
    jobs += [(seed, reward, args.variants_at, variant) for seed in args.seeds for reward, variant in variants]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda seed: prepare(seed, args), args.seeds))
        results = list(pool.map(lambda job: train(job, args), jobs))
    add_wins(results, args)
    (args.folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    columns = "minority | majority | worst group | accuracy | minority's wins against gold | majority's"
    print(f"| reward | proportion | {columns} |\n|---|---|---|---|---|---|---|---|")
    for reward, proportion in dict.fromkeys((row["reward"], row["proportion"]) for row in results):
        rows = [row for row in results if (row["reward"], row["proportion"]) == (reward, proportion)]
        names = ("minority", "majority", "worst_group", "accuracy_1", "win_minority", "win_majority")
        figures = [interval([row[name] for row in rows]) for name in names]
        print(f"| {reward} | {'-' if reward == 'gold' else f'{proportion:g}'.lstrip('0')} | {' | '.join(figures)} |")
    differences_table(results, args)
    heads_table(args)


if __name__ == "__main__":
    main(tyro.cli(Args))
