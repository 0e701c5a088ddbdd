"""Trains a run again and again, killing it at random moments until it is done; then the next run.

Run as a script, with a JSON object on the command line; prints a JSON object. The packages are imported once;
each attempt is a fork of this process, which has no threads.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def attempt(arguments: dict, wait_s: float | None) -> int:
    """Trains in a fork, killed after `wait_s`; returns its exit code, minus the signal if it was killed."""
    from scanseg.training.loop import train_network

    child = os.fork()
    if child == 0:
        try:
            train_network(**arguments)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    if wait_s is not None:
        time.sleep(wait_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def warm_up(arguments: dict) -> None:
    """Imports everything once, for all forks; without a backward pass, after which torch cannot fork."""
    import torch

    from scanseg.training.assemble import assemble
    from scanseg.training.task import Task

    plan, name = arguments["plan"], arguments["configuration_name"]
    task = Task(
        plan, plan.configuration(name), *(arguments[key] for key in ("store_folder", "split", "recipe"))
    )
    assemble(task, torch.device("cpu")).train.batch(0)


def main(
    *, plan: str, configuration: str, store: str, folder: str, split: dict, recipe: str, kills: int, seed: int
):
    """Trains `run0` undisturbed, then further runs under fire until there were `kills` kills."""
    from scanseg.data.splits import Split
    from scanseg.nnunet.plan import Plan
    from scanseg.training.recipe import Recipe

    arguments = {
        "plan": Plan.load(Path(plan)),
        "configuration_name": configuration,
        "store_folder": Path(store),
        "split": Split(tuple(split["train"]), tuple(split["validation"])),
        "recipe": Recipe.load(recipe),
        "device": "cpu",
        "threads": 1,
    }
    warm_up(arguments)
    generator = random.Random(seed)
    started_s = time.monotonic()
    codes = [[attempt({**arguments, "run_folder": Path(folder) / "run0"}, None)]]
    whole_s = time.monotonic() - started_s
    while sum(code == -signal.SIGKILL for run in codes for code in run) < kills:
        run: list[int] = []
        target = Path(folder) / f"run{len(codes)}"
        while not run or run[-1] == -signal.SIGKILL:
            # Each attempt gets more time, so that a machine that has become slow still finishes.
            wait_s = generator.uniform(0.02, 0.6) * whole_s * (1 + 0.25 * len(run))
            run.append(attempt({**arguments, "run_folder": target}, wait_s))
        codes.append(run)
    return codes


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(**json.loads(sys.argv[1]))))
