"""Minority and majority scores of every reward of sharedrep_grpo.py, over seeds and proportions of the minority.

    python benchmarks/sharedrep.py --publish     100 runs, some 70 minutes on two cores

Runs the whole pipeline of each seed, then every reward at every proportion; what is done is not run again. Variants at
one proportion show what the authors' settings change: MaxMin at a tenth of the rate, heads that are not calibrated.
The three meanings of "the group that is worst off" are compared with gold rewards at a high learning rate. Prints the
tables of docs/sharedrep.md: means, and half of the 95 % t interval. --publish puts them into the repository:
benchmarks/sharedrep.json, and the tables between their marks in docs/sharedrep.md.
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

PAGE, PUBLISHED = ROOT / "docs/sharedrep.md", ROOT / "benchmarks/sharedrep.json"
T_95 = (0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # of a mean of 1, 2, ... seeds
HEADS = ("sharedrep", "maxmin", "uniform")
VARIANTS = {"-slow": ("--reward-lr", 3e-4), "-raw": ("--no-calibrate-heads",)}  # of the heads
MINIMA = {f"-{name}": ("--minmax", name) for name in ("batch", "sample", "group_weights")}  # of the policy's training
MINIMA |= {"-slow_weights": (*MINIMA["-group_weights"], "--group-weights-lr", 0.2)}
FAST = ("--learning-rate", 5e-4)


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
    publish: bool = False
    """put the results into the repository"""


def call(script: str, log: Path, *flags) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    with log.open("w") as file:
        ended = subprocess.run(command, stdout=file, stderr=file, env=environment)
    if ended.returncode:
        sys.exit(f"error: a run failed, its last lines are in {log}; mend it and start again, what is done is kept")


def prepare(seed: int, args: Args) -> None:
    """The reward folder of a seed with all heads, and two copies with other ones."""
    folder = args.folder / f"reward-{seed}"
    if (folder / "done").exists():
        return
    for proportion in args.proportions:
        for method in HEADS:
            flags = ("--seed", seed, "--reward-dir", folder, "--proportion", proportion, "--method", method)
            call("sharedrep_reward.py", args.folder / f"reward-{seed}.log", *flags)
    for variant, more in VARIANTS.items():
        copy = args.folder / f"reward-{seed}{variant}"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        for method in HEADS[:2]:
            flags = ("--seed", seed, "--reward-dir", copy, "--proportion", args.variants_at, "--method", method)
            call("sharedrep_reward.py", args.folder / f"reward-{seed}{variant}.log", "--stage", "train", *flags, *more)
    (folder / "done").touch()


def train(job: tuple, args: Args) -> dict:
    """The last evaluation of one run, with the first one's figures under "before", and what it was a run of."""
    seed, reward, proportion, variant = job
    name = f"{reward}{variant}-{proportion}-{seed}"
    run_dir, reward_dir = args.folder / name, args.folder / f"reward-{seed}{variant * (variant in VARIANTS)}"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()] if run_dir.exists() else []
    if not rows or "eval/minority" not in rows[-1] or not rows[-1]["iteration"]:
        flags = ["--seed", seed, "--reward", reward, "--proportion", proportion, "--reward-dir", reward_dir]
        flags += ["--run-dir", run_dir, "--if-run-exists", "delete" if run_dir.exists() else "raise", "--no-report"]
        flags += [*FAST, *MINIMA[variant]] if variant in MINIMA else []
        call("sharedrep_grpo.py", args.folder / f"{name}.log", *flags, "--eval-every", 40, "--eval-size", 400)
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
        print(name, f"{rows[-1]['eval/worst_group']:.3f}", flush=True)
    rewards = [row["rollout/reward"] for row in rows if "rollout/reward" in row]  # that the policy is trained for
    found = {"reward": reward + variant, "proportion": proportion, "seed": seed, "run": name}
    found |= {"reward_first": float(np.mean(rewards[:5])), "reward_last": float(np.mean(rewards[-5:]))}
    return found | {"before": evaluation(rows[0])} | evaluation(rows[-1])


def evaluation(row: dict) -> dict[str, float]:
    return {key[5:]: value for key, value in row.items() if key.startswith("eval/") and value is not None}


def heads_of(seed: int, args: Args) -> list[dict]:
    """How many held-out pairs the heads of a seed order as each group does, for the proportions that were asked for."""
    rows = [json.loads(line) for line in (args.folder / f"reward-{seed}" / "heads.jsonl").read_text().splitlines()]
    last = {(row["proportion"], row["method"]): {"seed": seed} | row for row in rows}
    return [last[proportion, method] for proportion in args.proportions for method in HEADS]


