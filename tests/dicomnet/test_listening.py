"""From an image that is sent to its segmentation."""

import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
pytest.importorskip("highdicom", reason="DICOM needs pip install 'scanseg[dicom]'")

from scanseg.data.dicom_seg_read import read_segmentation
from scanseg.dicomnet.listening import listen
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.scp import ListenOptions
from scanseg.dicomnet.send import send_files
from scanseg.inference.predict import Model


def test_an_enhanced_image_that_is_sent_is_segmented(run_3d, demo_data, tmp_path, write_enhanced) -> None:
    image = nibabel.load(sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0])
    volume = np.asarray(image.dataobj).astype(np.int16).T
    order = np.random.default_rng(0).permutation(len(volume)).tolist()
    write_enhanced(tmp_path / "sent" / "1", volume, image.affine, order=order)
    model = Model(run_3d, threads=1)
    expected = model.predict(tmp_path / "sent")
    assert expected.mask.any()
    options = ListenOptions(quiet_s=0.3, free_bytes=0, idle_s=5.0)
    folders = {"inbox": tmp_path / "inbox", "output": tmp_path / "masks"}
    with listen(model, 0, None, options=options, **folders) as running:
        send_files([tmp_path / "sent" / "1"], Peer("SCANSEG", "127.0.0.1", running.port))
        path = first_of(folders["output"])
    found = read_segmentation(path, labels=expected.labels, geometry=expected.geometry)
    np.testing.assert_array_equal(found.array, expected.mask)


def first_of(folder: Path, seconds: float = 60.0) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := [path for path in folder.glob("*.dcm") if not path.name.startswith(".")]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("nothing was written in time")
