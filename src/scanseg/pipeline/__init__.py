"""One function a verb: what the command line, the Python API and the server call."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanseg.pipeline.benchmarking import bench_growth, bench_network, bench_scan
    from scanseg.pipeline.checking import check
    from scanseg.pipeline.comparing import compare
    from scanseg.pipeline.demonstration import demo
    from scanseg.pipeline.diagnosis import diagnose
    from scanseg.pipeline.evaluating import evaluate
    from scanseg.pipeline.explaining import explain
    from scanseg.pipeline.planning import plan
    from scanseg.pipeline.predicting import predict
    from scanseg.pipeline.reporting import report, report_pdf
    from scanseg.pipeline.training import train

_WHERE = {
    "bench_growth": "benchmarking",
    "bench_network": "benchmarking",
    "bench_scan": "benchmarking",
    "check": "checking",
    "compare": "comparing",
    "demo": "demonstration",
    "diagnose": "diagnosis",
    "evaluate": "evaluating",
    "explain": "explaining",
    "plan": "planning",
    "predict": "predicting",
    "report": "reporting",
    "report_pdf": "reporting",
    "train": "training",
}

__all__ = [
    "bench_growth",
    "bench_network",
    "bench_scan",
    "check",
    "compare",
    "demo",
    "diagnose",
    "evaluate",
    "explain",
    "plan",
    "predict",
    "report",
    "report_pdf",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a verb on first use: looking at data needs no torch."""
    if name in _WHERE:
        return getattr(import_module(f"scanseg.pipeline.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
