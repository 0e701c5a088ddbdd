"""Keeps the interpreted tests for the process that `test_interpreted.py` starts."""

import os

# Triton has to be imported with this variable set, and other tests may have imported it before.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
