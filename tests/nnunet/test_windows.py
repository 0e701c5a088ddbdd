"""The sliding window against nnU-Net's own predictor."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scanseg.errors import Error, ModelError, UsageError
from scanseg.nnunet.cases import read_case
from scanseg.nnunet.plan import Configuration
from scanseg.nnunet.preprocess import preprocess_case
from scanseg.nnunet.windows import _windows, count_windows, predict_logits
from scanseg.progress import Progress

from .conftest import Prepared


def network(dims: int, classes: int = 3, seed: int = 0) -> nn.Module:
    """A small random network whose output depends on place and orientation."""
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    torch.manual_seed(seed)
    return nn.Sequential(
        convolution(1, 6, 5, padding=2), nn.LeakyReLU(), convolution(6, classes, 3, padding=1)
    ).eval()


def predictor(prepared: Prepared, configuration: Configuration, module: nn.Module, **arguments: Any) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from scanseg.nnunet.stock import managers

    plans, chosen, description = managers(prepared.plan, configuration)
    chosen.configuration["patch_size"] = list(configuration.patch_size)
    made = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, **arguments
    )
    axes = tuple(range(configuration.spatial_dims))
    made.manual_initialization(module, plans, chosen, [module.state_dict()], description, "none", axes)
    return made


def smaller(configuration: Configuration, patch: tuple[int, ...]) -> Configuration:
    return configuration.model_copy(update={"patch_size": patch})


CASES = [
    ("hippocampus", "3d_fullres", (24, 32, 24)),
    ("hippocampus", "3d_fullres", (40, 56, 48)),
    ("sagittal", "3d_fullres", (8, 20, 28)),
    ("sagittal", "2d", (20, 28)),
    ("nuclei", "2d", (96, 128)),
]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("name", "configuration", "patch"), CASES)
def test_equals_stock_predictor(
    name: str, configuration: str, patch: tuple[int, ...], mirror: bool, request: pytest.FixtureRequest
) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    planned = smaller(prepared.plan.configurations[configuration], patch)
    image, _ = read_case(prepared.dataset.cases[1], prepared.dataset.labels, orientation=None)
    data = torch.from_numpy(preprocess_case(image, None, prepared.plan, configuration).data)
    module = network(planned.spatial_dims, prepared.plan.out_channels)
    theirs = predictor(prepared, planned, module, use_mirroring=mirror).predict_sliding_window_return_logits(
        data
    )
    equal = predict_logits(module, data, planned, device="cpu", mirror=mirror, dtype=torch.float16)
    assert torch.equal(equal, theirs)
    ours = predict_logits(module, data, planned, device="cpu", mirror=mirror)
    assert ours.dtype == torch.float32
    # nnU-Net's half-precision sums are rough where only the corner of a tile reaches.
    assert torch.quantile((ours - theirs).abs().flatten()[::7], 0.95) < 5e-3
    assert (ours.argmax(0) == theirs.argmax(0)).float().mean() > 0.99


def test_windows_are_those_of_stock(hippocampus: Prepared) -> None:
    for shape, patch in (((30, 41, 52), (16, 24, 16)), ((7, 41, 52), (24, 16)), ((16, 24, 16), (16, 24, 16))):
        planned = smaller(hippocampus.plan.configuration(), patch)
        theirs = predictor(hippocampus, planned.model_copy(update={"spatial_dims": len(patch)}), network(2))
        assert list(_windows(shape, patch, 0.5)) == theirs._internal_get_sliding_window_slicers(shape)
        assert count_windows(shape, planned) == len(list(_windows(shape, patch, 0.5)))


def test_a_pointwise_network_is_not_changed_by_windows(hippocampus: Prepared) -> None:
    """Averaging equal values gives the value, whatever the tiles and weights."""
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    data = torch.randn(1, 19, 57, 33, generator=torch.Generator().manual_seed(0))
    for mirror in (False, True):
        found = predict_logits(
            lambda x: torch.cat([x, 2 * x, -x], 1),  # type: ignore[arg-type]
            data,
            planned,
            device="cpu",
            mirror=mirror,
            step_size=0.3,
        )
        torch.testing.assert_close(found, torch.cat([data, 2 * data, -data]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 3), (5, 1, 90), (40, 56, 40), (41, 57, 41)])
def test_any_shape_comes_back(hippocampus: Prepared, shape: tuple[int, ...]) -> None:
    data = torch.zeros(1, *shape)
    for name in ("3d_fullres", "2d"):
        planned = hippocampus.plan.configurations[name]
        found = predict_logits(network(planned.spatial_dims, 2), data, planned, device="cpu")
        assert found.shape == (2, *shape)


def test_deep_supervision_output_gives_its_finest(hippocampus: Prepared) -> None:
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    data, module = torch.rand(1, 16, 24, 16), network(3)
    found = predict_logits(lambda x: [module(x), "coarser"], data, planned, device="cpu")  # type: ignore[arg-type]
    assert torch.equal(found, predict_logits(module, data, planned, device="cpu"))


def test_mirror_axes_are_respected(hippocampus: Prepared) -> None:
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    data, module = torch.rand(1, 16, 24, 16, generator=torch.Generator().manual_seed(0)), network(3)
    found = predict_logits(module, data, planned, device="cpu", mirror=True, mirror_axes=(2,))
    with torch.no_grad():
        expected = (module(data[None]) + module(data[None].flip(4)).flip(4)) / 2
    torch.testing.assert_close(found, expected[0], rtol=1e-5, atol=1e-5)


def test_bf16_is_close(hippocampus: Prepared) -> None:
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    data, module = torch.rand(1, 20, 24, 16, generator=torch.Generator().manual_seed(0)), network(3)
    exact = predict_logits(module, data, planned, device="cpu")
    rough = predict_logits(module, data, planned, device="cpu", precision="bf16")
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0, atol=0.03)


def test_equal_bits_twice_and_progress(hippocampus: Prepared) -> None:
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    data, module = torch.rand(1, 30, 40, 30), network(3)
    seen: list[Progress] = []
    first = predict_logits(module, data, planned, device="cpu", report=seen.append)
    assert torch.equal(first, predict_logits(module, data, planned, device="cpu"))
    assert [step.done for step in seen] == list(range(1, seen[0].total + 1))
    assert seen[0].total == count_windows((30, 40, 30), planned)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_nonfinite_output_is_never_a_mask(hippocampus: Prepared, poison: float) -> None:
    """One poisoned weight, as after a failed training."""
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    module = network(3)
    with torch.no_grad():
        module[2].bias[1] = poison
    with pytest.raises(ModelError) as caught:
        predict_logits(module, torch.rand(1, 16, 30, 16), planned, device="cpu")
    assert caught.value.code == "E-MODEL-NONFINITE"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"step_size": 0.0}, "E-PREDICT-STEP"),
        ({"step_size": 1.5}, "E-PREDICT-STEP"),
        ({"mirror": True, "mirror_axes": (3,)}, "E-PREDICT-MIRROR"),
        ({"mirror": True, "mirror_axes": (0, 0)}, "E-PREDICT-MIRROR"),
        ({"precision": "fp16"}, "E-PREDICT-PRECISION"),
    ],
)
def test_wrong_arguments(hippocampus: Prepared, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        predict_logits(
            network(3), torch.zeros(1, 8, 8, 8), hippocampus.plan.configuration(), device="cpu", **arguments
        )
    assert caught.value.code == code


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(
    ("name", "patch", "shape"),
    [
        ("3d_fullres", (16, 24, 16), (33, 25, 17)),
        ("3d_fullres", (16, 24, 16), (5, 40, 3)),
        ("3d_fullres", (16, 24, 16), (1, 1, 1)),
        ("2d", (24, 16), (5, 41, 33)),
        ("2d", (24, 16), (3, 9, 40)),
    ],
)
def test_sums_in_a_file_have_equal_bits(
    hippocampus: Prepared, tmp_path: Path, name: str, patch: tuple[int, ...], shape: Any, mirror: bool
) -> None:
    """Against the sums in memory, which are those the stock predictor's test compares."""
    planned = smaller(hippocampus.plan.configurations[name], patch)
    data = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    module = network(planned.spatial_dims, 5)
    for dtype in (torch.float32, torch.float16):
        arguments: dict[str, Any] = {"device": "cpu", "mirror": mirror, "dtype": dtype}
        kept = predict_logits(module, data, planned, **arguments)
        filed = predict_logits(module, data, planned, memory_bytes=0, folder=tmp_path, **arguments)
        assert is_mapped(tmp_path)
        assert filed.dtype == kept.dtype
        assert torch.equal(filed, kept)
        # What an ensemble does with them.
        assert torch.equal(filed.add_(filed).div_(3), kept.add_(kept).div_(3))
    assert list(tmp_path.iterdir()) == []
    del filed
    gc.collect()
    assert not is_mapped(tmp_path)


