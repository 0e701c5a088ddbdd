"""The selective scan: one operator, one kernel per device."""

from scanseg.kernels.op import selective_scan

__all__ = ["selective_scan"]
