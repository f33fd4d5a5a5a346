"""One of the processes of several runs, one after the other: python processes.py JOBS, in the environment of torchrun.

JOBS is a file of rows: script, flags, port. Verdicts are drawn from the texts, so that everything learns; Adam's eps is
that of replay.py, so that a gradient of nothing but rounding error makes no step of full size.
"""

import importlib
import os
import sys
from pathlib import Path

import torch
from conftest import coins, read_jsonl
from replay import EPSILON

import common


class Adam(torch.optim.Adam):
    def __init__(self, params, **flags):
        super().__init__(params, **flags | {"eps": EPSILON})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.Adam, common.judge_all = Adam, coins
    for job in read_jsonl(Path(sys.argv[1])):
        os.environ["MASTER_PORT"] = str(job["port"])
        script = importlib.import_module(job["script"])
        pairs = [name for name, value in job["flags"].items() if isinstance(value, list)]
        script.main(script.Args(**job["flags"] | {name: tuple(job["flags"][name]) for name in pairs}))
