"""The frames of an enhanced DICOM image, each as a header of its own.

Source: PS3.3 C.7.6.16 (multi-frame functional groups), C.7.6.16.2.2 (frame content), A.38.1 and A.36.2
(enhanced CT and MR).
"""

from collections.abc import Sequence
from typing import Any, BinaryIO

from scanseg.data.dicom_refusal import Refusal

_MOST_HEADER_BYTES = 32 << 20  # 2,000 frames that are described by 16 KiB each
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
_PLACES = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
}


class BoundedHeader:
    """A stream that ends with an error where a header is longer than any."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, _MOST_HEADER_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        """Returns the next bytes, to the end without a count.

        Raises:
            ValueError: More was read than a header has.
        """
        content = self._stream.read(min(count, self._left) if count >= 0 else self._left)
        self._left -= len(content)
        if self._left <= 0:
            raise ValueError("the header is too long")
        return content


class FrameFacts:
    """What a slice would say in its header, for a frame: from its own groups, the shared ones, the file."""

    def __init__(self, facts: Any, shared: Any, own: Any) -> None:
        self._facts, self._groups = facts, (own, shared)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an element by its keyword."""
        place = _PLACES.get(name)
        for group in self._groups if place else ():
            items = group.get(place) if group is not None else None
            if items and (value := items[0].get(name)) is not None:
                return value
        return self._facts.get(name, default)


def frames_of(facts: Any) -> Sequence[Any]:
    """Returns the header of each frame; that of a classic image is its only one.

    Args:
        facts: The header without its pixels.

    Raises:
        Refusal: There are many frames, and not each of them is described.
    """
    count = facts.get("NumberOfFrames")
    count = 1 if count is None or count == "" else int(count)
    own = facts.get("PerFrameFunctionalGroupsSequence")
    if not own:
        if count != 1:
            raise Refusal("E-DICOM-FRAMES", "holds many frames, but does not say where each of them lies")
        return [facts]
    if len(own) != count:
        raise Refusal(
            "E-DICOM-FRAMES", "announces another number of frames than it describes; it was cut or damaged"
        )
    shared = facts.get("SharedFunctionalGroupsSequence")
    return [FrameFacts(facts, shared[0] if shared else None, one) for one in own]
