"""The presets of UD-Mamba: what they say, and that the rows of its tables differ in what the tables vary."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from scanseg.scans import SCANS
from scanseg.training.recipe import Recipe, presets

# Row -> what it has instead of ud_mamba, the row that all three tables share.
ROWS: dict[str, dict[str, Any]] = {
    "table4_location": {"network": "mamba_unet", "auxiliary_loss": None},
    "table4_sequential_up": {"scans": ["sequential_up"], "alpha": "off", "auxiliary_loss": None},
    "table4_skip_up": {"scans": ["skip_up"], "alpha": "off", "auxiliary_loss": None},
    "table4_sequential": {
        "scans": ["sequential_down", "sequential_up"],
        "alpha": "off",
        "auxiliary_loss": None,
    },
    "table4_skip": {"scans": ["skip_down", "skip_up"], "alpha": "off", "auxiliary_loss": None},
    "table4_four_scans": {"alpha": "off", "auxiliary_loss": None},
    "table4_reweighted": {"auxiliary_loss": None},
    "table5_mad": {"uncertainty": "mad"},
    "table5_range": {"uncertainty": "range"},
    "table5_entropy": {"uncertainty": "entropy"},
    "table5_variance": {"uncertainty": "variance"},
    "table6_size_2": {"region": 2},
    "table6_size_4": {"region": 4},
    "table6_size_8": {"region": 8},
    "table6_proportional": {"region": "proportional"},
    "table6_inverse": {"region": "inverse"},
}


def test_the_preset_is_the_papers():
    recipe = Recipe.load("ud_mamba")
    assert (recipe.network, recipe.network_options, recipe.epochs) == ("ud_mamba", {}, 300)
    assert (recipe.optimizer, recipe.learning_rate, recipe.auxiliary_weight) == ("sgd", 0.01, 0.3)
    assert (recipe.auxiliary_loss, recipe.auxiliary_options) == ("cosine_consistency", {})
    rate = recipe.create_schedule()
    assert [rate(p) for p in (0.0, 0.4, 0.5, 0.7, 0.8)] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    assert (recipe.patch_size, recipe.batch_size) == ((256, 256), 24)


def test_every_row_is_there():
    prefix = "ud_mamba_table"
    assert {name for name in presets() if name.startswith(prefix)} == {f"ud_mamba_{row}" for row in ROWS}


@pytest.mark.parametrize(("row", "differences"), ROWS.items(), ids=ROWS)
def test_a_row_differs_in_what_its_table_varies(row, differences):
    fields = {name: value for name, value in differences.items() if name in Recipe.model_fields}
    options = {name: value for name, value in differences.items() if name not in fields}
    expected = Recipe.load("ud_mamba").changed(**fields, network_options=options)
    assert Recipe.load(f"ud_mamba_{row}") == expected


def test_the_scans_are_named_as_in_the_paper():
    """y1 to y4: sequential and skip from high to low uncertainty, then both from low to high."""
    assert SCANS == ("sequential_down", "skip_down", "sequential_up", "skip_up")


def test_the_published_preset_is_the_released_codes():
    """Its value against the plain formula: half Dice, half cross-entropy, and 0.3 of the added cosines."""
    recipe = Recipe.load("ud_mamba_published")
    assert recipe.network_options == {
        "uncertainty": "mad",
        "alpha": "after_encoder",
        "consistency_layer": "all",
    }
    assert recipe.epochs * recipe.iterations_per_epoch == 30_000
    optimizer = recipe.create_optimizer(torch.nn.Linear(1, 1), torch.nn.Identity())
    wanted = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
    assert {name: optimizer.param_groups[0][name] for name in wanted} == wanted
    assert recipe.create_schedule()(0.5) == pytest.approx(0.01 * 0.5**0.9)
    assert (recipe.augment, recipe.clip_norm, recipe.schedule_per) == (False, 0.0, "step")

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    target = torch.randint(0, 3, (2, 1, 4, 4), generator=generator)
    p, t = logits.softmax(1), functional.one_hot(target[:, 0], 3).movedim(-1, 1).float()
    axes = (0, 2, 3)
    dice = (2 * (p * t).sum(axes) + 1e-5) / ((p * p).sum(axes) + (t * t).sum(axes) + 1e-5)
    entropy = functional.cross_entropy(logits, target[:, 0])
    loss = recipe.create_loss(batch_dice=False)(logits, target)
    # Ours falls to -0.5, theirs to 0.
    assert loss.item() == pytest.approx(0.5 * ((1 - dice).mean() + entropy).item() - 0.5, abs=1e-6)

    auxiliary = recipe.create_auxiliary()
    assert auxiliary is not None
    scans = [torch.randn(2, 4, 3, 5, generator=generator) for _ in range(3)]
    found = auxiliary.loss({"scans": [[one] for one in scans], "scan_names": SCANS})
    cosines = [
        functional.cosine_similarity(one[:, a].flatten(1), one[:, b].flatten(1)).mean()
        for one in scans
        for a, b in ((0, 1), (2, 3))
    ]
    assert auxiliary.weight == 0.3
    assert found.item() == pytest.approx(3 - sum(cosines).item() / 2, abs=1e-5)
