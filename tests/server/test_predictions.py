"""From an upload to the findings, through a real server."""

import io
import json
import struct
import zipfile

import httpx
import nibabel
import numpy as np
import pytest
from PIL import Image as PilImage

from scanseg.client import Client, ServiceError
from scanseg.data.image import read_label_map
from scanseg.files import read_json

pytestmark = pytest.mark.timeout(300)  # the first test waits for the model to be trained
NOTICE = "Research software. Not a medical device."


def put(api: httpx.Client, content: bytes, name: str = "scan.nii.gz", query: str = "wait=60", **head: str):
    return api.put(f"/api/v1/predictions?{query}", content=content, headers={"X-Scanseg-Name": name, **head})


def test_the_mask_is_that_of_the_command_line_bit_by_bit(api, done, reference_mask) -> None:
    mask = api.get(f"/api/v1/predictions/{done}/mask")
    assert mask.status_code == 200
    assert mask.content == reference_mask
    assert mask.headers["content-disposition"].startswith("attachment")


def test_create_then_upload_gives_the_same(api, image_3d, reference_mask) -> None:
    order = {"model": "hippocampus", "inputs": [{"name": "x.nii.gz"}], "options": {"uncertainty": False}}
    made = api.post("/api/v1/predictions", json=order)
    assert (made.status_code, made.json()["state"]) == (201, "waiting")
    job = made.headers["location"]
    assert api.get(f"{job}/result").status_code == 409
    sent = api.put(f"{job}/inputs/0?wait=60", content=image_3d.read_bytes())
    assert (sent.status_code, sent.json()["state"]) == (202, "done"), sent.text
    assert api.get(f"{job}/mask").content == reference_mask
    assert api.put(f"{job}/inputs/0", content=b"again").status_code == 409
    assert api.get(f"{job}/uncertainty").json()["code"] == "E-SERVE-FILE"


def test_findings(api, done, server) -> None:
    result = api.get(f"/api/v1/predictions/{done}/result").json()
    assert result["disclaimer"] == NOTICE
    path = server.data / "jobs" / done / "result" / "mask.nii.gz"
    voxels = nibabel.load(path)
    array = np.asarray(voxels.dataobj)
    for label in result["labels"]:
        where = np.argwhere(array == label["value"])
        assert label["voxels"] == len(where)
        assert label["volume_ml"] == pytest.approx(len(where) * abs(np.linalg.det(voxels.affine)) / 1000)
        if len(where):
            centre = nibabel.affines.apply_affine(voxels.affine, where).mean(0)
            assert label["centroid_mm"] == pytest.approx(centre.tolist())
            middle = nibabel.affines.apply_affine(voxels.affine, (np.array(array.shape) - 1) / 2)[0]
            x_mm = nibabel.affines.apply_affine(voxels.affine, where)[:, 0]
            left = np.mean((x_mm < middle - 1e-6) + 0.5 * (abs(x_mm - middle) <= 1e-6))
            assert label["left_share"] == pytest.approx(left, abs=1e-4)
            assert 1 / 3 <= label["score"] <= 1
    assert all(entry["source"] and entry["reason"] for entry in result["next_steps"] + result["insights"])
    assert result["model"]["sha256"]
    assert result["files"]["mask"]["sha256"]


def test_sizes_are_compared_with_the_training_labels(api, done, run_3d) -> None:
    cases = read_json(run_3d / "check.json")["cases"]
    sizes = sorted(case["label_sizes"]["1"] / 1000 for case in cases if case["part"] == "training")
    label = api.get(f"/api/v1/predictions/{done}/result").json()["labels"][0]
    found = label["training"]
    assert (found["cases"], found["low"], found["high"]) == (5, sizes[0], sizes[-1])
    below = sum(size < label["volume_ml"] for size in sizes)
    assert found["percentile"] == pytest.approx(100 * below / 5, abs=10)
    assert "hippocampus_" not in json.dumps(found)


