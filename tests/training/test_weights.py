"""Weights in files: exact, whole, and refused when anything is wrong."""

import math
import random
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from scanseg.errors import ModelError
from scanseg.training import weights as module
from scanseg.training.weights import load_tensors, load_weights, save_tensors, weights_of


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 3)
        self.decoder = nn.ModuleDict({"encoder": self.encoder, "head": nn.BatchNorm1d(3)})


TENSORS = {
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "turned": torch.arange(12.0).view(3, 4).T,
    "odd": torch.tensor([math.nan, -0.0, 1e-42]),
}
FACTS = {"epoch": 3, "loss": 0.1 + 0.2, "names": ["a", None]}


def test_everything_comes_back_exactly(tmp_path):
    save_tensors(tmp_path / "a.safetensors", TENSORS, FACTS)
    tensors, facts = load_tensors(tmp_path / "a.safetensors")
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (value.dtype, value.shape)
        assert torch.equal(
            tensors[name].reshape(-1).view(torch.uint8), value.contiguous().reshape(-1).view(torch.uint8)
        )


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_tensors(tmp_path / f"{name}.safetensors", TENSORS, FACTS)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_no_changed_byte_is_accepted(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"weight": torch.randn(40)}, FACTS)
    whole = path.read_bytes()
    generator = random.Random(0)
    header = range(8 + int.from_bytes(whole[:8], "little"))
    for place in (*header, *generator.sample(range(len(whole)), 100)):
        broken = bytearray(whole)
        broken[place] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            tensors, facts = load_tensors(path)
        except ModelError:
            continue
        # Only a change without meaning may pass, such as one blank for another in the JSON header.
        assert facts == FACTS, place
        assert tensors.keys() == {"weight"}, place
    for length in generator.sample(range(len(whole)), 50):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load_tensors(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ModelError, match="is damaged"):
            load_tensors(path)
    with pytest.raises(ModelError, match="does not exist"):
        load_tensors(tmp_path / "absent.safetensors")


def test_shared_tensors_are_kept_once():
    assert list(weights_of(Shared())) == [
        "encoder.weight",
        "encoder.bias",
        "decoder.head.weight",
        "decoder.head.bias",
        "decoder.head.running_mean",
        "decoder.head.running_var",
        "decoder.head.num_batches_tracked",
    ]


def test_weights_come_back_into_a_fresh_network(tmp_path):
    torch.manual_seed(0)
    old, new = Shared(), Shared()
    save_tensors(tmp_path / "a.safetensors", weights_of(old), {})
    load_weights(new, load_tensors(tmp_path / "a.safetensors")[0], source="a")
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert new.decoder["encoder"].weight is new.encoder.weight


def test_differences_are_named_and_nothing_is_changed():
    network = nn.Linear(2, 3)
    before = network.weight.detach().clone()
    wrong = {"weight": torch.zeros(3, 3), "extra": torch.zeros(1)}
    with pytest.raises(ModelError, match="do not fit") as caught:
        load_weights(network, wrong, source="x")
    for line in (
        "missing: bias",
        "not in the network: extra",
        "weight: expected [3, 2] torch.float32, got [3, 3]",
    ):
        assert line in str(caught.value)
    with pytest.raises(ModelError, match=r"weight: expected .* torch.float64"):
        load_weights(network, {name: t.double() for name, t in weights_of(network).items()}, source="x")
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value):
    tensors = {name: tensor.detach().clone() for name, tensor in weights_of(nn.Linear(2, 3)).items()}
    tensors["bias"][1] = value
    with pytest.raises(ModelError, match="not finite: bias"):
        load_weights(nn.Linear(2, 3), tensors, source="x")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"weight": torch.zeros(2)}, {})

    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"weight": torch.ones(2)}, {})
    assert load_tensors(path)[0]["weight"].sum() == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
