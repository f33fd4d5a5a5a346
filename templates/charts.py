"""The charts of report.py: one metric of all runs as a picture in the page."""

import base64
import io
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

# After Okabe and Ito, without their black, which a dark page swallows.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
STYLES = ("-", "--", ":", "-.")  # one for each round through the colours
MAX_POINTS = 300  # of one curve
CURVE_BYTES = 1_200_000  # about what all curves of a page may take; more curves have fewer points
FIRST_METRICS = ("eval/accuracy_1", "eval/accuracy_2", "eval/delta", "eval/fixed", "eval/broken", "rollout/reward")
FIRST_METRICS += ("eval/worst_group", "eval/minority", "eval/majority")
GLOSSARY = re.findall(
    r"^\| (.+?) \| (.+) \|$", (Path(__file__).parents[1] / "docs/metrics.md").read_text("utf-8"), re.M
)
MEANINGS = {name: text.replace("`", "") for names, text in GLOSSARY for name in re.findall(r"`(.+?)`", names)}
TITLES = {"rollout": "Rollouts", "losses": "Losses", "eval": "Held-out problems", "charts": "Time and speed"}


def held_out(runs: list[dict]) -> int | None:
    """Held-out problems, the same for each seed; None where a run was started before runs noted it."""
    counts = [run["config"].get("problems", {}).get("evaluation") for run in runs]
    return None if None in counts else min(counts)


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


def unit(metric: str) -> str:
    """What a chart's y axis counts."""
    units = {"kl_teacher": "nats a token", "entropy": "nats a token", "kl_": "nats an episode", "length": "tokens"}
    units |= {"tokens_per_second": "tokens a second", "seconds": "seconds", "memory": "GB", "learning_rate": "rate"}
    units |= {"grad_norm": "norm", "auc": "AUC", "reward": "mean reward", "trained_responses": "responses"}
    shares = ("accuracy", "fixed", "broken", "repeated", "truncated", "undecided", "format", "groups", "delta", "kept")
    units |= dict.fromkeys((*shares, "clipped", "explained_variance", "win_"), "share")
    units |= {"weight": "weight", "losses/": "loss"}
    return next((text for part, text in units.items() if part in metric), "")


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
            n = held_out(group["runs"])
            if metric.startswith("eval/accuracy") and len(group["runs"]) == 1 and n:  # of one seed, its standard error
                error = np.sqrt(mean * (1 - mean) / n)
                lowest, highest = mean - error, mean + error
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
    axes.set_ylabel(unit(metric), fontsize=8)
    if metric.endswith("/delta") or "/kl_" in metric:
        axes.axhline(0, color="#888888", linewidth=0.8)
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
            sections.setdefault(title, []).append({"metric": metric, "meaning": MEANINGS.get(metric, "")} | images)
    return [{"title": title, "charts": images} for title, images in sections.items() if images]
