"""One step of our loop against one step of nnU-Net's own trainer."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from scanseg.training.assemble import Training, assemble
from scanseg.training.validation import validate_patches

CPU = torch.device("cpu")


def stock_trainer(prepared, workspace: Path, monkeypatch, features: list[int]) -> nnUNetTrainer:
    """Returns nnU-Net's trainer for the same plan, with fewer features, on a workspace of its own."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(workspace / name))
    plans = copy.deepcopy(prepared.plan.nnunet)
    stock = plans["configurations"][prepared.configuration]
    ours = prepared.plan.configuration(prepared.configuration)
    stock.update(patch_size=list(ours.patch_size), batch_size=ours.batch_size)
    stock["architecture"]["arch_kwargs"].update(
        n_stages=len(features),
        features_per_stage=features,
        strides=ours.strides,
        kernel_sizes=ours.kernel_sizes,
        n_conv_per_stage=ours.n_conv_per_stage_encoder,
        n_conv_per_stage_decoder=ours.n_conv_per_stage_decoder,
    )
    labels = {label.name: index for index, label in enumerate(prepared.plan.labels)}
    description = {
        "labels": labels,
        "channel_names": {"0": "MRI"},
        "file_ending": ".nii.gz",
        "numTraining": 8,
    }
    folder = workspace / "preprocessed" / plans["dataset_name"] / stock["data_identifier"]
    folder.mkdir(parents=True)
    (folder / "case.b2nd").touch()
    trainer = nnUNetTrainer(
        {**plans, "continue_training": False}, prepared.configuration, 0, description, device=CPU
    )
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    return trainer


def our_training(prepared, trainer: nnUNetTrainer, features: list[int]) -> Training:
    recipe = prepared.recipe.changed(network_options={"features_per_stage": features})
    training = assemble(prepared.task(recipe), CPU)
    theirs = trainer.network.state_dict()
    training.network.load_state_dict({name: theirs[name] for name in training.network.state_dict()})
    return training


@pytest.fixture(params=["3d", "2d"])
def pair(request, tmp_path, monkeypatch):
    prepared = request.getfixturevalue("prepared" if request.param == "3d" else "prepared_2d")
    stages = len(prepared.plan.configuration(prepared.configuration).strides)
    features = [4 * 2**stage for stage in range(stages)]
    monkeypatch.setattr("builtins.print", lambda *args, **kwargs: None)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        trainer = stock_trainer(prepared, tmp_path, monkeypatch, features)
        return our_training(prepared, trainer, features), trainer


def test_three_steps_equal_nnunets(pair):
    training, trainer = pair
    trainer.on_train_epoch_start()
    training.network.train()
    for number in range(3):
        batch = training.train.batch(number)
        expected = trainer.train_step({"data": batch.data, "target": copy.deepcopy(batch.target)})["loss"]
        result = training.step(batch.data, batch.target, number=number, progress=0.0)
        assert result.made
        assert result.loss == pytest.approx(float(expected), abs=1e-5)
        theirs = trainer.network.state_dict()
        for name, ours in training.network.state_dict().items():
            torch.testing.assert_close(ours, theirs[name], rtol=0, atol=1e-5)


def test_validation_equals_nnunets(pair):
    training, trainer = pair
    batches = [training.validation.batch(number) for number in range(3)]
    trainer.network.eval()
    outputs = [
        trainer.validation_step({"data": batch.data, "target": copy.deepcopy(batch.target)})
        for batch in batches
    ]
    trainer.on_validation_epoch_end(outputs)
    logged = {key: trainer.logger.get_value(key, step=-1) for key in ("mean_fg_dice", "val_losses")}
    scores = validate_patches(training.network, training.loss, batches, device=CPU, precision="fp32")
    assert scores.mean_dice == pytest.approx(float(logged["mean_fg_dice"]), abs=1e-6)
    assert scores.loss == pytest.approx(float(logged["val_losses"]), abs=1e-5)


def test_targets_have_nnunets_scales(pair):
    training, trainer = pair
    ours = training.train.scales
    theirs = trainer._get_deep_supervision_scales()
    np.testing.assert_allclose(ours, theirs)
