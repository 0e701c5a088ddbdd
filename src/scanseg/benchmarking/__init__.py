"""Timing that can be believed: contenders in turns, in one run, and only those whose results are right."""
