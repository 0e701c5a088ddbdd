"""Slices and surfaces from the stored arrays of a result: no image format is read here."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.errors import UsageError
from scanseg.pipeline.serving import read_view
from scanseg.reporting.palette import rgb
from scanseg.types import Array, Geometry

AXES = ("axial", "coronal", "sagittal")
_LARGEST_PIXELS = 4096
_TIME_OUT_FACES = 20_000_000


def turned(array: Array, geometry: Geometry) -> Array:
    """Returns a view of (channel, z, y, x) whose axes grow down, to the back and to the left; no copy.

    So axial and coronal slices show the patient's right on the left. Without an affine nothing is turned.
    """
    if geometry.affine is None or geometry.spatial_dims != 3:
        return array
    flips, order = _turn(geometry)
    lead = array.ndim - 3
    flipped = np.flip(array, tuple(lead + axis for axis in flips))
    shown: Array = flipped.transpose(*range(lead), *(lead + axis for axis in order))
    return shown


def _turn(geometry: Geometry) -> tuple[list[int], list[int]]:
    """Returns which array axes to flip, and then which becomes z, y and x, for axes that grow I, P, L."""
    if geometry.affine is None:
        return [], [0, 1, 2]
    import nibabel

    start = nibabel.io_orientation(geometry.affine)
    flips, order = [], [0, 0, 0]
    for x_axis, (world, direction) in enumerate(start):
        array_axis = 2 - x_axis
        order[2 - int(world)] = array_axis
        # RAS+ grows right, forward, up; shown are left, back, down.
        if direction > 0:
            flips.append(array_axis)
    return flips, order


def view_affine(geometry: Geometry) -> Array | None:
    """Returns the matrix from (sagittal, coronal, axial, 1) indices to mm in RAS+; None without positions."""
    if geometry.affine is None or geometry.spatial_dims != 3:
        return None
    flips, order = _turn(geometry)
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for shown_axis, array_axis in enumerate(order):
        column, row = 2 - shown_axis, 2 - array_axis
        back[row, column] = -1 if array_axis in flips else 1
        back[row, 3] = geometry.shape[array_axis] - 1 if array_axis in flips else 0
    affine: Array = geometry.affine @ back
    return affine


def describe_view(arrays: dict[str, Array], geometry: Geometry) -> dict[str, Any]:
    """Returns which slices there are, as plain JSON values."""
    image = turned(arrays["image"], geometry)
    shape = image.shape[1:]
    affine = view_affine(geometry)
    if len(shape) == 2:
        spacing = [float(s) for s in geometry.spacing]
        axes = {"plane": {"count": 1, "rows": shape[0], "columns": shape[1], "spacing": spacing}}
    else:
        _, order = _turn(geometry)
        steps = [float(geometry.spacing[axis]) for axis in order]
        axes = {}
        for place, name in enumerate(AXES):
            rows, columns = (axis for axis in range(3) if axis != place)
            axes[name] = {
                "count": shape[place],
                "rows": shape[rows],
                "columns": shape[columns],
                "spacing": [steps[rows], steps[columns]],
            }
    return {
        "kind": "plane" if len(shape) == 2 else "volume",
        "channels": int(image.shape[0]),
        "colour": len(shape) == 2 and image.shape[0] == 3,
        "axes": axes,
        "affine": None if affine is None else affine.tolist(),
        "uncertainty": "uncertainty" in arrays,
    }


def slice_png(
    folder: Path,
    axis: str,
    index: int,
    *,
    window: tuple[float, float] | None,
    channel: int,
    overlay: float,
    labels: Sequence[int] | None,
    colours: dict[int, str],
    uncertainty: bool,
) -> bytes:
    """Returns a slice as PNG, pixels as stored (their aspect is in `view.axes`).

    Args:
        folder: `view/` of a result.
        axis: `axial`, `coronal`, `sagittal`, or `plane` for 2D images.
        index: Slice.
        window: Intensities shown as black and white; needed.
        channel: Which channel; ignored for colour images.
        overlay: Opacity of the labels.
        labels: Values to draw; all if None.
        colours: Of the label values.
        uncertainty: Draw the entropy in red over the image.

    Raises:
        UsageError: There is no such slice or channel.
    """
    arrays, geometry = read_view(folder)
    image = _cut(arrays["image"], geometry, axis, index)
    if image.shape[0] == 3 and geometry.spatial_dims == 2:
        picture = np.moveaxis(_grey(image, _colour_window(image)), 0, -1)
    else:
        picture = _grey_channel(image, channel, window)
    if uncertainty and "uncertainty" in arrays:
        heat = _cut(arrays["uncertainty"][None], geometry, axis, index)[0].astype(np.float32) / 255
        picture = picture * (1 - 0.8 * heat[..., None]) + heat[..., None] * 0.8 * np.array([1.0, 0.2, 0.1])
    if overlay > 0:
        mask = _cut(arrays["mask"][None], geometry, axis, index)[0]
        for value, colour in colours.items():
            if labels is None or value in labels:
                where = mask == value
                picture[where] = (1 - overlay) * picture[where] + overlay * rgb(colour)
    return png(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))


def _grey_channel(image: Array, channel: int, window: tuple[float, float] | None) -> Array:
    if not 0 <= channel < image.shape[0]:
        raise _no_such(f"channel {channel}", f"0 to {image.shape[0] - 1}")
    window = window or (float(image.min()), float(image.max()) + 1e-6)
    return np.repeat(_grey(image[channel], window)[..., None], 3, axis=-1)


def _cut(array: Array, geometry: Geometry, axis: str, index: int) -> Array:
    if array.ndim == 3:
        if axis != "plane" or index != 0:
            raise _no_such(f"slice {axis}/{index}", "plane/0")
        return np.asarray(array)
    if axis not in AXES:
        raise _no_such(f"axis {axis!r}", ", ".join(AXES))
    place = AXES.index(axis)
    shown = turned(array, geometry)
    if not 0 <= index < shown.shape[1 + place]:
        raise _no_such(f"slice {index}", f"0 to {shown.shape[1 + place] - 1}")
    return np.ascontiguousarray(np.take(shown, index, axis=1 + place))


def _grey(image: Array, window: tuple[float, float]) -> Array:
    low, high = window
    grey: Array = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    return grey


def _colour_window(image: Array) -> tuple[float, float]:
    top = float(image.max())
    if image.min() >= 0 and top <= 255:
        return 0.0, 255.0 if top > 1 else 1.0
    low, high = np.percentile(image, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def png(pixels: Array) -> bytes:
    """Returns (rows, columns, 3) uint8 as a PNG file.

    Source: PNG (Third Edition), W3C 2025, chunks IHDR, IDAT, IEND.
    """
    rows, columns, _ = pixels.shape
    lines = np.zeros((rows, 1 + columns * 3), np.uint8)
    lines[:, 1:] = pixels.reshape(rows, -1)
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def surface(folder: Path, value: int, kind: str, colour: str) -> bytes:
    """Returns the surface of a label in mm as binary STL or GLB.

    Args:
        folder: `view/` of a result.
        value: Label value.
        kind: `stl` or `glb`.
        colour: `#RRGGBB`, for GLB.

    Raises:
        UsageError: The image is 2D, or the label is absent.
    """
    from scipy.ndimage import find_objects
    from skimage.measure import marching_cubes

    arrays, geometry = read_view(folder)
    if geometry.spatial_dims != 3:
        raise UsageError("A 2D image has no surface.", code="E-SERVE-MESH", hint="Use the slice instead.")
    box = (find_objects((arrays["mask"] == value).astype(np.uint8)) or [None])[0]
    if box is None:
        raise UsageError(
            "This label is not in the mask.", code="E-SERVE-MESH", hint="See labels in the result."
        )
    step = max(1, math.ceil((math.prod(s.stop - s.start for s in box) / _TIME_OUT_FACES) ** (1 / 3)))
    part = (arrays["mask"][box] == value)[::step, ::step, ::step]
    points, faces, _, _ = marching_cubes(np.pad(part, 1).astype(np.float32), 0.5)
    index = (points - 1) * step + [s.start for s in box]
    affine = geometry.affine
    if affine is None:
        affine = np.diag([*[float(s) for s in geometry.spacing[::-1]], 1.0])
    places = np.c_[index[:, ::-1], np.ones(len(index))] @ affine.T
    vertices = places[:, :3].astype("<f4")
    # marching_cubes turns faces outward for (z, y, x); reversing the axes mirrors, so does the affine.
    if np.linalg.det(affine[:3, :3]) < 0:
        faces = faces[:, ::-1]
    return _glb(vertices, faces, colour) if kind == "glb" else _stl(vertices, faces)


def _stl(vertices: Array, faces: Array) -> bytes:
    """Source: the binary STL layout: 80 bytes, a count; for each face normal, corners and a short."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    rows = np.zeros(len(faces), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")]))
    rows["normal"], rows["corners"] = normals, corners
    head = b"scanseg; research software, not a medical device; millimetres, RAS+".ljust(80)
    return head + struct.pack("<I", len(faces)) + rows.tobytes()


def _glb(vertices: Array, faces: Array, colour: str) -> bytes:
    """Source: glTF 2.0, Khronos 2021, sections 3.6 (buffers), 3.7 (meshes), 4 (GLB)."""
    import json

    index = np.ascontiguousarray(faces).astype("<u4").tobytes()
    place = np.ascontiguousarray(vertices).tobytes()
    low, high = (getattr(vertices, name)(axis=0).astype(float).tolist() for name in ("min", "max"))
    scene = {
        "asset": {"version": "2.0", "generator": "scanseg"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [
            {"pbrMetallicRoughness": {"baseColorFactor": [*rgb(colour).tolist(), 1], "metallicFactor": 0}}
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": len(vertices),
                "type": "VEC3",
                "min": low,
                "max": high,
            },
            {"bufferView": 1, "componentType": 5125, "count": faces.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(place), "target": 34962},
            {"buffer": 0, "byteOffset": len(place), "byteLength": len(index), "target": 34963},
        ],
        "buffers": [{"byteLength": len(place) + len(index)}],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    body = place + index
    chunks = (
        struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + body
    )
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def _no_such(what: str, there_are: str) -> UsageError:
    return UsageError(f"There is no {what}; there are {there_are}.", code="E-SERVE-SLICE")