def is_mapped(folder: Path) -> bool:
    """Whether this process holds a file in `folder` open through a memory map."""
    return str(folder) in Path("/proc/self/maps").read_text() if sys.platform == "linux" else True


def test_the_limit_counts_bytes_of_the_sums(hippocampus: Prepared, tmp_path: Path) -> None:
    planned = smaller(hippocampus.plan.configuration(), (16, 24, 16))
    data, size = torch.rand(1, 20, 24, 16), 3 * 20 * 24 * 16 * 4
    found = predict_logits(network(3), data, planned, device="cpu", memory_bytes=size, folder=tmp_path / "no")
    assert found.shape == (3, 20, 24, 16)
    with pytest.raises(Error) as caught:
        predict_logits(network(3), data, planned, device="cpu", memory_bytes=size - 1, folder=tmp_path / "no")
    assert caught.value.code == "E-PREDICT-FOLDER"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_goes_after_an_error(hippocampus: Prepared, tmp_path: Path) -> None:
    planned, module = smaller(hippocampus.plan.configuration(), (16, 24, 16)), network(3)
    with torch.no_grad():
        module[2].bias[1] = math.nan
    arguments: dict[str, Any] = {"device": "cpu", "memory_bytes": 0, "folder": tmp_path}
    seen: list[bool] = []
    with pytest.raises(ModelError):
        predict_logits(
            module,
            torch.rand(1, 16, 30, 16),
            planned,
            report=lambda _: seen.append(is_mapped(tmp_path)),
            **arguments,
        )
    gc.collect()
    assert seen == [True, True]
    assert not is_mapped(tmp_path)
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import gc, json, sys, threading, time
from pathlib import Path
import torch
from scanseg.nnunet.export import logits_to_label_map
from scanseg.nnunet.plan import Plan
from scanseg.nnunet.windows import predict_logits

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if "kB" in line}
    return found["RssAnon"], found["VmRSS"]

