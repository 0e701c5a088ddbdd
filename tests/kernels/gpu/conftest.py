"""Keeps what needs a process of its own for `test_interpreted.py` and `test_compiles.py`, which start it."""

import os

collect_ignore = ["compile_kernels.py"]
# Triton has to be imported with this variable set, and other tests may have imported it before.
if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore.append("interpreted")
