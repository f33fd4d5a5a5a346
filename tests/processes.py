"""One of the processes of several runs, one after the other, in the environment that torchrun would give it.

Verdicts are drawn from the texts, so that everything learns; Adam's eps is that of replay.py, so that a gradient of
nothing but rounding error makes no step of full size.
"""

import importlib
import os
import sys

import torch
from conftest import coins
from replay import EPSILON

import common


class Adam(torch.optim.Adam):
    def __init__(self, params, **flags):
        super().__init__(params, **flags | {"eps": EPSILON})


def work(jobs: list[dict], environment: dict[str, str], log: str) -> None:
    """jobs: script, flags, port of each run."""
    sys.stdout = sys.stderr = open(log, "w", buffering=1)
    os.environ |= environment
    torch.set_num_threads(1)
    torch.optim.Adam, common.judge_all = Adam, coins
    for job in jobs:
        os.environ["MASTER_PORT"] = str(job["port"])
        script = importlib.import_module(job["script"])
        script.main(script.Args(**job["flags"]))
