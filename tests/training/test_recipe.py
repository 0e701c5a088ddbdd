"""Recipes: presets, files, and what they refuse."""

import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.training.recipe import Recipe, presets


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_survives_a_file(name, tmp_path):
    recipe = Recipe.load(name)
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe


def test_the_default_is_nnunets_recipe():
    recipe = Recipe.load("nnunet")
    assert recipe == Recipe()
    facts = (recipe.epochs, recipe.iterations_per_epoch, recipe.validation_iterations, recipe.clip_norm)
    assert facts == (1000, 250, 50, 12.0)
    optimizer = recipe.create_optimizer(nn.Linear(1, 1), nn.Identity())
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    wanted = {"lr": 1e-2, "momentum": 0.99, "weight_decay": 3e-5, "nesterov": True}
    assert {key: group[key] for key in wanted} == wanted


def test_the_preset_file_of_nnunet_names_every_field():
    import scanseg.training

    text = (Path(scanseg.training.__file__).parent / "presets" / "nnunet.toml").read_text()
    without_value = {"auxiliary_loss", "minutes", "early_stop", "batch_size", "patch_size"}
    without_value |= {"pretrained", "pretrained_sha256", "sharpen_amount", "sharpen_radius"}
    assert set(tomllib.loads(text)) == set(Recipe.model_fields) - without_value


def test_all_fields_survive_a_file(tmp_path):
    recipe = Recipe(
        network="umamba_enc",
        network_options={"base_features": 8},
        optimizer="adamw",
        optimizer_options={"beta2": 0.99},
        loss_options={"weight_ce": 0.5},
        minutes=2.5,
        early_stop=7,
        batch_size=3,
        patch_size=(8, 16, 24),
    )
    recipe.save(tmp_path / "mine.toml")
    assert Recipe.load(str(tmp_path / "mine.toml")) == recipe


def test_options_reach_what_they_are_for():
    recipe = Recipe(
        optimizer="adam",
        optimizer_options={"beta1": 0.5},
        loss_options={"weight_ce": 2.0},
        schedule="cosine",
        schedule_options={"minimum": 0.001},
    )
    assert recipe.create_optimizer(nn.Linear(1, 1), nn.Identity()).defaults["betas"] == (0.5, 0.999)
    assert recipe.create_loss(batch_dice=True).loss.weight_ce == 2.0
    assert recipe.create_schedule()(1.0) == pytest.approx(0.001)


@pytest.mark.parametrize("planned", [True, False])
def test_the_dice_is_the_plans_unless_the_recipe_says_otherwise(planned):
    assert Recipe().create_loss(batch_dice=planned).loss.form["batch_dice"] is planned
    for wanted in (True, False):
        recipe = Recipe(loss_options={"batch_dice": wanted})
        assert recipe.create_loss(batch_dice=planned).loss.form["batch_dice"] is wanted
        components = {"dice": {"batch_dice": wanted}}
        nested = Recipe(loss="uncertainty_aware", loss_options={"components": components})
        assert nested.create_loss(batch_dice=planned).loss.parts[0].form["batch_dice"] is wanted


AUXILIARY = {"auxiliary_loss": "cosine_consistency"}
WRONG = [
    ({"learning_rte": 1}, r"no field 'learning_rte'. Did you mean learning_rate\? Known: network, "),
    ({"learning_rate": 0}, r"learning_rate .*greater than 0, got 0"),
    ({"learning_rate": float("nan")}, r"learning_rate .*finite"),
    ({"precision": "fp16"}, r"precision .*'fp32' or 'bf16', got 'fp16'"),
    ({"epochs": 0}, r"epochs .*greater than or equal to 1"),
    ({"epochs": "many"}, r"epochs .*valid integer"),
    ({"patch_size": [1]}, r"patch_size .*at least 2 items"),
    ({"network": "umamba_bott"}, r"Unknown network 'umamba_bott'. Did you mean umamba_bot"),
    ({"network_options": {"base_feature": 8}}, r"umamba_bot has no option 'base_feature'.*base_features"),
    ({"loss": "dice_ec"}, r"Unknown loss 'dice_ec'. .*Known: dice_ce"),
    ({"optimizer": "sam"}, r"Unknown optimizer 'sam'"),
    ({"schedule": "step"}, r"Unknown schedule 'step'"),
    ({"loss_options": {"gamma": 2}}, r"'dice_ce' has no option 'gamma'.*Accepted: batch_dice, weight_dice"),
    ({"optimizer_options": {"rho": 2}}, r"'sgd' has no option 'rho'"),
    ({"schedule_options": {"steps": 2}}, r"'poly' has no option 'steps'"),
    ({"loss_options": {"squared": 1}}, r"squared must be true or false, got 1"),
    ({"loss": "focal", "loss_options": {"batch_dice": True}}, r"'focal' has no option 'batch_dice'"),
    ({"schedule": "cosine", "schedule_options": {"halves": 0}}, r"halves must be a whole number from 1 on"),
    (
        {"schedule": "multi_step", "schedule_options": {"milestones": [0.5, 0.25]}},
        r"rising milestones between 0 and 1 .*got \[0.5, 0.25\]",
    ),
    ({"sam_rho": -0.05}, r"sam_rho .*greater than or equal to 0, got -0.05"),
    ({"sam_adaptive": True}, r"sam_adaptive, but sam_rho is 0"),
    (AUXILIARY, r"cosine_consistency needs more than logits, and umamba_bot gives nothing else"),
    ({**AUXILIARY, "network": "mamba_unet"}, r"and mamba_unet gives nothing else\. Leave auxiliary_loss out"),
    ({"auxiliary_loss": "cosine"}, r"Unknown auxiliary loss 'cosine'.*Known: cosine_consistency"),
    ({**AUXILIARY, "auxiliary_options": {"pair": ""}}, r"has no option 'pair'.*Accepted: pairs, reduction"),
    ({**AUXILIARY, "auxiliary_options": {"pairs": ""}}, r"pairs must be one of forward_backward, same_"),
    ({"auxiliary_options": {"pairs": "x"}}, r"auxiliary_options, but no auxiliary_loss"),
    ({"freeze_encoder_epochs": 1}, r"freeze_encoder_epochs needs a .* VMamba's encoder, and umamba_bot has"),
    ({"network": "hunet_light", "pretrained": "a.safetensors"}, r"pretrained needs .* and hunet_light has"),
    ({"network": "vm_unet", "pretrained": "a.pth"}, r"a.pth is not a safetensors file.*torch.load"),
    ({"pretrained_sha256": "0" * 64}, r"pretrained_sha256, but no pretrained file"),
    ({"pretrained_sha256": "0" * 63}, r"pretrained_sha256 .*pattern"),
    ({"auxiliary_weight": -0.3}, r"auxiliary_weight .*greater than or equal to 0, got -0.3"),
    ({"loss": "focal", "loss_options": {"gamma": -1}}, r"gamma must be a number from 0 .*got -1"),
    (
        {"loss": "uncertainty_aware", "loss_options": {"components": {"dise": {}}}},
        r"Unknown loss 'dise'. Did you mean dice",
    ),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[str(fields) for fields, _ in WRONG])
def test_what_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**fields)
    with pytest.raises(UsageError, match=message):
        Recipe().changed(**fields)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"Unknown recipe 'nnunett'. Did you mean nnunet\?"):
        Recipe.load("nnunett")
    with pytest.raises(UsageError, match=r"cannot be read"):
        Recipe.load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(UsageError, match=r"bad.toml is not valid TOML"):
        Recipe.load(tmp_path / "bad.toml")


def test_recipes_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().epochs = 3
