"""Modules of the page, asked in a browser."""

import numpy as np
import pytest


def test_channels_are_grouped_into_cases(visit) -> None:
    page = visit().page
    names = ["b_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "a_0001.nii.gz", "c_0000.nii.gz", "all.zip"]
    script = """async ([names, channels]) => {
      const { groupFiles, isComplete } = await import("/web/files.js");
      return groupFiles(names.map((name) => ({ name })), channels, ["nii.gz", "zip"])
        .map((one) => [one.name, one.files.map((file) => file?.name ?? null), isComplete(one)]);
    }"""
    assert page.evaluate(script, [names, 2]) == [
        ["all.zip", ["all.zip"], True],
        ["a", ["a_0000.nii.gz", "a_0001.nii.gz"], True],
        ["b", ["b_0000.nii.gz", "b_0001.nii.gz"], True],
        ["c", ["c_0000.nii.gz", None], False],
    ]
    assert len(page.evaluate(script, [names, 1])) == 6


def test_files_are_dropped_and_removed(visit) -> None:
    page = visit().page
    page.wait_for_selector(".drop")
    drop = """(name) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["x"], name));
      const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
      document.querySelector(".drop").dispatchEvent(event);
    }"""
    page.evaluate(drop, "one.nii.gz")
    page.wait_for_selector(".file >> text=one.nii.gz")
    assert page.is_enabled("#run")
    page.click(".file button")
    page.wait_for_selector("#run:disabled")


def test_places_in_mm_find_their_slices(visit) -> None:
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4)) * 5
    index = rng.integers(0, 50, 3)
    mm = (affine @ [*index, 1])[:3]
    script = "async ([affine, mm]) => (await import('/web/slices.js')).solve(affine, mm)"
    assert visit().page.evaluate(script, [affine.tolist(), mm.tolist()]) == pytest.approx(
        index.tolist(), abs=1e-6
    )
