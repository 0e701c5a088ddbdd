"""The selective scan: one operator, one kernel per device; and the causal convolution before it."""

from scanseg.kernels.causal_conv import causal_conv1d
from scanseg.kernels.op import selective_scan
from scanseg.kernels.ordered import ordered_scan

__all__ = ["causal_conv1d", "ordered_scan", "selective_scan"]
