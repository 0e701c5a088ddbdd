"""`explain` on really trained, very small networks: pictures, numbers, scan orders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scanseg
from scanseg import pipeline
from scanseg.cli.app import app
from scanseg.data.image import read_channels
from scanseg.errors import DataError, UsageError
from scanseg.evaluation.maps import entropy_map, map_statistics
from scanseg.inference.reading import read_scans, reads_scans

SMALL = {"epochs": 1, "iterations_per_epoch": 1, "validation_iterations": 0, "batch_size": 2}


def _train(demo_data: Path, run: Path, network: str, task: str, patch: tuple[int, ...]) -> Path:
    pipeline.train(
        demo_data / task,
        run,
        changes={**SMALL, "network": network, "patch_size": patch},
        network_options={"base_features": 8},
        threads=1,
        tensorboard=False,
        validate=False,
    )
    return run


@pytest.fixture(scope="module")
def ud_run(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(demo_data, tmp_path_factory.mktemp("ud") / "run", "ud_mamba", "nuclei", (64, 64))


@pytest.fixture(scope="module")
def volume_run(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    return _train(demo_data, root / "run", "ud_mamba", "hippocampus", (32, 32, 32))


@pytest.fixture(scope="module")
def plain_run(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(demo_data, tmp_path_factory.mktemp("plain") / "run", "nnunet_plain", "nuclei", (64, 64))


@pytest.fixture(scope="module")
def picture(demo_data: Path) -> Path:
    return sorted((demo_data / "nuclei" / "imagesTs").glob("*.png"))[0]


def test_pictures_and_numbers_of_ud_mamba(ud_run: Path, picture: Path, tmp_path: Path) -> None:
    found = scanseg.explain(picture, ud_run, tmp_path, threads=1)
    document = json.loads((tmp_path / "explain.json").read_text())
    assert found.document == document
    for name in ("prediction.png", "entropy.png", "uncertainty.png", "order.png"):
        assert name in document["files"]
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    blocks = document["scans"]["blocks"]
    assert len(blocks) == 14  # two per stage of four, and of three in the decoder
    assert len(document["scans"]["alphas"]["by_block"]) == 14
    for block in blocks:
        down, up = (block["mean_place"][f"sequential_{way}"] for way in ("down", "up"))
        for place, mean in down.items():
            if mean is not None:
                assert up[place] == pytest.approx(1 - mean)
        assert 0 <= block["uncertainty"]["share_of_places"] <= 1


def test_entropy_is_that_of_the_prediction(plain_run: Path, picture: Path, tmp_path: Path) -> None:
    document = scanseg.explain(picture, plain_run, tmp_path, threads=1).document
    prediction = scanseg.load(plain_run, threads=1).predict(picture, probabilities=True)
    assert document["entropy"]["mean"] == pytest.approx(float(entropy_map(prediction.probabilities).mean()))
    assert "scans" not in document
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "entropy.png",
        "explain.json",
        "prediction.png",
    ]


def test_orders_are_permutations_sorted_by_uncertainty(ud_run: Path, picture: Path) -> None:
    model = scanseg.load(ud_run, threads=1)
    assert reads_scans(model)
    readings = read_scans(model, read_channels([picture]))
    network = model.first_network()[0]
    direct = network.read(torch.from_numpy(readings.window)[None])
    assert len(direct) == len(readings.blocks)
    for block, reading in zip(readings.blocks, direct, strict=True):
        length = block.uncertainty.size
        ranks = block.ranks.reshape(4, length)
        for scan in ranks:
            assert np.array_equal(np.sort(scan), np.arange(length))
        assert np.array_equal(ranks[0] + ranks[2], np.full(length, length - 1))
        assert np.array_equal(ranks[1] + ranks[3], np.full(length, length - 1))
        in_order = block.uncertainty.ravel()[np.argsort(ranks[0])]
        assert (np.diff(in_order) <= 0).all()
        assert block.uncertainty**2 == pytest.approx(reading.uncertainty[0].numpy(), rel=1e-4, abs=1e-9)
        border = np.ones(block.uncertainty.shape, bool)
        assert map_statistics(block.uncertainty, border)["concentration"] == pytest.approx(1)


def test_volumes_are_read_in_a_patch(volume_run: Path, demo_data: Path, tmp_path: Path) -> None:
    image = sorted((demo_data / "hippocampus" / "imagesTs").glob("*.nii.gz"))[0]
    document = scanseg.explain(image, volume_run, tmp_path, threads=1).document
    assert document["scans"]["window"] == [32, 32, 32]
    assert document["scans"]["blocks"][0]["tokens"] == [8, 8, 8]
    assert "uncertainty.png" in document["files"]
    assert "order.png" not in document["files"]


def test_what_the_training_learned_is_drawn(plain_run: Path, picture: Path, tmp_path: Path) -> None:
    run = shutil.copytree(plain_run, tmp_path / "run")
    lines = [
        {
            "epoch": n,
            "step": n,
            "alpha_sequential_down": 1 - n / 10,
            "alpha_skip_up": 1.0,
            "sigma_dice": 0.5 * n,
        }
        for n in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = scanseg.explain(picture, run, tmp_path / "out", threads=1).document
    assert document["training"]["alpha"]["sequential_down"] == {"first": 0.9, "last": pytest.approx(0.7)}
    assert document["training"]["sigma"] == {"dice": {"first": 0.5, "last": 1.5}}
    assert {"alphas.png", "sigmas.png"} <= set(document["files"])


def test_one_image_at_a_time(plain_run: Path, picture: Path, tmp_path: Path) -> None:
    second = sorted(picture.parent.glob("*.png"))[1]
    with pytest.raises(UsageError, match="One image is explained at a time, got 2"):
        scanseg.explain([picture, second], plain_run, tmp_path, threads=1)
    with pytest.raises(DataError, match="does not exist"):
        scanseg.explain(tmp_path / "absent.png", plain_run, tmp_path, threads=1)


def test_the_command_prints_one_document(plain_run: Path, picture: Path, tmp_path: Path) -> None:
    arguments = ["explain", picture, "-m", plain_run, "-o", tmp_path, "--json", "--threads", "1"]
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout) == json.loads((tmp_path / "explain.json").read_text())