@pytest.mark.parametrize("kind", ["nii", "nrrd", "mha", "tif"])
def test_masks_in_other_formats_hold_the_same_labels(api, done, reference_mask, tmp_path, kind) -> None:
    (tmp_path / "own.nii.gz").write_bytes(reference_mask)
    answer = api.get(f"/api/v1/predictions/{done}/mask", params={"format": kind})
    assert answer.status_code == 200, answer.text
    (tmp_path / f"other.{kind}").write_bytes(answer.content)
    other = read_label_map(tmp_path / f"other.{kind}").array
    assert np.array_equal(other, read_label_map(tmp_path / "own.nii.gz").array)


def test_a_format_that_cannot_hold_a_volume_is_refused(api, done) -> None:
    answer = api.get(f"/api/v1/predictions/{done}/mask?format=png")
    assert answer.status_code == 422
    assert answer.json()["hint"]


def test_the_image_comes_back_unchanged(api, done, image_3d, tmp_path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(api.get(f"/api/v1/predictions/{done}/image").content)
    found, sent = nibabel.load(tmp_path / "image.nii.gz"), nibabel.load(image_3d)
    assert np.array_equal(found.get_fdata(), sent.get_fdata())
    assert np.array_equal(found.affine, sent.affine)


def test_probabilities_and_entropy(api, done, server) -> None:
    result = server.data / "jobs" / done / "result"
    one, two = (nibabel.load(result / "probabilities" / f"{value}.nii.gz").get_fdata() for value in (1, 2))
    chances = np.stack([1 - one - two, one, two]).clip(1e-12, 1)
    expected = -(chances * np.log(chances)).sum(0) / np.log(3)
    assert np.allclose(nibabel.load(result / "uncertainty.nii.gz").get_fdata(), expected, atol=1e-3)
    assert api.get(f"/api/v1/predictions/{done}/probabilities/1").status_code == 200
    assert api.get(f"/api/v1/predictions/{done}/probabilities/7").status_code == 404


def test_slices_show_the_voxels(api, done, server) -> None:
    result = api.get(f"/api/v1/predictions/{done}/result").json()
    view = result["view"]
    image = nibabel.load(server.data / "jobs" / done / "result" / "mask.nii.gz")
    array = np.asarray(image.dataobj)
    to_voxel = np.linalg.inv(image.affine) @ np.array(view["affine"])
    axes = view["axes"]
    index = axes["axial"]["count"] // 2
    url = f"/api/v1/predictions/{done}/slice/axial/{index}.png?window=1e9,2e9&overlay=1"
    picture = np.asarray(PilImage.open(io.BytesIO(api.get(url).content)))
    assert picture.shape == (axes["axial"]["rows"], axes["axial"]["columns"], 3)
    colours = {label["value"]: tuple(bytes.fromhex(label["colour"][1:])) for label in result["labels"]}
    for row in range(0, picture.shape[0], 3):
        for column in range(0, picture.shape[1], 3):
            x, y, z, _ = np.rint(to_voxel @ [column, row, index, 1]).astype(int)
            assert tuple(picture[row, column]) == colours.get(int(array[x, y, z]), (0, 0, 0))
    for bad in ("axial/9999.png", "up/0.png", "axial/0.png?channel=5"):
        assert api.get(f"/api/v1/predictions/{done}/slice/{bad}").status_code == 404


def test_a_surface_encloses_the_volume(api, done) -> None:
    labels = api.get(f"/api/v1/predictions/{done}/result").json()["labels"]
    label = max(labels, key=lambda one: one["volume_ml"])
    body = api.get(f"/api/v1/predictions/{done}/mesh/{label['value']}").content
    count = struct.unpack("<I", body[80:84])[0]
    faces = np.frombuffer(body[84:], np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("r", "<u2")]))
    assert len(faces) == count > 0
    corners = faces["v"].astype(float)
    # Signed volume of tetrahedra; positive only if the faces look outward.
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6 / 1000
    assert 0.15 * label["volume_ml"] < volume < 1.1 * label["volume_ml"]
    glb = api.get(f"/api/v1/predictions/{done}/mesh/{label['value']}?format=glb").content
    assert glb[:4] == b"glTF"
    assert struct.unpack("<I", glb[8:12])[0] == len(glb)


