"""From an image to a label map in the image's own geometry."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.data.dataset import indices_to_values
from scanseg.data.image import read_channels, write_array, write_label_map
from scanseg.data.orientation import reorient_array_back, reorient_image
from scanseg.devices import resolve_device, usable_cores
from scanseg.errors import DataError, ModelError
from scanseg.files import read_json
from scanseg.nnunet.export import logits_to_label_map
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.nnunet.preprocess import preprocess_case
from scanseg.nnunet.windows import predict_logits
from scanseg.progress import Report, silent
from scanseg.training.run import load_network
from scanseg.types import Array, Geometry, Image, Label

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prediction:
    """A segmented image.

    Attributes:
        mask: Label values of the dataset, (*spatial), in the geometry of the input.
        labels: The classes, background first.
        geometry: Of the input image.
        probabilities: (class, *spatial) float32 if asked for, else None.
        notes: What a reader of the mask should know, for example a spacing outside the training range.
    """

    mask: Array
    labels: tuple[Label, ...]
    geometry: Geometry
    probabilities: Array | None = None
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes the mask; the ending of `path` chooses the format."""
        write_label_map(Path(path), self.mask, self.geometry)

    def save_probabilities(self, path: Path) -> None:
        """Writes the probabilities, one channel a class.

        Raises:
            ValueError: They were not asked for.
        """
        if self.probabilities is None:
            raise ValueError("predict was called without probabilities=True")
        write_array(Path(path), self.probabilities, self.geometry)

    def statistics(self) -> dict[str, Any]:
        """Returns volume or area, components, centroid and border contact of every label."""
        from scanseg.evaluation.stats import mask_statistics

        return mask_statistics(self.mask, self.labels, self.geometry)


@dataclass(frozen=True)
class _Member:
    network: torch.nn.Module
    config: dict[str, Any]
    plan: Plan

    @property
    def configuration(self) -> Configuration:
        return self.plan.configurations[self.config["configuration"]]


class Model:
    """Trained networks, loaded once and used for any number of images.

    Several run folders, or a folder of folds, make an ensemble: their logits are averaged, as nnU-Net does
    for its folds. Calls are serialised by a lock, so a model may be shared by threads.

    Args:
        run: A run folder, a folder of folds, or several of them.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threads: Processor threads; all usable cores by default.
        weights: `final`, or `best` for the epoch with the best pseudo Dice.

    Raises:
        ModelError: A folder is no run, is damaged, or the members of an ensemble do not match.
    """

    def __init__(
        self,
        run: Path | str | Sequence[Path | str],
        *,
        device: str = "auto",
        threads: int | None = None,
        weights: str = "final",
    ) -> None:
        runs = [Path(run)] if isinstance(run, str | Path) else [Path(item) for item in run]
        self.device = resolve_device(device)
        self.threads = threads or usable_cores()
        folders = [folder for item in runs for folder in member_folders(item)]
        self._members = [_load(folder, self.device, weights) for folder in folders]
        self._lock = threading.Lock()
        _check_members(self._members, folders)
        self.folders = tuple(folders)
        self._spacing_range = _spacing_range(folders[0])

    @property
    def config(self) -> dict[str, Any]:
        """The config.json of the first member."""
        return self._members[0].config

    @property
    def weights_sha256(self) -> tuple[str, ...]:
        """The SHA-256 of each member's weights."""
        return tuple(member.config["weights_sha256"] for member in self._members)

    @property
    def citation(self) -> str:
        """What to cite for the training data, empty if the dataset names nothing."""
        path = self.folders[0] / "dataset.json"
        return str(read_json(path).get("citation", "")) if path.is_file() else ""

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes, background first."""
        return tuple(Label(entry["value"], entry["name"]) for entry in self.config["labels"])

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the image channels are, in order."""
        return tuple(self.config["channel_names"])

    def first_network(self) -> tuple[torch.nn.Module, Plan, Configuration]:
        """Returns the network of the first member with its plan and configuration, to look inside."""
        first = self._members[0]
        return first.network, first.plan, first.configuration

    def predict(
        self,
        image: Path | str | Sequence[Path | str] | Image,
        *,
        probabilities: bool = False,
        mirror: bool = False,
        step_size: float = 0.5,
        nan_fill: float | None = None,
        spacing: tuple[float, ...] | None = None,
        report: Report = silent,
    ) -> Prediction:
        """Segments one image.

        Args:
            image: A file, one file per channel, or an `Image` in memory.
            probabilities: Also return the probability of every class at full size (4 bytes a voxel and
                class, in a temporary file above 1 GiB).
            mirror: Average over mirrored images; 2^axes times slower.
            step_size: Step of the sliding window as a fraction of the patch, in (0, 1].
            nan_fill: Replaces NaN and infinite voxels; without it they are refused.
            spacing: Voxel size for files that carry none.
            report: Told about each window.

        Raises:
            DataError: The image cannot be read, or does not fit the model.
            ModelError: The network's output is not finite.

        Example:
            >>> model = Model("runs/heart")  # doctest: +SKIP
            >>> model.predict("mri.nii.gz").save("mask.nii.gz")  # doctest: +SKIP
        """
        if not isinstance(image, Image):
            paths = [Path(image)] if isinstance(image, str | Path) else [Path(item) for item in image]
            image = read_channels(paths, nan_fill=nan_fill, spacing=spacing)
        notes = self._check_image(image)
        if mirror and not self.config["mirror_axes"]:
            notes.append("The network was trained without mirroring, so none was averaged over.")
        with self._lock, _torch_threads(self.threads):
            return self._predict(image, notes, probabilities, mirror, step_size, report)

    def _predict(
        self,
        image: Image,
        notes: list[str],
        probabilities: bool,
        mirror: bool,
        step_size: float,
        report: Report,
    ) -> Prediction:
        first = self._members[0]
        turned = reorient_image(image, first.plan.orientation)
        case = preprocess_case(turned, None, first.plan, first.configuration)
        logits = self._logits(_as_tensor(case.data), mirror, step_size, report)
        indices, chances = logits_to_label_map(
            logits, case.properties, first.plan, first.configuration, probabilities=probabilities
        )
        mask = indices_to_values(
            reorient_array_back(indices, image.geometry, first.plan.orientation), self.labels
        )
        if chances is not None:
            chances = reorient_array_back(np.asarray(chances), image.geometry, first.plan.orientation)
        return Prediction(mask, self.labels, image.geometry, chances, tuple(notes))

    def _logits(self, data: torch.Tensor, mirror: bool, step_size: float, report: Report) -> torch.Tensor:
        """Returns the mean of the members' logits."""
        total = None
        for member in self._members:
            logits = predict_logits(
                member.network,
                data,
                member.configuration,
                device=self.device,
                mirror=mirror,
                mirror_axes=member.config["mirror_axes"],
                step_size=step_size,
                report=report,
            )
            total = logits if total is None else total.add_(logits)
            del logits  # Before the next member fills another one.
        if total is None:
            raise ModelError("The model has no members.", code="E-MODEL-EMPTY")
        return total.div_(len(self._members)) if len(self._members) > 1 else total

    def _check_image(self, image: Image) -> list[str]:
        expected = len(self.channel_names)
        where = f"{image.path}: " if image.path else ""
        if image.array.shape[0] != expected:
            names = ", ".join(self.channel_names)
            raise DataError(
                f"{where}the image has {image.array.shape[0]} channels, the model was trained on "
                f"{expected} ({names}).",
                code="E-IMAGE-CHANNELS",
                hint="Give one file per channel in that order, named CASE_0000, CASE_0001, ...",
            )
        dims = image.geometry.spatial_dims
        trained = self._members[0].plan.spatial_dims
        if dims != trained:
            raise DataError(
                f"{where}the image is {dims}D, the model was trained on {trained}D images.",
                code="E-IMAGE-DIMENSIONS",
                hint="Use a model trained on images of this kind.",
            )
        return _spacing_notes(image.geometry, self._spacing_range)


