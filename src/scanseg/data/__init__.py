"""Images, label maps and datasets: read strictly, checked, split by patient. Nothing here needs torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanseg.data.check import CaseFacts, CheckResult, check_dataset
    from scanseg.data.dataset import Dataset, indices_to_values, label_map_to_indices, load_dataset
    from scanseg.data.image import (
        SUFFIXES,
        file_stem,
        image_suffix,
        read_channels,
        read_geometry,
        read_image,
        read_label_map,
        same_geometry,
        write_array,
        write_label_map,
    )
    from scanseg.data.layouts import LAYOUTS
    from scanseg.data.limits import MICROSCOPY, Limits
    from scanseg.data.orientation import orientation_of, reorient_array_back, reorient_image
    from scanseg.data.splits import Split, make_all_split, make_splits

_PLACES = {
    "check": ("CaseFacts", "CheckResult", "check_dataset"),
    "dataset": ("Dataset", "indices_to_values", "label_map_to_indices", "load_dataset"),
    "image": (
        *("SUFFIXES", "file_stem", "image_suffix", "same_geometry"),
        *("read_channels", "read_geometry", "read_image", "read_label_map", "write_array", "write_label_map"),
    ),
    "layouts": ("LAYOUTS",),
    "limits": ("MICROSCOPY", "Limits"),
    "orientation": ("orientation_of", "reorient_array_back", "reorient_image"),
    "splits": ("Split", "make_all_split", "make_splits"),
}
_WHERE = {name: f"scanseg.data.{module}" for module, names in _PLACES.items() for name in names}

__all__ = [
    "LAYOUTS",
    "MICROSCOPY",
    "SUFFIXES",
    "CaseFacts",
    "CheckResult",
    "Dataset",
    "Limits",
    "Split",
    "check_dataset",
    "file_stem",
    "image_suffix",
    "indices_to_values",
    "label_map_to_indices",
    "load_dataset",
    "make_all_split",
    "make_splits",
    "orientation_of",
    "read_channels",
    "read_geometry",
    "read_image",
    "read_label_map",
    "reorient_array_back",
    "reorient_image",
    "same_geometry",
    "write_array",
    "write_label_map",
]


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that `import scanseg.data` stays light."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