def test_report_and_archive_are_whole_and_silent(api, done) -> None:
    report = api.get(f"/api/v1/predictions/{done}/report.html")
    assert report.text.count(NOTICE) >= 2
    assert "http-equiv" in report.text
    assert "<script" not in report.text
    assert "scan.nii.gz" not in report.text
    archive = zipfile.ZipFile(io.BytesIO(api.get(f"/api/v1/predictions/{done}/all.zip").content))
    assert archive.testzip() is None
    names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"mask.nii.gz", "report.html", "result.json", "preview.png", "probabilities/1.nii.gz"} <= names


def test_events_end_with_the_final_state(api, done) -> None:
    events = api.get(f"/api/v1/predictions/{done}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert json.loads(events.text.split("data: ", 1)[1])["state"] == "done"


def test_progress_comes_as_events(server, image_3d) -> None:
    with server.client() as api:
        job = put(api, image_3d.read_bytes(), query="step_size=0.25").json()
        with api.stream("GET", f"/api/v1/predictions/{job['id']}/events") as stream:
            lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    found = [json.loads(line) for line in lines]
    assert found[-1]["state"] == "done"
    fractions = [one["progress"]["fraction"] for one in found if one["progress"]]
    assert any(0 < fraction < 1 for fraction in fractions)


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"hello", "a.nii.gz", "E-NIFTI-MAGIC"),
        (b"PK\3\4" + bytes(60), "a.zip", "E-ZIP-FORMAT"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "a.png", None),
    ],
    ids=["text", "zip", "png"],
)
def test_damaged_files_fail_with_the_words_of_the_command_line(api, server, content, name, code) -> None:
    job = put(api, content, name).json()
    assert job["state"] == "failed"
    assert job["error"]["code"] == code or code is None
    assert job["error"]["detail"]
    assert str(server.data) not in json.dumps(job)


def test_a_truncated_image_never_becomes_a_result(api, image_3d) -> None:
    job = put(api, image_3d.read_bytes()[:-100]).json()
    assert job["state"] == "failed"
    assert job["error"]["code"] == "E-FILE-TRUNCATED"
    assert api.get(job["links"]["self"] + "/mask").status_code == 409


def test_an_idempotency_key_makes_one_job(api, image_3d) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, second = (put(api, image_3d.read_bytes(), query="wait=0", **key).json() for _ in range(2))
    assert first["id"] == second["id"]
    clash = put(api, image_3d.read_bytes(), query="wait=0&tta=true", **key)
    assert (clash.status_code, clash.json()["code"]) == (422, "E-SERVE-KEY")


def test_a_sample_needs_no_upload(api) -> None:
    sample = api.get("/api/v1/models/hippocampus/samples").json()["samples"][0]
    made = api.post("/api/v1/predictions", json={"sample": sample["id"]})
    assert made.status_code == 201
    assert api.get(made.headers["location"] + "?wait=60").json()["state"] == "done"


def test_deleting_leaves_nothing(api, server, image_3d) -> None:
    job = put(api, image_3d.read_bytes()).json()["links"]["self"]
    api.put(f"{job}/review", json={"verdict": "reject", "comment": "MARKER-REVIEW"})
    assert api.delete(job).status_code == 204
    assert api.get(job).status_code == api.delete(job).status_code == 404
    assert not (server.data / "jobs" / job.rpartition("/")[2]).exists()
    assert "MARKER-REVIEW" not in (server.data / "reviews.csv").read_text()


