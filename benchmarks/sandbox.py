"""How many programs a second get a verdict: the sandbox beside the plain way, a subprocess without isolation.

    python benchmarks/sandbox.py --dataset ../shared/data/mbpp/mbpp.jsonl

The programs are the reference solutions of a code data set. Both ways judge the same ones on all cores, in turns; the
medians over the rounds are printed. The peer runs program and asserts in `python -c` and believes the exit status,
which `sys.exit(0)` in a program is enough to fake.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root, where common.py stands
import common
from verifiers.sandbox import cores


@dataclass
class Args:
    dataset: str = "functions"
    """a code data set with reference solutions"""
    programs: int = 200
    """programs of a round"""
    rounds: int = 3
    """rounds of each way"""


def peer(problem: common.Problem) -> bool:
    program = "\n".join([problem.solution, problem.setup_code, *problem.tests])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=10).returncode == 0


def sandboxed(problem: common.Problem) -> bool:
    return common.verify(f"```python\n{problem.solution}\n```", problem) == 1.0


def main(args: Args) -> None:
    problems = common.load_problems(args.dataset, limit=args.programs)
    print(f"{len(problems)} programs of {args.dataset}, {cores()} cores, {common.start_sandbox()}")
    seconds = {"sandbox": [], "subprocess": []}
    for _ in range(args.rounds):
        for name, judge in (("sandbox", sandboxed), ("subprocess", peer)):
            start = time.perf_counter()
            with ThreadPoolExecutor(cores()) as pool:
                passed = sum(pool.map(judge, problems))
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name}: {passed} passed, {len(problems) / seconds[name][-1]:.0f} programs a second")
    sandbox, plain = median(seconds["sandbox"]), median(seconds["subprocess"])
    print(f"medians: sandbox {len(problems) / sandbox:.0f}, subprocess {len(problems) / plain:.0f} programs a second")
    print(f"ratio of times, sandbox to subprocess: {sandbox / plain:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
