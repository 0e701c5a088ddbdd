"""The verb `plan`."""

from pathlib import Path

import pytest

from scanseg import pipeline
from scanseg.errors import UsageError
from scanseg.files import read_json
from scanseg.nnunet.plan import Plan
from scanseg.progress import Progress


def test_a_plan_is_written_with_its_reasons(demo_data: Path, tmp_path: Path) -> None:
    made, folder = pipeline.plan(demo_data / "hippocampus", output=tmp_path / "plan")
    assert Plan.load(folder / "plan.json") == made
    assert made.default_configuration == "3d_fullres"
    assert made.orientation == "RAS"
    chosen = made.configurations["3d_fullres"]
    assert chosen.spacing == (1.0, 1.0, 1.0)
    assert all(
        f"3d_fullres.{name}" in made.reasons or name in made.reasons for name in ("patch_size", "spacing")
    )
    assert read_json(folder / "fingerprint.json")["spacings"]


def test_the_second_plan_reads_no_image_again(demo_data: Path, tmp_path: Path) -> None:
    stages: list[str] = []

    def note(progress: Progress) -> None:
        stages.append(progress.stage)

    pipeline.plan(demo_data / "nuclei", output=tmp_path / "one", report=note)
    assert {"check", "fingerprint"} <= set(stages)
    stages.clear()
    pipeline.plan(demo_data / "nuclei", output=tmp_path / "two", report=note)
    assert not stages
    assert (tmp_path / "one" / "plan.json").read_bytes() == (tmp_path / "two" / "plan.json").read_bytes()


def test_overrides_are_taken_and_checked(demo_data: Path, tmp_path: Path) -> None:
    made, _ = pipeline.plan(
        demo_data / "nuclei", output=tmp_path / "plan", overrides={"batch_size": 3, "patch_size": [64, 96]}
    )
    assert (made.configurations["2d"].batch_size, made.configurations["2d"].patch_size) == (3, (64, 96))
    with pytest.raises(UsageError):
        pipeline.plan(demo_data / "nuclei", output=tmp_path / "plan", overrides={"patch_size": [0, 96]})


def test_nothing_is_written_into_the_data(demo_data: Path, tmp_path: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in demo_data.rglob("*") if path.is_file())
    pipeline.plan(demo_data / "nuclei", output=tmp_path / "plan")
    assert sorted(path.stat().st_mtime_ns for path in demo_data.rglob("*") if path.is_file()) == before


def test_paths_may_be_strings(demo_data: Path, tmp_path: Path) -> None:
    data, folder = str(demo_data / "nuclei"), str(tmp_path / "plan")
    _, written = pipeline.plan(data, output=folder, workspace=str(tmp_path / "work"))
    assert written == Path(folder)
    assert any((tmp_path / "work").iterdir())
    pipeline.check(data, output=str(tmp_path / "check"))
    assert (tmp_path / "check" / "check.json").is_file()
    masks = str(demo_data / "nuclei" / "labelsTr")
    evaluation, where = pipeline.evaluate(masks, masks, output=str(tmp_path / "scores"), dataset=data)
    assert evaluation.summary["mean"]["dice"]["mean"] == 1
    assert (where / "cases.csv").is_file()
