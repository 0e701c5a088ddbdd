"""Optimisers and learning-rate schedules, by name, and sharpness-aware minimisation over any of them."""

from scanseg.optim.optimizers import OPTIMIZERS, create_optimizer, parameter_groups
from scanseg.optim.sam import SAM
from scanseg.optim.schedules import SCHEDULES, Schedule, create_schedule

__all__ = [
    "OPTIMIZERS",
    "SAM",
    "SCHEDULES",
    "Schedule",
    "create_optimizer",
    "create_schedule",
    "parameter_groups",
]
