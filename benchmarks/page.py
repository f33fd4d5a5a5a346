"""How long the page of a long run takes to open, beside an empty page, and how large it is.

    python benchmarks/page.py

Makes a run folder with 1000 iterations of every metric of mlmt_rl.py and as many saved episodes as asked for, has
report.py draw it, and opens the page in headless Chromium. Seconds in the page are Chromium's own, from the start of
the navigation until the first episodes stand there; whole processes of the page and of an empty one take turns, and
medians are compared. Needs Chromium.
"""

import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "report.py"
METRICS = re.findall(r'"((?:rollout|losses)/\w+)"', (ROOT / "mlmt_rl.py").read_text(encoding="utf-8"))
METRICS += ["eval/accuracy_1", "eval/accuracy_2"]


@dataclass
class Args:
    episodes: int = 10_000
    """saved episodes of the run"""
    words: int = 60
    """words of each turn's text"""
    repeats: int = 5
    """openings of each page"""


def make_run(folder: Path, args: Args) -> None:
    """A run folder with random figures and texts."""
    rng = random.Random(0)
    iterations, problems = 1000, args.episodes // 20
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(1000)]
    folder.mkdir()
    flags = {"exp_name": "mlmt_rl", "seed": 1, "iterations": iterations}
    (folder / "config.json").write_text(json.dumps({"args": flags}))
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(iterations + 1):
            row = {name: rng.random() for name in METRICS} | {"iteration": i, "charts/episodes": 64 * i}
            file.write(json.dumps(row) + "\n")
    with (folder / "episodes.jsonl").open("w") as file:
        for i in range(args.episodes):
            turns = ("attempt", "feedback", "refinement")
            row = {name: " ".join(rng.choices(words, k=args.words)) for name in turns}
            row |= {"iteration": 50 * (i // problems), "phase": "eval", "id": f"problem {i % problems}", "answer": "5"}
            row |= {"question": f"question {i % problems} " * 10, "truncated": []}
            file.write(json.dumps(row | {"reward_1": rng.randrange(2), "reward_2": rng.randrange(2)}) + "\n")


def open_page(chromium: str, page: Path) -> tuple[float, str]:
    """Seconds of the whole process, and the document that it ends with."""
    start = time.perf_counter()
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{page}"]
    document = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return time.perf_counter() - start, document


def main(args: Args) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("error: Chromium is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_run(folder / "run", args)
        start = time.perf_counter()
        command = [sys.executable, REPORT, folder / "run", "--output", folder / "page.html"]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace(temporary, "").strip())
        print(f"written in {time.perf_counter() - start:.1f} s")
        page = (folder / "page.html").read_text(encoding="utf-8")
        timed = page.replace("</body>", "<script>document.title = performance.now()</script></body>")
        (folder / "page.html").write_text(timed, encoding="utf-8")
        (folder / "empty.html").write_text("<!doctype html><title>0</title><body></body>")
        seconds: dict[str, list[float]] = {"page": [], "empty": [], "in the page": []}
        for _ in range(args.repeats):
            for name in ("page", "empty"):
                whole, document = open_page(chromium, folder / f"{name}.html")
                seconds[name].append(whole)
                if name == "page":
                    title = document.split("<title>")[1].split("</title>")[0]
                    seconds["in the page"].append(float(title) / 1000)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(f"until the first episodes stand there: {medians['in the page']:.2f} s in the page")
        print(f"whole Chromium: {medians['page']:.2f} s, of an empty page {medians['empty']:.2f} s")
        print(f"ratio {medians['page'] / medians['empty']:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
