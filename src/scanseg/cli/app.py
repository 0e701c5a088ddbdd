"""The `scanseg` command: verbs, exit codes, and how errors are shown.

Exit codes: 0 done; 1 failed while running; 2 wrong usage; 3 data refused by a check; 4 finished, but some
cases failed; 130 interrupted (state saved).
"""

import gc
import os
import sys
from typing import Annotated

import typer

from scanseg.cli.bench import bench
from scanseg.cli.compare import compare
from scanseg.cli.dataset import dataset
from scanseg.cli.demo import demo
from scanseg.cli.dicom import dicom
from scanseg.cli.doctor import doctor
from scanseg.cli.evaluate import evaluate
from scanseg.cli.explain import explain
from scanseg.cli.failures import INTERRUPTED, shows_errors
from scanseg.cli.networks import networks
from scanseg.cli.plan import plan
from scanseg.cli.predict import predict
from scanseg.cli.report import report
from scanseg.cli.serve import serve
from scanseg.cli.train import train

app = typer.Typer(
    name="scanseg",
    help="Segment biomedical images with state-space (Mamba) networks, on any machine.",
    epilog="Research software. Not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help as plain text: drawing its boxes takes as long as all else that --help does.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(requested: bool) -> None:
    if requested:
        from scanseg import __version__

        typer.echo(f"scanseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Segment biomedical images with state-space (Mamba) networks, on any machine."""
    from scanseg.allocator import keep_freed_memory

    gc.enable()
    keep_freed_memory()


app.add_typer(dataset, name="dataset")
app.add_typer(networks, name="networks")
app.add_typer(bench, name="bench")
app.add_typer(dicom, name="dicom")
for _verb in (demo, train, predict, evaluate, compare, explain, plan, report, serve, doctor):
    app.command(name=_verb.__name__)(shows_errors(_verb))


def main() -> None:
    """Runs the command line and exits."""
    # Threads that wait by spinning make torch many times slower while another program uses the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors in huge pages: the system clears and maps 2 MiB at a time instead of 4 KiB, on which a
    # convolution of a 3D patch otherwise spends a quarter of its time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Until a verb begins, and for --help, there is nothing to collect.
    gc.disable()
    try:
        app(prog_name="scanseg")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
