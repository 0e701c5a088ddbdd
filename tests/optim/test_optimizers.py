"""Optimisers: which parameters move, and the defaults of nnU-Net."""

import pytest
import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.optim import OPTIMIZERS, create_optimizer, parameter_groups


class LearningLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.ones(2))

    def forward(self, output):
        return (output.square().mean() / self.sigma.square() + torch.log1p(self.sigma.square())).sum()


def setup_training(name: str):
    torch.manual_seed(0)
    network, loss = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 1)), LearningLoss()
    groups = parameter_groups(network, loss, weight_decay=3e-5)
    return network, loss, create_optimizer(name, groups, learning_rate=1e-2, weight_decay=3e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_moves(name):
    network, loss, optimizer = setup_training(name)
    parameters = {**dict(network.named_parameters()), **dict(loss.named_parameters())}
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, parameters.values()))
    before = {key: value.detach().clone() for key, value in parameters.items()}
    loss(network(torch.randn(1, 1, 8, 8))).backward()
    optimizer.step()
    assert [key for key, value in parameters.items() if torch.equal(before[key], value)] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loss_has_no_weight_decay(name):
    network, loss, optimizer = setup_training(name)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in network.parameters()} == {3e-5}
    assert {decays[id(p)] for p in loss.parameters()} == {0.0}


def test_frozen_parameters_are_left_out():
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    groups = parameter_groups(network, nn.Identity(), weight_decay=0.0)
    assert [len(group["params"]) for group in groups] == [1]


def test_sgd_is_nnunets_by_default():
    reference = torch.optim.SGD(
        [nn.Parameter(torch.ones(1))], 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True
    )
    ours = create_optimizer(
        "sgd", [{"params": [nn.Parameter(torch.ones(1))]}], learning_rate=1e-2, weight_decay=3e-5
    )
    assert ours.defaults == reference.defaults


def test_wrong_use():
    groups = [{"params": [nn.Parameter(torch.ones(1))]}]
    with pytest.raises(UsageError, match=r"Unknown optimizer 'adamx'. Did you mean adam"):
        create_optimizer("adamx", groups, learning_rate=1.0)
    with pytest.raises(UsageError, match=r"'adam' has no option 'momentum'.*Accepted: beta1"):
        create_optimizer("adam", groups, learning_rate=1.0, momentum=0.9)
