"""Makes steps with SAM and learned sigmas in one of two processes; prints a JSON object.

Run as a script: python two_processes.py RANK FILE_FOR_THE_RENDEZVOUS
"""

import faulthandler
import json
import math
import os
import sys
from datetime import timedelta

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from scanseg.losses import create_loss
from scanseg.optim import SAM, create_optimizer, parameter_groups
from scanseg.training.step import train_step


def main(rank: int, rendezvous: str) -> None:
    # Where it waits for ever, it says where, in time for the test to show it.
    faulthandler.dump_traceback_later(150, exit=True)
    # Else the host's name is looked up.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=90),
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    loss = create_loss("uncertainty_aware")
    exchanges = []

    def hook(state, bucket):
        exchanges.append(bucket.index())
        return allreduce_hook(None, bucket)

    parallel = DistributedDataParallel(network)
    parallel.register_comm_hook(None, hook)
    groups = parameter_groups(parallel, loss, weight_decay=1e-4)
    optimizer = create_optimizer("sgd", groups, learning_rate=0.01)
    parameters = {**dict(network.named_parameters()), **dict(loss.named_parameters())}
    steps = []
    for number in range(4):
        generator = torch.Generator().manual_seed(10 * number + rank)
        data = torch.randn(2, 1, 8, 8, generator=generator)
        target = torch.randint(0, 2, (2, 1, 8, 8), generator=generator)
        if number == 2 and rank == 1:
            data[0, 0, 0, 0] = math.inf
        before = {name: value.detach().clone() for name, value in parameters.items()}
        exchanges.clear()
        result = train_step(parallel, loss, optimizer, data, target, sam=SAM(0.05))
        moved = [name for name, value in parameters.items() if not torch.equal(value, before[name])]
        steps.append({"made": result.made, "exchanges": len(exchanges), "moved": moved})
    ends = {name: value.flatten().tolist() for name, value in parameters.items()}
    sys.stdout.write(json.dumps({"steps": steps, "ends": ends}))
    sys.stdout.flush()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
