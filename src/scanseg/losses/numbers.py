"""Numbers and flags that a person passes to a loss."""

import math

from scanseg.errors import UsageError


def require_number(option: str, value: object, *, low: float = 0.0, below: float = math.inf) -> None:
    """Refuses a value that is not a number in [low, below).

    Raises:
        UsageError: It is something else; names the option.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value < below:  # type: ignore[operator]
        raise UsageError(
            f"The loss's {option} must be a number from {low:g} to below {below:g}, got {value!r}.",
            code="E-LOSS-VALUE",
        )


def require_flags(**options: object) -> None:
    """Refuses values other than True and False.

    Raises:
        UsageError: One is something else; names the option.
    """
    for option, value in options.items():
        if not isinstance(value, bool):
            raise UsageError(
                f"The loss's {option} must be true or false, got {value!r}.", code="E-LOSS-VALUE"
            )