def peak(work):
    gc.collect()
    start, most, done = resident(), [0.0, 0.0], threading.Event()
    def watch():
        while not done.wait(0.01):
            most[:] = map(max, most, resident())
    thread = threading.Thread(target=watch)
    thread.start()
    result = work()
    done.set()
    thread.join()
    return result, [round(high - low) for high, low in zip(most, start)]

torch.set_num_threads(1)
plan, classes, limit, shape = Plan.load(Path(sys.argv[1])), 16, int(sys.argv[3]), (64, 320, 320)
planned = plan.configurations["3d_fullres"].model_copy(update={"patch_size": (16, 80, 80)})
network = torch.nn.Conv3d(1, classes, 1).requires_grad_(False)
def predict(data):
    return predict_logits(network, data, planned, device="cpu", step_size=1.0, memory_bytes=limit,
        folder=sys.argv[2])
def export(logits):
    edges = [[0, size] for size in logits.shape[1:]]
    properties = {"spacing": [1.0] * 3, "shape_before_cropping": list(logits.shape[1:]),
        "bbox_used_for_cropping": edges, "shape_after_cropping_and_before_resampling": list(logits.shape[1:])}
    return logits_to_label_map(logits, properties, plan, "3d_fullres")[0]
export(predict(torch.zeros(1, 16, 80, 80)))
data = torch.arange(shape[0] * shape[1] * shape[2], dtype=torch.float32).reshape(1, *shape) % 997
logits, predicting = peak(lambda: predict(data))
label_map, exporting = peak(lambda: export(logits))
print(json.dumps({"sums": logits.numel() * 4 // 2**20, "predict": predicting, "export": exporting,
    "label_map": int(label_map.sum())}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(300)
def test_memory_is_bounded(hippocampus: Prepared, tmp_path: Path) -> None:
    """16 classes of 64 x 320 x 320: 400 MB of sums, of which little is resident at a time."""
    hippocampus.plan.save(tmp_path / "plan.json")
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "plan.json"), str(tmp_path / "temporary"), "0"]
    # Otherwise the C library keeps up to ten freed windows for later, more or fewer from run to run.
    returned = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    child = subprocess.run(command, capture_output=True, text=True, check=True, env=returned)
    found = json.loads(child.stdout)
    assert found["sums"] == 400
    # Beside a window, the sum of weights and the label map (25 and 6 MB) do not depend on the classes.
    for stage in ("predict", "export"):
        anonymous_mb, resident_mb = found[stage]
        assert anonymous_mb < 60, found
        assert resident_mb < 250, found
    assert list((tmp_path / "temporary").iterdir()) == []
