"""Biomedical image segmentation with state-space (Mamba) networks, on any machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanseg.errors import Error
    from scanseg.inference import Model, Prediction, load
    from scanseg.networks import create_network, list_networks
    from scanseg.pipeline import check, compare, evaluate, explain, plan, predict, report, train

__version__ = "0.1.0"

_WHERE = {
    "Error": "scanseg.errors",
    "Model": "scanseg.inference",
    "Prediction": "scanseg.inference",
    "load": "scanseg.inference",
    "create_network": "scanseg.networks",
    "list_networks": "scanseg.networks",
    **dict.fromkeys(
        ("check", "plan", "train", "predict", "evaluate", "compare", "explain", "report"), "scanseg.pipeline"
    ),
}

__all__ = [
    "Error",
    "Model",
    "Prediction",
    "check",
    "compare",
    "create_network",
    "evaluate",
    "explain",
    "list_networks",
    "load",
    "plan",
    "predict",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that `import scanseg` stays light."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
