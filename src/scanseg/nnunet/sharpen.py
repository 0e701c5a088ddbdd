"""Sharpening by unsharp masking, part of the preparation of images in training and prediction alike."""

from __future__ import annotations

import numpy as np

from scanseg.types import Array

AMOUNT, RADIUS = 0.0, 1.0


def sharpen(data: Array, *, amount: float, radius: float, spatial_dims: int) -> Array:
    """Returns data + amount * (data - blurred data), which makes edges steeper and leaves flat parts alone.

    Args:
        data: (C, z, y, x), normalised and resampled; each channel by itself.
        amount: 0 returns the data as they are.
        radius: Standard deviation of the Gaussian blur, in voxels; beyond the border the last voxel goes on.
        spatial_dims: 2 blurs within the slices (y, x), 3 in the volume.

    Source:
        Mamba-HUNet (arXiv 2403.17432) sharpens its slices and says neither how nor how much. Unsharp masking
        and its options are our choice.

    Example:
        >>> edge = np.array([[[[2.0, 2.0, 3.0, 3.0]]]], np.float32)
        >>> sharpen(edge, amount=1.0, radius=0.5, spatial_dims=2).round(2)
        array([[[[2.  , 1.89, 3.11, 3.  ]]]], dtype=float32)
    """
    if amount == 0:
        return data
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(
        data, (0,) * (data.ndim - spatial_dims) + (radius,) * spatial_dims, mode="nearest"
    )
    return np.asarray(data + np.float32(amount) * (data - blurred), np.float32)
