"""NSD, HD95, ASSD, Dice and IoU agree with MONAI where both masks hold something; elsewhere they must not."""

import math

import numpy as np
import pytest

from scanseg.evaluation.metrics import assd, dice, hd95, iou, nsd

torch = pytest.importorskip("torch")
monai_metrics = pytest.importorskip("monai.metrics")


def as_batch(mask):
    return torch.from_numpy(mask)[None, None].float()


def random_pair(rng, dims):
    """Anisotropic masks from smooth lumps to pure noise, sometimes touching the border."""
    shape = tuple(int(n) for n in rng.integers(4, 22, dims))
    smooth = int(rng.integers(1, 5))
    coarse = rng.random(tuple(n // smooth + 1 for n in shape))
    for axis in range(dims):
        coarse = np.repeat(coarse, smooth, axis=axis)
    coarse = coarse[tuple(slice(n) for n in shape)]
    level = rng.uniform(0.3, 0.9)
    masks = [coarse + 0.4 * rng.random(shape) > level + 0.2 for _ in range(2)]
    for mask in masks:
        mask[tuple(int(rng.integers(n)) for n in shape)] = True
    return masks, tuple(float(s) for s in rng.uniform(0.3, 5.0, dims))


@pytest.mark.parametrize("dims", [2, 3])
def test_agrees_on_random_anisotropic_masks(dims):
    rng = np.random.default_rng(2024 + dims)
    for _ in range(60):
        (first, second), spacing = random_pair(rng, dims)
        tolerance = float(rng.uniform(0, 6))
        batch = as_batch(first), as_batch(second)
        theirs = monai_metrics.compute_surface_dice(
            *batch, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True
        )
        assert nsd(first, second, spacing, tolerance_mm=tolerance) == pytest.approx(theirs.item(), abs=1e-5)
        theirs = monai_metrics.compute_hausdorff_distance(
            *batch, include_background=True, percentile=95, spacing=spacing
        )
        assert hd95(first, second, spacing) == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)
        theirs = monai_metrics.compute_average_surface_distance(
            *batch, include_background=True, symmetric=True, spacing=spacing
        )
        assert assd(first, second, spacing) == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)
        assert dice(first, second, spacing) == pytest.approx(
            monai_metrics.compute_dice(*batch, include_background=True).item(), abs=1e-6
        )
        assert iou(first, second, spacing) == pytest.approx(
            monai_metrics.compute_iou(*batch, include_background=True).item(), abs=1e-6
        )


@pytest.mark.filterwarnings("ignore:the (prediction|ground truth)")
def test_a_missed_structure_that_monai_drops_counts_here():
    reference = np.zeros((10, 10, 10), dtype=bool)
    reference[3:6, 3:6, 3:6] = True
    missed = np.zeros_like(reference)
    metric = monai_metrics.HausdorffDistanceMetric(include_background=True, percentile=95)
    metric(as_batch(reference), as_batch(reference))
    metric(as_batch(missed), as_batch(reference))
    assert metric.aggregate().item() == 0.0  # one perfect and one missed case look perfect
    values = [hd95(mask, reference, (1.0, 1.0, 1.0)) for mask in (reference, missed)]
    assert values == [0.0, pytest.approx(math.sqrt(300))]
