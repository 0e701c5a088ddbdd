"""The script behind the page of results: what it would train; its page follows from its documents."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from scanseg.data.dataset import load_dataset
from scanseg.data.image import read_label_map, write_label_map
from scanseg.errors import UsageError
from scanseg.evaluation import evaluate_pairs
from scanseg.evaluation.pairing import Pair
from scanseg.networks import NETWORKS, count_parameters, create_network

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "networks"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield _loaded()


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "networks_results", ROOT / "benchmarks" / "networks_results.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_network_has_its_turn(script: ModuleType, spatial_dims: int) -> None:
    found = {contender.name: contender for contender in script.contenders(spatial_dims)}
    expected = {name for name, entry in NETWORKS.items() if spatial_dims in entry.spatial_dims}
    assert set(found) == expected | {"uu_mamba"}
    assert next(iter(found)) == script.BASELINE
    assert all(len(found[name].seeds) == 3 for name in script.SEVERAL_SEEDS if name in found)
    assert len(found["nnunet_resenc"].seeds) == 1
    assert found["uu_mamba"].network == "umamba_enc"
    assert found["uu_mamba"].changes["sam_rho"] == 0.05
    assert found["uu_mamba"].changes["loss"] == "uncertainty_aware"


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_reduced_networks_can_be_built_and_are_small(script: ModuleType, name: str) -> None:
    for task in script.TASKS:
        dims = len(task.patch_size)
        for contender in script.contenders(dims, names=[name]):
            assert contender.name in script.WIDTHS, f"choose a reduced width for {name}"
            with torch.device("meta"):
                network = create_network(
                    name,
                    spatial_dims=dims,
                    in_channels=1,
                    out_channels=3,
                    patch_size=task.patch_size,
                    **contender.options,
                )
            assert count_parameters(network) < 20e6


def test_recipes_differ_in_the_network_and_the_seed_only(script: ModuleType) -> None:
    task = script.TASKS[1]
    rows = {contender.name: contender for contender in script.contenders(3)}
    plain = script.make_recipe(task, rows["nnunet_plain"], seed=0, steps=120)
    bot = script.make_recipe(task, rows["umamba_bot"], seed=2, steps=120)
    ours, theirs = plain.model_dump(), bot.model_dump()
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"network", "seed"}
    assert (plain.epochs, plain.iterations_per_epoch) == (2, 50)
    uu = script.make_recipe(task, rows["uu_mamba"], seed=0, steps=120).model_dump()
    differing = {key for key in ours if ours[key] != uu[key]}
    assert differing == {"network", "loss", "loss_options", "sam_rho"}


def test_first_seeds_come_first_and_nothing_is_trained(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--networks",
        "umamba_bot,nnunet_resenc",
        "--seeds",
        "2",
        "--output",
        str(tmp_path),
        "--dry-run",
    ]
    assert script.main(options) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    order = [line.split("] ")[1] for line in lines]
    assert order == [
        "2d nnunet_resenc seed 0: to do",
        "2d umamba_bot seed 0: to do",
        "3d nnunet_resenc seed 0: to do",
        "3d umamba_bot seed 0: to do",
        "2d umamba_bot seed 1: to do",
        "3d umamba_bot seed 1: to do",
    ]
    assert {path.name for path in tmp_path.glob("*/*")} == {"recipes"}
    with pytest.raises(UsageError, match="umamba_bat"):
        script.main(["--networks", "umamba_bat", "--output", str(tmp_path), "--dry-run"])


def test_the_page_comes_from_finished_runs(script: ModuleType, demo_data: Path, tmp_path: Path) -> None:
    settings = {"data": tmp_path, "output": tmp_path, "steps": 50, "seeds": 2, "threads": 1}
    todo = list(script.jobs(script.TASKS[1:], names=["nnunet_plain", "umamba_bot"], **settings))
    dataset = load_dataset(demo_data / "hippocampus")
    for shift, job in enumerate(todo[:3]):
        _pretend(job.run, dataset, shift)
    todo[0].pace.mkdir(parents=True)
    (todo[0].pace / "run.json").write_text('{"threads": 2}')
    (todo[0].pace / "metrics.jsonl").write_text(
        "".join(
            f'{{"epoch": {epoch}, "step": {8 * epoch}, "seconds": {seconds}}}\n'
            for epoch, seconds in enumerate((80.0, 4.0, 6.0), start=1)
        )
    )
    assert [job.timed for job in todo] == [True, False, True, False]
    document = script.summarise(script.TASKS[1], todo, {"3d umamba_bot seed 1": "stopped"}, steps=50)
    assert document["comparison"]["contenders"] == ["nnunet_plain", "umamba_bot"]
    assert document["comparison"]["baseline"] == "nnunet_plain"
    script.write_pages({"3d": document}, tmp_path / "pages")
    page = (tmp_path / "pages" / "results.md").read_text()
    written = json.loads((tmp_path / "pages" / "results_3d.json").read_text())
    assert script.results_page({"3d": written}) == page
    assert "- stopped: umamba_bot seed 1\n" in page
    costs = {name: facts["costs"] for name, facts in document["comparison"]["runs"].items()}
    assert [costs[name]["seconds_per_step"] for name in ("nnunet_plain", "umamba_bot")] == [0.625, None]
    assert "with 2 threads that had the machine for themselves" in page
    assert "| 2 of 2 |" in page
    assert "| 1 of 2 |" in page
    assert str(tmp_path) not in page
    assert script.summarise(script.TASKS[1], todo[:1], {}, steps=50) is None


def _pretend(run: Path, dataset, shift: int) -> None:
    """Writes what a training leaves, with shifted references for masks."""
    pairs = []
    for case in dataset.cases[:5]:
        label_map = read_label_map(case.label)
        mask = run / "masks" / f"{case.case_id}.nii.gz"
        mask.parent.mkdir(parents=True, exist_ok=True)
        write_label_map(mask, np.roll(label_map.array, shift, axis=1), label_map.geometry)
        pairs.append(Pair(case.case_id, case.label, mask))
    evaluate_pairs(pairs, labels=dataset.labels, metrics=["dice", "hd95"]).save(run / "validation")
    (run / "report.html").write_text("")
    (run / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "versions": {"python": "3.11"}}))
    (run / "metrics.jsonl").write_text('{"epoch": 1, "step": 50, "seconds": 25.0}\n')


def test_the_committed_page_follows_from_its_documents(script: ModuleType) -> None:
    documents = {
        task.key: json.loads((PAGES / f"results_{task.key}.json").read_text()) for task in script.TASKS
    }
    assert (PAGES / "results.md").read_text() == script.results_page(documents)
