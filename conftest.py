"""Keeps pytest from importing modules whose packages do not exist for this system."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["src/scanseg/kernels/gpu"]
