"""Optional packages, imported where they are used and named clearly where they are missing."""

import importlib
import importlib.util
from types import ModuleType

from scanseg.errors import UsageError


def is_installed(module: str) -> bool:
    """Returns whether `module` can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports and returns an optional module.

    Raises:
        UsageError: It is not installed; the hint is the command that installs it.
    """
    if not is_installed(module):
        raise UsageError(
            f"{purpose} needs the package {module!r}, which is not installed.",
            code="E-EXTRA-MISSING",
            hint=f"Run: pip install 'scanseg[{extra}]'",
        )
    return importlib.import_module(module)