def logits_of(seed: int, args: Args) -> dict[str, float]:
    """The oracle's mean logit of two kinds of responses: (lines before the answer, those of them that ask)."""
    of_kind: dict[tuple[int, int], list[float]] = {(1, 1): [], (4, 2): []}
    for line in (args.folder / f"reward-{seed}" / "scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        lines = [part for part in row["response"].splitlines() if "boxed" not in part]
        of_kind.get((len(lines), sum("?" in part for part in lines)), []).append(row["logit"])
    short, long = (float(np.mean(logits)) for logits in of_kind.values())
    return {"seed": seed, "one line, which asks": short, "four lines, two of which ask": long}


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


def interval(values: list[float]) -> str:
    half = T_95[len(values) - 1] * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{np.mean(values):.3f} ± {half:.3f}".replace("0.", ".").replace("-", "−")


def markdown(columns: str, rows: list[list[str]]) -> str:
    lines = [columns, " | ".join("---" for _ in columns.split(" | ")), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" for line in lines)


def share(proportion: float) -> str:
    return f"{proportion:g}".lstrip("0")


def groups_of(rows: list[dict], *names: str) -> dict[tuple, list[dict]]:
    """The rows by what they say of `names`, in order."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def tables(found: dict[str, list[dict]]) -> dict[str, str]:
    """The tables of docs/sharedrep.md, by the names of their marks."""
    names, lines = ("minority", "majority", "worst_group", "accuracy_1", "win_minority", "win_majority"), []
    minima = [row for row in found["runs"] if row["reward"].removeprefix("gold") in MINIMA]
    others = [row for row in found["runs"] if row["reward"].removeprefix("gold") not in MINIMA]
    for (reward, proportion), rows in groups_of(others, "reward", "proportion").items():
        figures = [interval([row[name] for row in rows]) for name in names]
        lines.append([reward, "-" if reward == "gold" else share(proportion), *figures])
    columns = "reward | proportion | minority | majority | worst group | accuracy"
    made = {"rewards": markdown(f"{columns} | minority's wins against gold | majority's", lines)}
    runs, lines = groups_of(found["runs"], "reward", "proportion"), []
    for proportion in dict.fromkeys(row["proportion"] for row in found["heads"]):
        pairs = list(zip(*(runs[reward, proportion] for reward in HEADS[:2]), strict=True))  # of the same seeds
        figures = [interval([ours[name] - theirs[name] for ours, theirs in pairs]) for name in names[:4]]
        lines.append([share(proportion), *figures])
    made["differences"] = markdown("sharedrep − maxmin | minority | majority | worst group | accuracy", lines)
    lines = []
    for (proportion, method), rows in groups_of(found["heads"], "proportion", "method").items():
        figures = [interval([row[f"accuracy_{group}"] for row in rows]) for group in ("minority", "majority")]
        lines.append([method, share(proportion), f"{np.mean([row['pairs_minority'] for row in rows]):.0f}", *figures])
    made["heads"] = markdown("heads | proportion | minority pairs | minority | majority", lines)
    lines = []
    for (reward,), rows in groups_of(minima, "reward").items():
        flags = " ".join(map(str, MINIMA[reward.removeprefix("gold")]))
        lines.append([f"`{flags}`", *(interval([row[name] for row in rows]) for name in names[:4])])
    return made | {"minima": markdown("trained with | minority | majority | worst group | accuracy", lines)}


def with_tables(page: str, found: dict[str, list[dict]]) -> str:
    """The page, with new tables between its marks."""
    for name, table in tables(found).items():
        marks = f"<!-- sharedrep: {name} -->", f"<!-- end of {name} -->"
        before, rest = page.split(marks[0])
        page = f"{before}{marks[0]}\n{table}\n{marks[1]}{rest.split(marks[1])[1]}"
    return page


def main(args: Args) -> None:
    if not 1 <= len(args.seeds) <= len(T_95) or not args.proportions or args.workers < 1:
        sys.exit(f"error: --seeds takes 1 to {len(T_95)} seeds, --proportions and --workers one or more")
    if args.variants_at not in args.proportions:
        sys.exit(f"error: --variants-at {args.variants_at:g} must be one of --proportions")
    if args.folder.exists() and not args.folder.is_dir():
        sys.exit(f"error: --folder {args.folder} is no folder")
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, "gold", args.proportions[0], "") for seed in args.seeds]
    jobs += [(seed, reward, p, "") for p in args.proportions for reward in HEADS for seed in args.seeds]
    variants = (("maxmin", "-slow"), ("sharedrep", "-raw"), ("maxmin", "-raw"))
    jobs += [(seed, reward, args.variants_at, variant) for reward, variant in variants for seed in args.seeds]
    jobs += [(seed, "gold", args.proportions[0], variant) for variant in MINIMA for seed in args.seeds]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda seed: prepare(seed, args), args.seeds))
        runs = list(pool.map(lambda job: train(job, args), jobs))
    add_wins(runs, args)
    found = {"runs": runs, "heads": [row for seed in args.seeds for row in heads_of(seed, args)]}
    found["logits"] = [logits_of(seed, args) for seed in args.seeds]
    (args.folder / "sharedrep.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, table in tables(found).items():
        print(f"\n{name}\n\n{table}")
    if args.publish:
        PUBLISHED.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on")
