"""Training batches as a pure function of (seed, step), with nnU-Net's own sampling and augmentation."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scanseg.errors import Error, TrainingError, UsageError
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.nnunet.store import Preprocessed, PreprocessedStore

if TYPE_CHECKING:
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


@dataclass(frozen=True)
class Batch:
    """The input of one training step.

    Attributes:
        data: (B, C, *patch_size) float32.
        target: Class indices (B, 1, *patch_size) int16; with deep supervision a list, fine to coarse.
        case_ids: The case of each sample.
    """

    data: Tensor
    target: Tensor | list[Tensor]
    case_ids: tuple[str, ...]


@dataclass(frozen=True)
class Augmentation:
    """What nnU-Net derives from a patch size.

    Attributes:
        rotation: Range of the rotation angle in radians.
        in_plane: Whether patches are so flat that they are only turned within their slices.
        initial_patch_size: What is cut from the image, so that corners are filled after turning and scaling.
        mirror_axes: Spatial axes that may be mirrored.
    """

    rotation: tuple[float, float]
    in_plane: bool
    initial_patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...]


def deep_supervision_scales(configuration: Configuration) -> list[list[float]]:
    """Returns nnU-Net's scale of each deep-supervision output, fine to coarse, without the deepest stage.

    Example:
        For strides 1, 2, 2 the scales are 1 and 1/2 along each axis.
    """
    factors = np.cumprod(np.vstack(configuration.strides), axis=0)
    return [[float(scale) for scale in row] for row in 1 / factors][:-1]


def augmentation(patch_size: Sequence[int]) -> Augmentation:
    """Returns rotation, dummy 2D augmentation, initial patch and mirror axes by nnU-Net's own rule."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    # The rule is a method of the trainer, but needs only the patch of it.
    trainer = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=list(patch_size)),
        print_to_log_file=lambda *args: None,
    )
    rotation, in_plane, initial, axes = (
        nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
    )
    return Augmentation(rotation, bool(in_plane), tuple(int(size) for size in initial), tuple(axes))


