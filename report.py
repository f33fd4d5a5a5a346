"""Draws runs as one page that opens from disk, without a network: learning curves, final figures, flags, episodes.

    python report.py runs/* --output report.html

Runs that differ only in the seed share a colour: the line is their mean, the band their range. Episodes are
shown with every turn's text and can be filtered by outcome, iteration, run and problem. A run that is still being
written, or was cut short, is drawn as far as it got. A folder that is no run is named and skipped.
"""

import glob
import json
import shlex
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated

import common
from templates.charts import COLOURS, STYLES, charts, held_out

import jinja2
import matplotlib
import numpy as np
import tyro


@dataclass
class Args:
    # ---- page
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ("runs/*",)  # run folders, or patterns such as runs/*
    output: str = "report.html"  # the page to write
    max_megabytes: float = 5.0  # most megabytes of the page; beyond that, episodes of whole problems are left out


# Flags that change nothing in the rows, or that runs of one method are allowed to differ in.
NO_DIFFERENCE = ("seed", "run_dir", "if_run_exists", "report", "save_every", "keep_checkpoints", "track")
NO_DIFFERENCE += ("wandb_project",)


def load_run(folder: Path) -> dict:
    """What a run folder holds so far. Raises InputError if it is none, or if a file of it is damaged."""
    try:
        if not (folder / "config.json").is_file() or not (folder / "metrics.jsonl").is_file():
            raise FileNotFoundError("it has no config.json or no metrics.jsonl")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        flags = config["args"]
        rows, episodes = (common.read_rows(folder / name) for name in ("metrics.jsonl", "episodes.jsonl"))
        if not all(isinstance(row["iteration"], int) for row in rows + episodes):
            raise ValueError("an iteration is no number")
        if not all(isinstance(value, (int, float, NoneType)) for row in rows for value in row.values()):
            raise ValueError("a metric is no number")
        {**flags}, shlex.split(config.get("command") or ""), (config.get("git_commit") or "")[:10]
    except FileNotFoundError as error:
        raise common.InputError(f"{folder} is no run folder: {error}") from error
    except PermissionError as error:
        raise common.InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise common.InputError(f"{folder} cannot be drawn, a file of it is damaged: {error!r}") from error
    return {"name": str(folder), "flags": flags, "rows": rows, "episodes": episodes, "config": config}


def differing_flags(runs: list[dict]) -> list[str]:
    """Flags that not all of the runs that have them share, in the order of the scripts."""
    names = dict.fromkeys(name for run in runs for name in run["flags"] if name not in NO_DIFFERENCE)
    values = {name: {json.dumps(run["flags"][name]) for run in runs if name in run["flags"]} for name in names}
    return [name for name in names if len(values[name]) > 1]