def test_cancelling_and_deleting_while_it_runs(api, server, image_3d) -> None:
    slow = "wait=0&step_size=0.1&tta=true"
    for end in (lambda url: api.post(f"{url}/cancel"), api.delete):
        url = put(api, image_3d.read_bytes(), query=slow).json()["links"]["self"]
        while api.get(url).json()["state"] == "queued":
            pass
        assert end(url).status_code in (200, 204)
    # The worker goes on with the next job at once and leaves nothing of the stopped ones.
    assert put(api, image_3d.read_bytes()).json()["state"] == "done"
    assert not (server.data / "jobs" / url.rpartition("/")[2]).exists()
    assert not list((server.data / "scratch" / "hippocampus").glob("*"))


def test_reviews(api, done) -> None:
    url = f"/api/v1/predictions/{done}/review"
    assert api.put(url, json={"verdict": "accept", "comment": '=HYPERLINK("x")'}).status_code == 200
    assert api.put(url, json={"verdict": "great"}).status_code == 422
    table = api.get("/api/v1/reviews.csv").text
    assert f"{done},hippocampus,accept" in table
    assert ",=HYPER" not in table


def test_evaluations(api, done, demo_data, reference_mask) -> None:
    made = api.post("/api/v1/evaluations", json={"prediction": done}).json()
    answer = api.put(f"{made['links']['self']}/inputs/reference?wait=30", content=reference_mask)
    assert answer.json()["state"] == "done", answer.text
    result = api.get(f"{made['links']['self']}/result").json()
    dice = {row["name"]: row["dice"] for row in result["cases"]}
    assert set(dice) <= {"Anterior", "Posterior"}
    assert all(value == 1.0 for value in dice.values())
    assert result["disclaimer"] == NOTICE


def test_the_list_pages(api, done) -> None:
    first = api.get("/api/v1/predictions?limit=2").json()
    rest = api.get(f"/api/v1/predictions?limit=200&before={first['next']}").json()
    ids = [one["id"] for one in first["predictions"] + rest["predictions"]]
    assert len(ids) == len(set(ids)) >= 3
    assert done in ids


def test_snippets_name_no_file_and_no_token(api, done, server) -> None:
    found = api.get(f"/api/v1/predictions/{done}/snippets").json()
    assert found["cli"].startswith("scanseg predict scan.nii.gz -m hippocampus")
    assert "--probabilities" in found["cli"]
    assert server.token not in json.dumps(found)
    compile(found["python"], "snippet", "exec")


def test_the_client(server, image_3d, reference_mask, tmp_path) -> None:
    with Client(server.url, server.token) as client:
        seen = []
        result = client.predict(image_3d, model="hippocampus", report=lambda job: seen.append(job.state))
        assert result.save_mask(tmp_path / "mask").read_bytes() == reference_mask
        assert (tmp_path / "mask.nii.gz").is_file()
        assert result.save_file("preview.png", tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
        assert seen[-1] == "done"
        assert result.labels[0]["name"] == "Anterior"
        measured = client.evaluate(tmp_path / "mask.nii.gz", prediction=result.id)
        assert measured["cases"][-1]["dice"] == 1.0
        result.erase()
        with pytest.raises(ServiceError) as caught:
            client.job(result.id)
        assert (caught.value.status, caught.value.code) == (404, "E-SERVE-UNKNOWN")
        (tmp_path / "bad.nii.gz").write_bytes(b"x")
        with pytest.raises(ServiceError, match="gzip") as caught:
            client.predict(tmp_path / "bad.nii.gz")
        assert caught.value.code == "E-NIFTI-MAGIC"


def test_a_zip_of_channels(api, image_3d, reference_mask) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("folder/scan.nii.gz", image_3d.read_bytes())
        archive.writestr("__MACOSX/._scan.nii.gz", b"x")
    job = put(api, packed.getvalue(), "scan.zip").json()
    assert job["state"] == "done", job
    assert api.get(job["links"]["mask"]).content == reference_mask
