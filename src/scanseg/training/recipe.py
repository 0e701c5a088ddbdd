"""The recipe: what a person chooses about a training, as values."""

from __future__ import annotations

import difflib
import importlib.resources
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scanseg.errors import UsageError
from scanseg.files import write_text
from scanseg.registry import accepted_options
from scanseg.types import Shape

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from scanseg.optim import SAM, Schedule
    from scanseg.training.auxiliary import Auxiliary


# Fields that the plan has to know.
PLANNED = ("batch_size", "patch_size", "sharpen_amount", "sharpen_radius")


class Recipe(BaseModel):
    """Everything about a training that the data does not decide. The defaults are nnU-Net's.

    Attributes:
        network: Registered network.
        network_options: Its options, for example `{"base_features": 16}`.
        pretrained: Path of a local safetensors file with VMamba's weights, read once when a run begins.
        pretrained_sha256: Its SHA-256; another file is refused.
        freeze_encoder_epochs: Epochs at the beginning in which the parameters that VMamba's weights fill stay
            as they are, whether or not there is such a file.
        loss: Registered loss.
        loss_options: Its options.
        deep_supervision: Also judge the coarser outputs of networks that have them.
        auxiliary_loss: Registered auxiliary loss (`cosine_consistency`) of what the network tells besides its
            logits, added to the loss while training; only for networks with `forward_with_aux`.
        auxiliary_weight: Its factor.
        auxiliary_options: Its options, for example `{"pairs": "same_direction"}`.
        optimizer: `sgd`, `adamw` or `adam`.
        optimizer_options: Its options, for example `{"beta2": 0.99}`.
        learning_rate: The highest learning rate.
        momentum: Of SGD; the other optimisers do not use it.
        weight_decay: Of the network's parameters; what a loss learns has none.
        sam_rho: How far sharpness-aware minimisation climbs before it takes the gradient of a step; then a
            step passes twice over its batch. 0 is without it.
        sam_adaptive: It climbs relative to the size of each weight.
        schedule: `poly`, `cosine`, `multi_step` or `constant`.
        schedule_options: Its options, for example `{"exponent": 0.9}`.
        schedule_per: Whether the rate changes after every epoch (as in nnU-Net) or every step.
        warmup: Fraction of the training in which the rate rises.
        epochs: Epochs to train, unless `minutes` is set.
        iterations_per_epoch: Training steps per epoch; with `minutes` an upper limit.
        validation_iterations: Validation batches per epoch; with `minutes` in the same proportion.
        minutes: Train for about this time; the number of epochs is measured, see `timetable`.
        early_stop: Stop after this many epochs without a better moving average of the pseudo Dice.
        seed: Of weights, batches and dropout.
        precision: `fp32`, or `bf16` (automatic mixed precision; the scan keeps its state in fp32).
        clip_norm: Largest norm of the network's gradient; 0 does not clip.
        nonfinite_limit: Skipped steps in a row (NaN or infinity) after which training stops with an error.
        oversample_foreground: Fraction of each batch that is made to contain foreground.
        augment: Vary the training patches at random, as nnU-Net does.
        mirror: Mirroring belongs to these variations.
        batch_size: Instead of the plan's.
        patch_size: Instead of the plan's, axes of the network.
        sharpen_amount: Instead of the plan's (0): how much images are sharpened before the network sees them,
            in training and prediction alike; see `nnunet.sharpen`.
        sharpen_radius: Instead of the plan's (1): of the blur in it, in voxels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: str = "umamba_bot"
    network_options: dict[str, Any] = Field(default_factory=dict)
    pretrained: str | None = Field(None, min_length=1)
    pretrained_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    freeze_encoder_epochs: int = Field(0, ge=0)
    loss: str = "dice_ce"
    loss_options: dict[str, Any] = Field(default_factory=dict)
    deep_supervision: bool = True
    auxiliary_loss: str | None = None
    auxiliary_weight: float = Field(0.3, ge=0)
    auxiliary_options: dict[str, Any] = Field(default_factory=dict)
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.99, ge=0, lt=1)
    weight_decay: float = Field(3e-5, ge=0)
    sam_rho: float = Field(0.0, ge=0)
    sam_adaptive: bool = False
    schedule: str = "poly"
    schedule_options: dict[str, Any] = Field(default_factory=dict)
    schedule_per: Literal["epoch", "step"] = "epoch"
    warmup: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(1000, ge=1)
    iterations_per_epoch: int = Field(250, ge=1)
    validation_iterations: int = Field(50, ge=0)
    minutes: float | None = Field(None, gt=0)
    early_stop: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16"] = "fp32"
    clip_norm: float = Field(12.0, ge=0)
    nonfinite_limit: int = Field(10, ge=1)
    oversample_foreground: float = Field(0.33, ge=0, le=1)
    augment: bool = True
    mirror: bool = True
    batch_size: int | None = Field(None, ge=1)
    patch_size: Shape | None = Field(None, min_length=2, max_length=3)
    sharpen_amount: float | None = Field(None, ge=0)
    sharpen_radius: float | None = Field(None, gt=0)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _usage_error(error, tuple(type(self).model_fields)) from error

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Refuses unknown names, options of theirs that do not exist, and fields that do not go together."""
        import torch
        from torch import nn

        from scanseg.networks import NETWORKS
        from scanseg.networks.registry import check_options
        from scanseg.training.abilities import check_abilities
        from scanseg.training.encoder import require_safetensors

        check_options(NETWORKS[self.network], self.network_options)
        # A parameter for the optimiser to be made with; a layer would draw from the global random state.
        learner = nn.ParameterList([nn.Parameter(torch.zeros(1))])
        self.create_optimizer(learner, self.create_loss(batch_dice=False))
        self.create_schedule()
        if self.sam_adaptive and self.sam_rho == 0:
            raise UsageError(
                "The recipe has sam_adaptive, but sam_rho is 0, which is without SAM.",
                code="E-RECIPE-SAM",
                hint="Set sam_rho too, or leave sam_adaptive out.",
            )
        if self.create_auxiliary() is None and self.auxiliary_options:
            raise UsageError(
                "The recipe has auxiliary_options, but no auxiliary_loss.",
                code="E-RECIPE-AUXILIARY",
                hint="Name the auxiliary_loss too, or leave its options out.",
            )
        if self.pretrained is not None:
            require_safetensors(self.pretrained)
        elif self.pretrained_sha256 is not None:
            raise UsageError(
                "The recipe has pretrained_sha256, but no pretrained file.",
                code="E-RECIPE-PRETRAINED",
                hint="Name the file in pretrained too, or leave its SHA-256 out.",
            )
        check_abilities(self)
        return self

    def create_loss(self, *, batch_dice: bool) -> nn.Module:
        """Returns the loss; `batch_dice` is the plan's, unless the loss's options have their own."""
        from scanseg.losses import DeepSupervision, build_loss

        loss = build_loss(self.loss, self.loss_options, batch_dice=batch_dice, ignore_index=None)
        return DeepSupervision(loss)

    def create_auxiliary(self) -> Auxiliary | None:
        """Returns the auxiliary loss and its factor, None without one."""
        from scanseg.losses import create_auxiliary_loss
        from scanseg.training.auxiliary import Auxiliary

        if self.auxiliary_loss is None:
            return None
        loss = create_auxiliary_loss(self.auxiliary_loss, **self.auxiliary_options)
        return Auxiliary(loss, self.auxiliary_weight)

    def create_optimizer(self, network: nn.Module, loss: nn.Module) -> Optimizer:
        """Returns the optimiser of everything that the network and the loss learn."""
        from scanseg.optim import OPTIMIZERS, create_optimizer, parameter_groups

        options = self.optimizer_options
        if "momentum" in accepted_options(OPTIMIZERS[self.optimizer]):
            options = {"momentum": self.momentum, **options}
        groups = parameter_groups(network, loss, weight_decay=self.weight_decay)
        return create_optimizer(self.optimizer, groups, learning_rate=self.learning_rate, **options)

    def create_sam(self) -> SAM | None:
        """Returns how a step climbs before it takes its gradient, None if it does not."""
        from scanseg.optim import SAM

        return SAM(self.sam_rho, self.sam_adaptive) if self.sam_rho > 0 else None

    def create_schedule(self) -> Schedule:
        """Returns the function from progress in [0, 1) to the learning rate."""
        from scanseg.optim import create_schedule

        options = {"warmup": self.warmup, **self.schedule_options}
        return create_schedule(self.schedule, learning_rate=self.learning_rate, **options)

    def changed(self, **changes: Any) -> Self:
        """Returns the recipe with some fields changed.

        Raises:
            UsageError: A field or value is not accepted.
        """
        return type(self)(**{**self.model_dump(), **changes})

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Returns a preset by its name, or the recipe in a TOML file.

        Fields that the file leaves out keep their defaults.

        Raises:
            UsageError: There is no such preset or file, or it holds something that is not accepted.

        Example:
            >>> Recipe.load("nnunet").epochs
            1000
        """
        path = Path(name_or_path)
        if path.suffix == ".toml" or path.is_file():
            return cls._parse(_read(path), str(path))
        names = presets()
        if str(name_or_path) not in names:
            near = difflib.get_close_matches(str(name_or_path), names, n=1)
            guess = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"Unknown recipe {str(name_or_path)!r}.",
                code="E-RECIPE-UNKNOWN",
                hint=f"{guess}Known: {', '.join(names)}, or a .toml file.",
            )
        folder = importlib.resources.files("scanseg.training") / "presets"
        return cls._parse((folder / f"{name_or_path}.toml").read_text("utf-8"), str(name_or_path))

    @classmethod
    def _parse(cls, text: str, source: str) -> Self:
        try:
            fields = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{source} is not valid TOML: {error}.", code="E-RECIPE-TOML") from error
        return cls(**fields)

    def save(self, path: Path) -> None:
        """Writes the recipe to `path` as TOML, atomically. Fields without a value are left out."""
        write_text(path, tomli_w.dumps(self.model_dump(mode="json", exclude_none=True)))


def presets() -> tuple[str, ...]:
    """Returns the names of the recipes that come with the package."""
    folder = importlib.resources.files("scanseg.training") / "presets"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir()))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read ({error}).", code="E-RECIPE-FILE") from error


def _usage_error(error: ValidationError, known: tuple[str, ...]) -> UsageError:
    """Turns pydantic's list of faults into one sentence and what is accepted."""
    fault = error.errors()[0]
    if isinstance(inner := fault.get("ctx", {}).get("error"), UsageError):
        return inner
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return UsageError(
            f"The recipe's {where} is not accepted: {fault['msg']}, got {fault['input']!r}.",
            code="E-RECIPE-VALUE",
        )
    near = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
    return UsageError(
        f"A recipe has no field {where!r}.",
        code="E-RECIPE-FIELD",
        hint=f"{f'Did you mean {near[0]}? ' if near else ''}Known: {', '.join(known)}.",
    )
