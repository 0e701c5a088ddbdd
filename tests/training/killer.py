"""Trains the same run again and again, killing it at random moments, until it is done.

Run as a script, with a JSON object on the command line; prints a JSON object. The packages are imported once;
each attempt is a fork of this process, which has no threads yet.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def main(
    plan: str, configuration: str, store: str, run: str, split: dict, recipe: str, kills: int, seed: int
):
    """Returns how often the training was killed, and when."""
    from scanseg.data.splits import Split
    from scanseg.nnunet.plan import Plan
    from scanseg.training.loop import train_network
    from scanseg.training.recipe import Recipe

    arguments = {
        "plan": Plan.load(Path(plan)),
        "configuration_name": configuration,
        "store_folder": Path(store),
        "split": Split(tuple(split["train"]), tuple(split["validation"])),
        "recipe": Recipe.load(recipe),
        "run_folder": Path(run),
        "device": "cpu",
        "threads": 1,
    }
    generator, killed = random.Random(seed), []
    while True:
        child = os.fork()
        if child == 0:
            try:
                train_network(**arguments)
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        wait_s = generator.uniform(0.05, 1.2)
        if len(killed) < kills:
            time.sleep(wait_s)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed.append(round(wait_s, 3))
            continue
        return {"kills": killed, "status": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(**json.loads(sys.argv[1]))))
