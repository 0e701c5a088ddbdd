"""Images in another axis order or direction, and the way back."""

from dataclasses import replace

import numpy as np

from scanseg.data.affine import spacing_of
from scanseg.errors import UsageError
from scanseg.types import Array, Geometry, Image


def orientation_of(geometry: Geometry) -> str | None:
    """Returns the directions in which x, y and z grow, None without an affine.

    Example:
        >>> import numpy as np
        >>> orientation_of(Geometry((3, 4, 5), (1, 1, 1), affine=np.diag([-1.0, -1.0, 1.0, 1.0])))
        'LPS'
    """
    if geometry.affine is None:
        return None
    import nibabel

    return "".join(nibabel.aff2axcodes(geometry.affine))


def reorient_image(image: Image, orientation: str | None) -> Image:
    """Returns the image with its axes flipped and exchanged, so that they grow in the given directions.

    No value is interpolated: every voxel keeps its value and its place in mm.

    Args:
        image: (channel, z, y, x). Returned as it is if it has no affine or the orientation already.
        orientation: Three letters for x, y, z, for example `RAS`; None for no change.

    Raises:
        UsageError: `orientation` is no such name.
    """
    geometry = image.geometry
    turn = _turn(geometry, orientation)
    if turn is None:
        return image
    import nibabel

    shape_xyz = geometry.shape[::-1]
    affine = geometry.affine @ nibabel.orientations.inv_ornt_aff(turn, shape_xyz)
    array = _turned(image.array, turn)
    # The header described the old axes; writers make a new one from the affine.
    turned = replace(geometry, shape=array.shape[1:], spacing=spacing_of(affine), affine=affine, header={})
    return replace(image, array=array, geometry=turned)


def reorient_array_back(array: Array, image_geometry: Geometry, orientation: str | None) -> Array:
    """Returns an array made in `orientation` in the axes of the original image.

    Args:
        array: (*spatial) or (channel, *spatial), as it belongs to `reorient_image(image, orientation)`.
        image_geometry: Of the image before it was turned.
        orientation: As given to `reorient_image`.

    Raises:
        UsageError: `orientation` is no orientation, or the array does not have the size of the turned image.
    """
    turn = _turn(image_geometry, orientation)
    if turn is None:
        expected = image_geometry.shape
    else:
        order = [int(axis) for axis in np.argsort(turn[:, 0])]
        shape_xyz = image_geometry.shape[::-1]
        expected = tuple(shape_xyz[axis] for axis in order)[::-1]
    if array.shape[-len(expected) :] != tuple(expected) or array.ndim > len(expected) + 1:
        raise UsageError(
            f"the array to turn back must end in the shape {tuple(expected)}, got {array.shape}.",
            code="E-ORIENTATION-SHAPE",
        )
    return array if turn is None else _turned(array, _inverse(turn))


def _turn(geometry: Geometry, orientation: str | None) -> Array | None:
    """Returns the change as nibabel writes it, old axis -> (new axis, direction); None if there is none."""
    if orientation is None:
        return None
    axes = {"LR": 0, "RL": 0, "PA": 1, "AP": 1, "SI": 2, "IS": 2}
    named = [next((axes[pair] for pair in axes if letter == pair[0]), None) for letter in orientation]
    if sorted(n for n in named if n is not None) != [0, 1, 2] or len(named) != 3:
        raise UsageError(
            f"an orientation is three letters, one of L R, one of P A and one of S I, got {orientation!r}.",
            code="E-ORIENTATION-NAME",
            hint="For example RAS.",
        )
    if geometry.affine is None:
        return None
    import nibabel

    start = nibabel.io_orientation(geometry.affine)
    turn = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(tuple(orientation)))
    same = np.array([[0, 1], [1, 1], [2, 1]])
    return None if np.array_equal(turn, same) else turn


def _inverse(turn: Array) -> Array:
    back = np.empty_like(turn)
    for old, (new, direction) in enumerate(turn):
        back[int(new)] = (old, direction)
    return back


def _turned(array: Array, turn: Array) -> Array:
    """Flips and exchanges the last three axes (z, y, x) of an array; returns it contiguous."""
    lead = array.ndim - 3
    flips = tuple(lead + 2 - old for old, (_, direction) in enumerate(turn) if direction < 0)
    order = [int(axis) for axis in np.argsort(turn[:, 0])]  # new x, y, z comes from these old axes
    axes = [*range(lead), *(lead + 2 - axis for axis in order[::-1])]
    return np.ascontiguousarray(np.flip(array, flips).transpose(axes))
