"""cases.csv comes back as it was written, and damage is an error."""

import math

import numpy as np
import pytest

from scanseg.data.image import write_label_map
from scanseg.errors import DataError
from scanseg.evaluation import METRICS, evaluate_folder
from scanseg.evaluation.cases_file import metrics_in, read_cases
from scanseg.types import Geometry, Label


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """A case with a lesion and one without, whose lesion was invented."""
    folder = tmp_path_factory.mktemp("masks")
    truth = np.zeros((6, 8), np.uint8)
    truth[1:4, 1:6] = 1
    predicted = np.roll(truth, 1, axis=1)
    predicted[5, 5] = 2
    geometry = Geometry(truth.shape, (0.5, 0.5))
    for case in ("a", "b, with a comma"):
        for kind, array in (("truth", truth), ("predicted", predicted if case == "a" else truth)):
            (folder / kind).mkdir(exist_ok=True)
            write_label_map(folder / kind / f"{case}.nii.gz", array, geometry)
    labels = [Label(0, "background"), Label(1, "organ"), Label(2, 'a "lesion"')]
    result = evaluate_folder(folder / "predicted", folder / "truth", labels=labels, groups={"a": "p"})
    result.save(folder)
    return folder / "cases.csv", result


def test_rows_come_back_exactly(evaluation):
    path, result = evaluation
    rows = read_cases(path)
    assert len(rows) == len(result.cases) == 4
    for row, written in zip(rows, result.cases, strict=True):
        for name, value in written.items():
            same = (
                math.isnan(row[name])
                if isinstance(value, float) and math.isnan(value)
                else row[name] == value
            )
            assert same, name
    assert metrics_in(rows) == list(METRICS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("case_id,", "case,", "lacks the columns case_id"),
        ("invented", "imagined", "unknown state"),
        ("\na,p,1,", "\na,p,one,", "'one' under value"),
        ("\na,p,1,", "\na,p,1,2,", "number of cells"),
        ("\na,p,2,", "\na,p,1,", "twice"),
    ],
)
def test_damage_is_refused(evaluation, tmp_path, old, new, message):
    text = evaluation[0].read_text()
    assert old in text
    (tmp_path / "cases.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        read_cases(tmp_path / "cases.csv")
    assert caught.value.code == "E-CASES-FILE"


def test_infinity_no_rows_and_no_file_are_refused(evaluation, tmp_path):
    text = evaluation[0].read_text()
    head, *lines = text.splitlines()
    cells = lines[0].split(",")
    (tmp_path / "endless.csv").write_text("\n".join([head, ",".join([*cells[:-1], "inf"])]) + "\n")
    with pytest.raises(DataError, match="'inf' under"):
        read_cases(tmp_path / "endless.csv")
    (tmp_path / "empty.csv").write_text(f"{head}\n")
    with pytest.raises(DataError, match="holds no case"):
        read_cases(tmp_path / "empty.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_cases(tmp_path / "bytes.csv")
    with pytest.raises(DataError, match="does not exist"):
        read_cases(tmp_path / "absent.csv")