def group_runs(runs: list[dict]) -> list[dict]:
    """Runs that differ in nothing but the seed, together, with a label and a colour."""
    groups: dict[str, dict] = {}
    for run in runs:
        name, script = run["flags"].get("exp_name", "?"), run["config"].get("script")
        siblings = [other for other in runs if other["flags"].get("exp_name") == name]
        if any(other["config"].get("script") != script for other in siblings):
            name = f"{name} ({script})"
            siblings = [other for other in siblings if other["config"].get("script") == script]
        parts = [f"{flag.replace('_', '-')} {run['flags'].get(flag)}" for flag in differing_flags(siblings)]
        label = ", ".join([name, *parts])
        groups.setdefault(label, {"label": label, "runs": []})["runs"].append(run)
    for number, group in enumerate(groups.values()):
        group["colour"] = COLOURS[number % len(COLOURS)]
        group["style"] = STYLES[number // len(COLOURS) % len(STYLES)]
    return list(groups.values())


def answers(groups: list[dict]) -> list[dict]:
    """What the second attempt is worth at the last evaluation of each group with two turns, with two standard errors.

    Over problems: of a share p the root of p (1 - p) / n, of delta that of (fixed + broken - delta²) / n.
    """
    lines = []
    for group in groups:
        last = [[row for row in run["rows"] if row.get("eval/fixed") is not None][-1:] for run in group["runs"]]
        if not all(last):
            continue
        first, second, fixed, broken = (
            float(np.mean([rows[0][f"eval/{name}"] for rows in last]))
            for name in ("accuracy_1", "accuracy_2", "fixed", "broken")
        )
        delta, n = fixed - broken, held_out(group["runs"])
        spreads = [p * (1 - p) for p in (first, second)] + [fixed + broken - delta**2]
        spreads += [p * (1 - p) for p in (fixed, broken)]
        errors = [2 * (max(0.0, spread) / n) ** 0.5 if n else None for spread in spreads]
        at = sorted({rows[0]["iteration"] for rows in last})
        label = f"{group['label']}, at iterations {at[0]} to {at[-1]}" if len(at) > 1 else group["label"]
        verdict = "unknown: no number of held-out problems" if n is None else "no difference seen"
        if n and abs(delta) > errors[2]:
            verdict = "it mends more than it breaks" if delta > 0 else "it breaks more than it mends"
        cells = list(zip((first, second, delta, fixed, broken), errors))
        lines.append({"label": label, "group": group, "verdict": verdict, "cells": cells, "n": n})
    return lines


def about(group: dict) -> str:
    """Data set, model, commit and command of a group's first run."""
    flags, config = group["runs"][0]["flags"], group["runs"][0]["config"]
    model = flags.get("policy_lm") or "the embedded model"
    commit = f"commit {config['git_commit'][:10]}" if config.get("git_commit") else "no commit noted"
    command = shlex.join(["python", *shlex.split(config["command"])[1:]]) if config.get("command") else ""
    return " · ".join(filter(None, (flags.get("dataset"), model, commit, command)))


def final_figures(groups: list[dict]) -> list[dict]:
    """A row of the table for each run: how far it got, and its first and last evaluation."""
    lines = []
    for group in groups:
        for run in group["runs"]:
            evaluated = [row for row in run["rows"] if row.get("eval/accuracy_1") is not None] or [{}]
            last = run["rows"][-1] if run["rows"] else {}
            line = {"label": group["label"], "group": group, "name": run["name"]}
            line |= {"seed": run["flags"].get("seed"), "iteration": last.get("iteration", 0)}
            line |= {"iterations": run["flags"].get("iterations"), "episodes": last.get("charts/episodes")}
            line["seconds"] = last.get("charts/seconds")
            for name in ("accuracy_1", "accuracy_2"):
                line[name] = [row.get(f"eval/{name}") for row in (evaluated[0], evaluated[-1])]
            lines.append(line)
    return lines


def sample_episodes(groups: list[dict], budget: int) -> tuple[dict, int, int]:
    """The browser's data, at most about `budget` bytes of it; how many episodes it holds, and how many there were.

    Whole problems are kept or left out, the same ones in every run, so that what one sees of a problem is its whole
    history through training.
    """
    histories: dict[tuple, list[dict]] = {}
    for group in groups:
        for run in group["runs"]:
            for episode in run["episodes"]:
                key = (zlib.crc32(str(episode.get("id")).encode()), str(episode.get("id")), run["name"])
                histories.setdefault(key, []).append(episode)
    data: dict = {"runs": sorted({key[2] for key in histories}), "problems": [], "episodes": []}
    numbers: dict[tuple, int] = {}
    used = 0
    for key, episodes in sorted(histories.items(), key=lambda item: item[0]):
        problem = (key[1], episodes[0].get("question", ""), episodes[0].get("answer", ""))
        records = [
            [data["runs"].index(key[2]), numbers.get(problem, len(numbers)), episode["iteration"], episode.get("phase")]
            + [episode.get(name) for name in ("attempt", "feedback", "refinement", "reward_1", "reward_2", "truncated")]
            for episode in episodes
        ]
        size = len(json.dumps(records)) + (0 if problem in numbers else len(json.dumps(problem)))
        if used + size <= budget:
            used += size
            if problem not in numbers:
                numbers[problem] = len(numbers)
                data["problems"].append(problem)
            data["episodes"] += records
    return data, len(data["episodes"]), sum(map(len, histories.values()))


def expanded(pattern: str) -> list[str]:
    """The folders that a pattern stands for; itself where it names one, whatever characters it holds."""
    return [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern)) or [pattern]


def main(args: Args) -> None:
    if not Path(args.output).name:
        raise common.InputError(f"--output {args.output!r} names no file")
    if not Path(args.output).absolute().parent.is_dir():
        raise common.InputError(f"--output {args.output}: there is no folder {Path(args.output).parent}")
    if not 0 < args.max_megabytes < 1000:
        raise common.InputError(f"--max-megabytes {args.max_megabytes} must be above 0 and below 1000")
    folders = [Path(path) for pattern in args.runs for path in expanded(pattern)]
    runs = []
    for folder in dict.fromkeys(folders):
        try:
            runs.append(load_run(folder))
        except common.InputError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if not runs:
        raise common.InputError(f"there is no run to draw in {' '.join(args.runs)}")
    groups = group_runs(runs)
    names = differing_flags(runs)
    flags = [[name.replace("_", "-"), [g["runs"][0]["flags"].get(name, "—") for g in groups]] for name in names]
    templates = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    template = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = {"groups": groups, "sections": charts(groups), "figures": final_figures(groups), "flags": flags}
    page |= {"answers": answers(groups), "about": [about(group) for group in groups]}
    page["datasets"] = dict.fromkeys(run["flags"].get("dataset", "?") for run in runs)
    render = template.get_template("report.html").render
    empty = len(render(**page, data={}, shown=0, total=0).encode())
    # The browser's data is escaped for HTML, which makes it longer: take less until the page fits.
    budget = limit = int(args.max_megabytes * 1_000_000) - empty
    while True:
        data, shown, total = sample_episodes(groups, max(0, budget))
        text = render(**page, data=data, shown=shown, total=total)
        if len(text.encode()) - empty <= limit or not shown:
            break
        budget = budget * limit // (len(text.encode()) - empty) * 98 // 100
    common.write_file(Path(args.output), text)
    size = len(text.encode()) / 1_000_000
    more = f": more than --max-megabytes {args.max_megabytes}, which the curves alone take" if limit < 0 else ""
    print(f"{args.output}: {len(runs)} runs, {shown} of {total} episodes, {size:.1f} MB{more}")


matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"})

if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
