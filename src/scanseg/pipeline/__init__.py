"""One function a verb: what the command line, the Python API and the server call."""

from scanseg.pipeline.check import check
from scanseg.pipeline.demo import demo
from scanseg.pipeline.diagnose import diagnose
from scanseg.pipeline.evaluate import evaluate
from scanseg.pipeline.plan import plan
from scanseg.pipeline.predict import predict
from scanseg.pipeline.report import report
from scanseg.pipeline.train import train

__all__ = ["check", "demo", "diagnose", "evaluate", "plan", "predict", "report", "train"]
