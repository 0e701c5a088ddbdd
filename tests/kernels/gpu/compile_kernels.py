"""Compiles every GPU kernel, for a GPU that need not be there, and prints JSON: name, layouts, spills.

Run in a process of its own, because it puts another driver in Triton's place. Nothing is executed.
"""

import json
import re
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from scanseg.kernels.arguments import Arguments
from scanseg.kernels.gpu import causal_conv, launch

found = []


class AbsentGpu:
    """What Triton asks a driver before it compiles."""

    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def _compile_instead(self, grid):
    def compile_only(*arguments, **options):
        asm = self.run(*arguments, grid=grid, warmup=True, **options).asm
        layouts = re.findall(r"tt\.load .*tensor<16x\d+x!tt\.ptr<\w+>, (#\w+)>", asm["ttgir"])
        blocked = dict(re.findall(r"^(#\w+) = #ttg\.blocked<\{(.*)\}>$", asm["ttgir"], re.M))
        found.append(
            {
                "name": self.fn.__name__,
                "tiles": sorted({blocked[name] for name in layouts}),
                "binary": len(asm["cubin"]),
                "block": options.get("BLOCK"),
            }
        )

    return compile_only


def _sequence(dim, length, layout, dtype):
    tensor = (
        torch.zeros(1, length, dim, dtype=dtype)
        if layout == "last"
        else torch.zeros(1, dim, length, dtype=dtype)
    )
    return tensor.mT if layout == "last" else tensor


def _scans(layout, dtype):
    u, B = _sequence(64, 4096, layout, dtype), _sequence(4, 4096, layout, dtype)[:, None]
    parameter = torch.zeros(64)
    given = Arguments(u, u, torch.zeros(64, 4), B, B, parameter, u, parameter, True)
    launch.forward(given, torch.empty_like(u), torch.empty(1, 256, 4, 64))
    launch.backward(given, u, torch.empty(1, 256, 4, 64))
    plain = given._replace(z=None, D=None, delta_bias=None, delta_softplus=False)
    launch.forward(plain._replace(order=torch.arange(4096)[None]), torch.empty_like(u), torch.empty(0))
    # Triton takes an argument of 1 for a constant.
    one = torch.ones(1, 1, 1)
    given = Arguments(one, one, one[0], one, one, None, one, None, True)
    launch.forward(given, one.clone(), one[None])
    launch.backward(given, one, one[None])
    weight = torch.zeros(64, 4)
    causal_conv.forward(u, weight, parameter, silu=True)
    causal_conv.backward(u, u, weight, parameter, silu=True)


driver.set_active(AbsentGpu())
JITFunction.__getitem__ = _compile_instead
_scans(sys.argv[2], getattr(torch, sys.argv[3]))
sys.stdout.write(json.dumps(found))