def load(
    run: Path | str | Sequence[Path | str],
    *,
    device: str = "auto",
    threads: int | None = None,
    weights: str = "final",
) -> Model:
    """Returns a trained model ready to predict; see `Model`.

    Example:
        >>> import scanseg
        >>> scanseg.load("runs/heart").predict("mri.nii.gz").mask  # doctest: +SKIP
    """
    return Model(run, device=device, threads=threads, weights=weights)


def member_folders(run: Path) -> list[Path]:
    """Returns the folders with weights in a run: itself, or its folds.

    Raises:
        ModelError: There are none.
    """
    if (run / "model.safetensors").is_file():
        return [run]
    folds = sorted(path.parent for path in run.glob("fold_*/model.safetensors"))
    if not folds:
        raise ModelError(
            f"{run} is not a finished run: it holds no model.safetensors and no fold_*/model.safetensors.",
            code="E-MODEL-MISSING",
            hint="Give the folder that `scanseg train -o` wrote; continue a stopped run by the same command.",
        )
    return folds


def _load(folder: Path, device: torch.device, weights: str) -> _Member:
    return _Member(*load_network(folder, device=device, weights=weights))


def _check_members(members: Sequence[_Member], folders: Sequence[Path]) -> None:
    def facts(member: _Member) -> tuple[Any, ...]:
        chosen = member.configuration
        return (
            member.config["labels"],
            member.config["channel_names"],
            member.plan.orientation,
            chosen.spacing,
            chosen.normalization,
            chosen.sharpen_amount,
            chosen.sharpen_radius,
        )

    for member, folder in zip(members, folders, strict=True):
        if facts(member) != facts(members[0]):
            raise ModelError(
                f"{folder} and {folders[0]} cannot be averaged: labels, channels or preparation differ.",
                code="E-MODEL-ENSEMBLE",
                hint="Make ensembles of runs on the same dataset and configuration.",
            )


def _spacing_range(folder: Path) -> tuple[list[float], list[float]] | None:
    path = folder / "fingerprint.json"
    if not path.is_file():
        return None
    spacings = np.sort(np.asarray(read_json(path)["spacings"], float), axis=1)
    return list(spacings.min(0)), list(spacings.max(0))


def _spacing_notes(geometry: Geometry, spacing_range: tuple[list[float], list[float]] | None) -> list[str]:
    if not spacing_range or geometry.unit != "mm":
        return []
    finest, coarsest = spacing_range
    if len(finest) != len(geometry.spacing):
        return []
    outside = any(
        value < low / 1.5 or value > high * 1.5
        for value, low, high in zip(sorted(geometry.spacing), finest, coarsest, strict=True)
    )
    if not outside:
        return []
    seen = " x ".join(f"{value:.3g}" for value in geometry.spacing)
    known = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in zip(finest, coarsest, strict=True))
    return [f"Voxel spacing {seen} mm lies outside the training range ({known} mm); check the mask."]


def _as_tensor(array: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