class Batches:
    """Batches of one part of a fold; `batch(step)` depends on nothing but the arguments here and the step.

    Each sample is seeded by (seed, step, index, train), so the batch is the same for any number of workers,
    threads or processes, and a training resumed at a step sees what it would have seen.

    Args:
        store: Store that `preprocess_dataset` wrote, or its folder.
        case_ids: Cases to sample from.
        plan: The plan.
        configuration: One of its configurations.
        seed: Any whole number from 0 on.
        train: Augment, and draw another stream than validation.
        deep_supervision_scales: From `deep_supervision_scales`; None for one target.
        batch_size: Patches per step over all processes; the plan's by default.
        patch_size: Size of the patches; the plan's by default.
        oversample_foreground: Part of the batch, its last samples, that contain foreground for certain.
        augment: False leaves the training patches as they are.
        mirror: False leaves mirroring out of the augmentation.
        shard: (rank, count): this process's part of each batch, split as nnU-Net splits it.

    Raises:
        UsageError: No case, an unknown case, or a batch smaller than the number of processes.

    Source: sampling and transforms are `nnUNetDataLoader` and `nnUNetTrainer.get_training_transforms` of
        nnunetv2 2.8. One thing is set: the blur always convolves directly, where nnU-Net measures at run time
        whether an FFT is faster, which makes the last bits depend on the machine's load.
    """

    def __init__(
        self,
        store: PreprocessedStore | Path,
        case_ids: Sequence[str],
        plan: Plan,
        configuration: str | Configuration,
        *,
        seed: int,
        train: bool,
        deep_supervision_scales: list[list[float]] | None,
        batch_size: int | None = None,
        patch_size: Sequence[int] | None = None,
        oversample_foreground: float = 0.33,
        augment: bool = True,
        mirror: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.store = store if isinstance(store, PreprocessedStore) else PreprocessedStore(store)
        self.case_ids = sorted(case_ids)
        _check_cases(self.case_ids, self.store)
        self.plan = plan
        self.configuration = plan.configuration(configuration)
        self.seed = seed
        self.train = train
        self.scales = deep_supervision_scales
        self.batch_size = batch_size or self.configuration.batch_size
        self.patch_size = _checked_patch(patch_size, self.configuration)
        self.oversample_foreground = oversample_foreground
        self.augment = augment and train
        self.mirror = mirror
        self.samples = _shard(self.batch_size, *shard)
        self._loader: nnUNetDataLoader | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes make their own loader.
        return {**self.__dict__, "_loader": None}

    def batch(self, step: int) -> Batch:
        """Returns the batch of `step`, or this process's part of it.

        Global random states and the number of torch threads are as before afterwards.

        Raises:
            TrainingError: A sample cannot be made; names the case, the cause is the original exception.
        """
        with torch.no_grad(), _isolated():
            samples = [self._sample(step, index) for index in self.samples]
        targets = [sample["target"] for sample in samples]
        if self.scales is None:
            target: Tensor | list[Tensor] = torch.cat(targets)
        else:
            target = [torch.cat(level) for level in zip(*targets, strict=True)]
        ids = tuple(str(sample["keys"][0]) for sample in samples)
        return Batch(torch.cat([sample["data"] for sample in samples]), target, ids)

    def _sample(self, step: int, index: int) -> dict[str, Any]:
        loader = self._stock_loader()
        foreground = index >= round(self.batch_size * (1 - self.oversample_foreground))
        loader._data.foreground = foreground
        loader.get_do_oversample = lambda _: foreground
        _seed_all(np.random.SeedSequence([self.seed, step, index, int(self.train)]))
        try:
            return dict(loader.generate_train_batch())
        except Exception as error:
            case = loader._data.last
            raise TrainingError(
                f"Step {step}: no sample could be made from case {case}: {_text(error)}",
                code=error.code if isinstance(error, Error) else "E-BATCH-FAILED",
                hint=error.hint if isinstance(error, Error) else "",
            ) from error

    def _stock_loader(self) -> nnUNetDataLoader:
        if self._loader is None:
            self._loader = self._make_loader()
        return self._loader

    def _make_loader(self) -> nnUNetDataLoader:
        from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

        from scanseg.nnunet.stock import label_manager

        rule = augmentation(self.patch_size)
        # One sample at a time: nnU-Net draws the samples of a batch independently of each other.
        return nnUNetDataLoader(
            _Cases(self.store, self.case_ids),
            1,
            rule.initial_patch_size if self.augment else self.patch_size,
            self.patch_size,
            label_manager(self.plan),
            transforms=self._transforms(rule),
        )

    def _transforms(self, rule: Augmentation) -> Any:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        if not self.augment:
            return nnUNetTrainer.get_validation_transforms(self.scales)
        transforms = nnUNetTrainer.get_training_transforms(
            self.patch_size,
            rule.rotation,
            self.scales,
            rule.mirror_axes if self.mirror else (),
            rule.in_plane,
            use_mask_for_norm=list(self.configuration.use_mask_for_norm),
        )
        _without_timing(transforms)
        return transforms


def iterate(
    batches: Batches,
    first_step: int,
    last_step: int,
    workers: int = 0,
    *,
    context: str | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yields the batches of first_step <= step < last_step in order.

    Workers start once per call, which takes seconds: make one iterator for a whole training, not per epoch.

    Args:
        batches: The batches.
        first_step: First step.
        last_step: One past the last step.
        workers: Processes that prepare batches ahead; 0 prepares them here, when they are asked for.
        context: `fork`, `spawn` or `forkserver`; the platform's own by default.
        pin_memory: Put batches into page-locked memory, for faster copies to a GPU.

    Raises:
        TrainingError: A batch failed (notes carry the worker's traceback), or a worker was killed.
    """
    if workers < 1:
        for step in range(first_step, last_step):
            yield batches.batch(step)
        return
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        _Steps(batches, first_step, last_step),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=_as_is,
        # Else making the loader would draw from the global generator.
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
    for item in _unless_killed(iter(loader)):
        if isinstance(item, _Failure):
            raise item.error
        yield Batch(*item)


def _unless_killed(items: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from items
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"A process that prepares batches was killed ({str(error).splitlines()[0]}).",
            code="E-BATCH-WORKER",
            hint="Probably the memory ran out; use fewer workers.",
        ) from error


@dataclass(frozen=True)
class _Failure:
    error: Exception


class _Steps(torch.utils.data.Dataset[Any]):
    def __init__(self, batches: Batches, first_step: int, last_step: int) -> None:
        self.batches, self.first_step, self.count = batches, first_step, last_step - first_step

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, ...] | _Failure:
        try:
            batch = self.batches.batch(self.first_step + index)
        except TrainingError as error:
            # torch rebuilds exceptions from their text alone; as a value it arrives whole.
            error.add_note("".join(traceback.format_exception(error)))
            return _Failure(error)
        return batch.data, batch.target, batch.case_ids


def _as_is(item: Any) -> Any:
    return item


class _Cases:
    """What nnUNetDataLoader asks of a dataset."""

    def __init__(self, store: PreprocessedStore, identifiers: list[str]) -> None:
        self.store, self.identifiers = store, identifiers
        self.foreground, self.last = False, ""

    def load_case(self, case_id: str) -> tuple[Any, Any, None, dict[str, Any]]:
        self.last = str(case_id)
        case: Preprocessed = self.store.load_case(self.last, locations=self.foreground)
        return case.data, case.seg, None, {"class_locations": case.class_locations}


@contextmanager
def _isolated() -> Iterator[None]:
    """Keeps the global random states, and runs torch on one thread: sums depend on the number of threads."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _seed_all(sequence: np.random.SeedSequence) -> None:
    words = sequence.generate_state(10)
    random.seed(int(words[0]))
    np.random.seed(words[1:9])  # noqa: NPY002 (nnU-Net draws from the global generator)
    # Not torch.manual_seed, which would also reseed the GPUs.
    torch.default_generator.manual_seed(int(words[9]))


def _without_timing(transform: Any) -> None:
    """Turns off the run-time choice between convolution and FFT in every blur of a composed transform."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    for part in (*getattr(transform, "transforms", ()), getattr(transform, "transform", None)):
        if part is not None:
            _without_timing(part)


def _shard(batch_size: int, rank: int, count: int) -> range:
    if not 0 <= rank < count <= batch_size:
        raise UsageError(
            f"A batch of {batch_size} cannot be split over {count} processes (this is number {rank}).",
            code="E-BATCH-SHARD",
            hint="Use a larger batch or fewer processes.",
        )
    sizes = [batch_size // count + (part < batch_size % count) for part in range(count)]
    return range(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def _check_cases(case_ids: Sequence[str], store: PreprocessedStore) -> None:
    missing = sorted(set(case_ids) - set(store.identifiers))
    if missing or not case_ids:
        what = (
            f"{len(missing)} cases are not preprocessed, the first is {missing[0]}" if missing else "no case"
        )
        raise UsageError(f"Batches need preprocessed cases: {what}.", code="E-BATCH-CASES")


def _checked_patch(patch_size: Sequence[int] | None, configuration: Configuration) -> tuple[int, ...]:
    patch = tuple(int(size) for size in patch_size or configuration.patch_size)
    if len(patch) != configuration.spatial_dims or min(patch) < 1:
        raise UsageError(
            f"patch_size must be {configuration.spatial_dims} positive numbers, got {list(patch)}.",
            code="E-BATCH-PATCH",
        )
    return patch


def _text(error: Exception) -> str:
    return error.message if isinstance(error, Error) else f"{type(error).__name__}: {error}"
