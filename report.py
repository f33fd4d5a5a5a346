"""Draws runs as one page that opens from disk, without a network: learning curves, final figures, flags, episodes.

    python report.py runs/* --output report.html

Runs that differ in nothing but the seed share a colour: the line is their mean, the band their range. Episodes are
shown with every turn's text and can be filtered by outcome, iteration, run and problem. A run that is still being
written, or was cut short, is drawn as far as it got. A folder that is no run is named and skipped.
"""

import base64
import glob
import io
import json
import re
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common

import jinja2
import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure


@dataclass
class Args:
    # ---- page
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ("runs/*",)  # run folders, or patterns such as runs/*
    output: str = "report.html"  # the page to write
    max_megabytes: float = 5.0  # most megabytes of the page; beyond that, episodes of whole problems are left out


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")  # Okabe and Ito
STYLES = ("-", "--", ":", "-.")  # one for each round through the colours
MAX_POINTS = 300  # of one curve
CURVE_BYTES = 1_200_000  # about what all curves of a page may take; more curves have fewer points
# Flags that change nothing in the rows, or that runs of one method are allowed to differ in.
NO_DIFFERENCE = ("seed", "run_dir", "if_run_exists", "report", "save_every", "keep_checkpoints", "track")
NO_DIFFERENCE += ("wandb_project",)
FIRST_METRICS = ("eval/accuracy_1", "eval/accuracy_2", "eval/delta", "eval/fixed", "eval/broken", "rollout/reward")
FIRST_METRICS += ("eval/worst_group", "eval/minority", "eval/majority")
TITLES = {"rollout": "Rollouts", "losses": "Losses", "eval": "Held-out problems", "charts": "Time and speed"}


def load_run(folder: Path) -> dict:
    """What a run folder holds so far. Raises InputError if it is none, or if a file of it is damaged."""
    if not (folder / "config.json").is_file() or not (folder / "metrics.jsonl").is_file():
        raise common.InputError(f"{folder} is no run folder: it has no config.json or no metrics.jsonl")
    try:
        flags = json.loads((folder / "config.json").read_text(encoding="utf-8"))["args"]
        rows, episodes = (common.read_rows(folder / name) for name in ("metrics.jsonl", "episodes.jsonl"))
        [row["iteration"] for row in rows + episodes]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise common.InputError(f"{folder} cannot be drawn, a file of it is damaged: {error!r}") from error
    return {"name": str(folder), "flags": flags, "rows": rows, "episodes": episodes}


def differing_flags(runs: list[dict]) -> list[str]:
    """Flags that not all of the runs that have them share, in the order of the scripts."""
    names = dict.fromkeys(name for run in runs for name in run["flags"] if name not in NO_DIFFERENCE)
    values = {name: {json.dumps(run["flags"][name]) for run in runs if name in run["flags"]} for name in names}
    return [name for name in names if len(values[name]) > 1]


