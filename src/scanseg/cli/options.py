"""Options that several verbs share, so that a word means the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Argument(
        help="Dataset: a folder (nnU-Net raw, MSD, or images/ and labels/), a CSV file, or a dataset.json.",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of images, when it is not found by itself.")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="Folder of label maps, when it is not found by itself.")
]
Layout = Annotated[str, typer.Option("--layout", help="auto, nnunet, msd, pairs or csv.")]
GeometryMismatch = Annotated[
    bool,
    typer.Option(
        "--allow-geometry-mismatch",
        help="Accept images and labels whose voxel grids agree but whose positions differ.",
    ),
]
Workspace = Annotated[
    Path | None,
    typer.Option("--workspace", help="Folder for prepared images. Default: .scanseg beside the run."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Processor threads. Default: all usable cores.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Extra processes that prepare data; 0 uses none.")
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; progress as JSON lines on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details, and tracebacks of errors.")]
SendSecret = Annotated[
    Path | None,
    typer.Option("--send-secret", help="File with the token, or name:password, of a DICOMweb service."),
]
