"""Optimisers and learning-rate schedules, by name."""

from scanseg.optim.optimizers import OPTIMIZERS, create_optimizer, parameter_groups
from scanseg.optim.schedules import SCHEDULES, Schedule, create_schedule

__all__ = ["OPTIMIZERS", "SCHEDULES", "Schedule", "create_optimizer", "create_schedule", "parameter_groups"]