def group_runs(runs: list[dict]) -> list[dict]:
    """Runs that differ in nothing but the seed, together, with a label and a colour."""
    groups: dict[str, dict] = {}
    for run in runs:
        name = run["flags"].get("exp_name", "?")
        siblings = [other for other in runs if other["flags"].get("exp_name") == name]
        parts = [f"{flag.replace('_', '-')} {run['flags'].get(flag)}" for flag in differing_flags(siblings)]
        label = ", ".join([name, *parts])
        groups.setdefault(label, {"label": label, "runs": []})["runs"].append(run)
    for number, group in enumerate(groups.values()):
        group["colour"] = COLOURS[number % len(COLOURS)]
        group["style"] = STYLES[number // len(COLOURS) % len(STYLES)]
    return list(groups.values())


def curve(runs: list[dict], metric: str, axis: str, max_points: int) -> np.ndarray:
    """x, mean, lowest and highest value of a metric over the runs, where any has one: (4, points).

    Rows of one iteration belong together; more than max_points are averaged in neighbouring groups.
    """
    at: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        for row in run["rows"]:
            x, y = row.get(f"charts/{axis}"), row.get(metric)
            if x is not None and y is not None and np.isfinite(y):
                at.setdefault(row["iteration"], []).append((x, y))
    points = []
    for _, pairs in sorted(at.items()):
        xs, ys = zip(*pairs)
        points.append((np.mean(xs), np.mean(ys), min(ys), max(ys)))
    parts = np.array_split(np.array(points).reshape(-1, 4), min(len(points), max_points) or 1)
    return np.array([part.mean(0) for part in parts if len(part)]).reshape(-1, 4).T


def chart(groups: list[dict], metric: str, axis: str, max_points: int) -> str | None:
    """One metric of all groups as an SVG data URI; None if no run has a value."""
    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    for group in groups:
        x, mean, lowest, highest = curve(group["runs"], metric, axis, max_points)
        if len(x):
            drawn = True
            marker = "o" if len(x) <= 20 and len(groups) <= len(COLOURS) else None
            axes.plot(x, mean, group["style"], color=group["colour"], linewidth=1.4, marker=marker, markersize=2.5)
            if (lowest < highest).any():
                axes.fill_between(x, lowest, highest, color=group["colour"], alpha=0.18, linewidth=0)
    if not drawn:
        return None
    if "accuracy" in metric:
        axes.set_ylim(-0.02, 1.02)
    elif metric.endswith(("/fixed", "/broken", "/repeated", "/truncated")):
        axes.set_ylim(bottom=0)
    axes.set_title(metric, fontsize=10, loc="left")
    axes.set_xlabel(axis, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    # Tenths of a point are enough for a path, and half as long.
    svg = re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d)\d+", rb"\1", path[0]), buffer.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def charts(groups: list[dict]) -> list[dict]:
    """Sections of charts, the most telling first: [{title, charts: [{metric, episodes, seconds}]}]."""
    runs = [run for group in groups for run in group["runs"]]
    metrics = list(dict.fromkeys(name for run in runs for row in run["rows"] for name in row if "/" in name))
    metrics = [name for name in metrics if name not in ("charts/episodes", "charts/seconds")]
    bands = 1 if all(len(group["runs"]) == 1 for group in groups) else 3
    max_points = CURVE_BYTES // (max(1, len(metrics)) * 2 * len(groups) * bands * 20)  # a point takes about 20 bytes
    sections: dict[str, list[dict]] = {"Overview": []}
    for metric in sorted(metrics, key=lambda name: (FIRST_METRICS + (name,)).index(name)):
        images = {
            axis: chart(groups, metric, axis, min(MAX_POINTS, max(8, max_points))) for axis in ("episodes", "seconds")
        }
        title = "Overview" if metric in FIRST_METRICS else TITLES.get(metric.split("/")[0], metric.split("/")[0])
        if images["episodes"]:
            sections.setdefault(title, []).append({"metric": metric} | images)
    return [{"title": title, "charts": images} for title, images in sections.items() if images]


def final_figures(groups: list[dict]) -> list[dict]:
    """A row of the table for each run: how far it got, and its first and last evaluation."""
    lines = []
    for group in groups:
        for run in group["runs"]:
            evaluated = [row for row in run["rows"] if row.get("eval/accuracy_1") is not None] or [{}]
            last = run["rows"][-1] if run["rows"] else {}
            line = {"label": group["label"], "colour": group["colour"], "name": run["name"]}
            line |= {"seed": run["flags"].get("seed"), "iteration": last.get("iteration", 0)}
            line |= {"iterations": run["flags"].get("iterations"), "episodes": last.get("charts/episodes")}
            line["seconds"] = last.get("charts/seconds")
            for name in ("accuracy_1", "accuracy_2"):
                line[name] = [row.get(f"eval/{name}") for row in (evaluated[0], evaluated[-1])]
            line |= {name: evaluated[-1].get(f"eval/{name}") for name in ("delta", "fixed", "broken")}
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


def main(args: Args) -> None:
    if not Path(args.output).absolute().parent.is_dir():
        raise common.InputError(f"--output {args.output}: there is no folder {Path(args.output).parent}")
    folders = [Path(path) for pattern in args.runs for path in (sorted(glob.glob(pattern)) or [pattern])]
    runs = []
    for folder in dict.fromkeys(folders):
        try:
            runs.append(load_run(folder))
        except common.InputError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if not runs:
        raise common.InputError(f"there is no run to draw in {' '.join(args.runs)}")
    groups = group_runs(runs)
    names = ["exp_name", *(name for name in differing_flags(runs) if name != "exp_name")]
    flags = [[name.replace("_", "-"), [g["runs"][0]["flags"].get(name, "—") for g in groups]] for name in names]
    templates = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    template = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = {"groups": groups, "sections": charts(groups), "figures": final_figures(groups), "flags": flags}
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
    print(f"{args.output}: {len(runs)} runs, {shown} of {total} episodes, {size:.1f} MB")


matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"})

if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
