"""One function a verb: what the command line, the Python API and the server call."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanseg.pipeline.check import check
    from scanseg.pipeline.demo import demo
    from scanseg.pipeline.diagnose import diagnose
    from scanseg.pipeline.evaluate import evaluate
    from scanseg.pipeline.plan import plan
    from scanseg.pipeline.predict import predict
    from scanseg.pipeline.report import report
    from scanseg.pipeline.train import train

__all__ = ["check", "demo", "diagnose", "evaluate", "plan", "predict", "report", "train"]


def __getattr__(name: str) -> Any:
    """Imports a verb on first use: looking at data needs no torch."""
    if name in __all__:
        return getattr(import_module(f"scanseg.pipeline.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
