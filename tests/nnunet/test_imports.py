"""What this package must not import, and who may import nnunetv2."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "scanseg"

EVERYTHING = """
import dataclasses, sys
from pathlib import Path
import torch
from scanseg.data.dataset import load_dataset
from scanseg.nnunet import bridge, fingerprint, plan, preprocess, windows, export
from scanseg.nnunet.batches import Batches, deep_supervision_scales
from scanseg.nnunet.cases import read_case
dataset = load_dataset(Path(sys.argv[1]))
dataset = dataclasses.replace(dataset, cases=dataset.cases[:2])
measured = fingerprint.make_fingerprint(dataset, orientation=None, voxels=1000)
made = plan.make_plan(dataset, measured, orientation=None, overrides={"patch_size": [64, 64]})
planned = made.configuration()
preprocess.preprocess_dataset(dataset, made, planned, Path(sys.argv[2]))
ids = [case.case_id for case in dataset.cases]
scales = deep_supervision_scales(planned)
Batches(Path(sys.argv[2]), ids, made, planned, seed=0, train=True, deep_supervision_scales=scales).batch(0)
image, _ = read_case(dataset.cases[0], dataset.labels, orientation=None)
case = preprocess.preprocess_case(image, None, made, planned)
network = torch.nn.Conv2d(1, 2, 1)
logits = windows.predict_logits(network, torch.from_numpy(case.data), planned, device="cpu")
export.logits_to_label_map(logits, case.properties, made, planned)
bridge.stock_plans(made)
print(sorted({"timm", "torchvision", "lightning"} & set(sys.modules)))
"""


def run(*arguments: str) -> str:
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_timm_and_torchvision_are_never_imported(demo_data: Path, tmp_path: Path) -> None:
    """They do not import beside PyTorch's CPU build."""
    assert run(EVERYTHING, str(demo_data / "nuclei"), str(tmp_path / "store")) == "[]"


def test_a_plan_is_read_without_torch_or_nnunetv2() -> None:
    code = "import sys; import scanseg.nnunet.plan; print(sorted({'torch', 'nnunetv2'} & set(sys.modules)))"
    assert run(code) == "[]"


def test_nnunetv2_is_imported_nowhere_else() -> None:
    pattern = re.compile(r"^\s*(from|import) (nnunetv2|batchgenerators|batchgeneratorsv2|acvl_utils)\b", re.M)
    importers = {path.parent.name for path in SOURCE.rglob("*.py") if pattern.search(path.read_text())}
    assert importers == {"nnunet"}
