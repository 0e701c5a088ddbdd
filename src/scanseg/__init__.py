"""Biomedical image segmentation with state-space (Mamba) networks, on any machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanseg.networks import create_network, list_networks

_WHERE = {
    "create_network": "scanseg.networks",
    "list_networks": "scanseg.networks",
}

__all__ = ["create_network", "list_networks"]


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that `import scanseg` stays light."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
