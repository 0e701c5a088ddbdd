"""The verb `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanseg.files import write_json
from scanseg.nnunet.plan import Plan, make_plan
from scanseg.pipeline.workspace import open_workspace, safe_name
from scanseg.progress import Report, silent


def plan(
    data: Path | str,
    *,
    output: Path | str | None = None,
    network: str = "umamba_bot",
    memory_gb: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    layout: str = "auto",
    allow_geometry_mismatch: bool = False,
    workspace: Path | str | None = None,
    report: Report = silent,
) -> tuple[Plan, Path]:
    """Measures a dataset, plans its training with nnU-Net's rules and writes plan.json and fingerprint.json.

    Args:
        data: Dataset folder, CSV file or dataset.json.
        output: Folder to write to; `NAME_plan` in the current folder by default.
        network: The network whose memory is estimated.
        memory_gb: GiB that one training step may use.
        overrides: `batch_size`, `patch_size` or `spacing` instead of the planned ones.
        images: As in `check`; so are `labels`, `layout`, `allow_geometry_mismatch` and `report`.
        workspace: Folder for results that runs share; `.scanseg` in the parent of `output` by default.

    Returns:
        The plan and the folder it was written to.

    Raises:
        DatasetError: The check refuses the data.
        UsageError: An override cannot work.
    """
    parent = Path(workspace) if workspace else (Path(output).parent if output else Path()) / ".scanseg"
    work = open_workspace(
        Path(data),
        parent,
        images=images,
        labels=labels,
        layout=layout,
        allow_geometry_mismatch=allow_geometry_mismatch,
        report=report,
    )
    made = make_plan(
        work.dataset,
        work.fingerprint,
        orientation=work.orientation,
        network=network,
        memory_gb=memory_gb,
        overrides=dict(overrides or {}),
    )
    folder = Path(output) if output else Path(f"{safe_name(work.dataset.name)}_plan")
    made.save(folder / "plan.json")
    write_json(folder / "fingerprint.json", work.fingerprint)
    return made, folder
