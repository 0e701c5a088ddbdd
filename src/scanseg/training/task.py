"""What is to be trained: the facts that a training, its identity and its description are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scanseg.data.splits import Split
from scanseg.errors import UsageError
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.training.recipe import PLANNED, Recipe


@dataclass(frozen=True)
class Task:
    """A training that somebody wants.

    Attributes:
        plan: The plan the cases were preprocessed with.
        configuration: One of its configurations.
        store_folder: Where `preprocess_dataset` wrote.
        split: Cases to train on and to validate on.
        recipe: Everything else.
        fold: What to call the split, None if it has no name.
    """

    plan: Plan
    configuration: Configuration
    store_folder: Path
    split: Split
    recipe: Recipe
    fold: int | str | None = None

    def check(self) -> None:
        """Refuses recipes that do not fit the plan or the split.

        Raises:
            UsageError: The recipe's batch, patch or sharpening is not the plan's (strides, memory and the
                prepared images depend on them, so the plan has to know them), its patch has other dimensions,
                or it wants to stop early without validation cases.
        """
        patch, dims = self.recipe.patch_size, self.configuration.spatial_dims
        if patch is not None and len(patch) != dims:
            raise UsageError(
                f"The recipe's patch_size {patch} has {len(patch)} axes, the configuration "
                f"{self.configuration.name} has {dims}.",
                code="E-RECIPE-PLAN",
                hint="Train another configuration (--config 2d for slices), or set another patch_size.",
            )
        for name in PLANNED:
            wanted, planned = getattr(self.recipe, name), getattr(self.configuration, name)
            if wanted is not None and wanted != planned:
                raise UsageError(
                    f"The recipe's {name} is {wanted}, but the plan was made with {planned}.",
                    code="E-RECIPE-PLAN",
                    hint=f"Make the plan with overrides={{'{name}': {wanted}}}.",
                )
        if self.recipe.early_stop is not None and not self.split.validation:
            raise UsageError(
                "early_stop needs validation cases, and this split has none.",
                code="E-RECIPE-EARLY-STOP",
                hint="Train for a number of epochs or minutes.",
            )
