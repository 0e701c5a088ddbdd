"""Every refusal says what was got and what is accepted."""

import pytest
import torch

from scanseg.errors import UsageError
from scanseg.kernels import selective_scan


def _arguments():
    return {
        "u": torch.zeros(2, 6, 5),
        "delta": torch.zeros(2, 6, 5),
        "A": -torch.ones(6, 3),
        "B": torch.zeros(2, 3, 5),
        "C": torch.zeros(2, 3, 5),
        "D": torch.zeros(6),
        "z": torch.zeros(2, 6, 5),
        "delta_bias": torch.zeros(6),
    }


WRONG = {
    "u has two axes": (
        {"u": torch.zeros(6, 5)},
        "E-SCAN-SHAPE",
        "u must be (batch, dim, length), got shape (6, 5)",
    ),
    "delta of another length": (
        {"delta": torch.zeros(2, 6, 4)},
        "E-SCAN-SHAPE",
        "delta must be the shape of u",
    ),
    "A of another dim": ({"A": torch.zeros(5, 3)}, "E-SCAN-SHAPE", "A must be (dim, state) = (6, 3)"),
    "A has three axes": ({"A": torch.zeros(1, 6, 3)}, "E-SCAN-SHAPE", "A must be (dim, state)"),
    "B of another state": ({"B": torch.zeros(2, 4, 5)}, "E-SCAN-SHAPE", "(batch, state, length) = (2, 3, 5)"),
    "C of another batch": ({"C": torch.zeros(1, 3, 5)}, "E-SCAN-SHAPE", "C must be"),
    "C without the groups of B": ({"B": torch.zeros(2, 2, 3, 5)}, "E-SCAN-SHAPE", "C must be (batch, groups"),
    "groups that do not divide": ({"B": torch.zeros(2, 4, 3, 5)}, "E-SCAN-GROUPS", "4 groups"),
    "no groups": ({"B": torch.zeros(2, 0, 3, 5)}, "E-SCAN-GROUPS", "0 groups"),
    "B has two axes": ({"B": torch.zeros(3, 5)}, "E-SCAN-SHAPE", "B must be"),
    "D per batch": ({"D": torch.zeros(2, 6)}, "E-SCAN-SHAPE", "D must be (dim,) = (6,)"),
    "z of another shape": ({"z": torch.zeros(2, 5, 6)}, "E-SCAN-SHAPE", "z must be the shape of u"),
    "bias of another dim": ({"delta_bias": torch.zeros(3)}, "E-SCAN-SHAPE", "delta_bias must be (dim,)"),
    "too many states": ({"A": torch.zeros(6, 257)}, "E-SCAN-STATE", "1 to 256 states, got 257"),
    "no states": ({"A": torch.zeros(6, 0)}, "E-SCAN-STATE", "got 0"),
    "no steps": ({"u": torch.zeros(2, 6, 0)}, "E-SCAN-EMPTY", "got shape (2, 6, 0)"),
    "no batch": ({"u": torch.zeros(0, 6, 5)}, "E-SCAN-EMPTY", "must not be empty"),
    "no channels": ({"u": torch.zeros(2, 0, 5)}, "E-SCAN-EMPTY", "must not be empty"),
    "integers": ({"u": torch.zeros(2, 6, 5, dtype=torch.int32)}, "E-SCAN-DTYPE", "torch.int32"),
    "complex rates": ({"A": torch.zeros(6, 3, dtype=torch.complex64)}, "E-SCAN-DTYPE", "complex64"),
    "one float64": ({"A": -torch.ones(6, 3, dtype=torch.float64)}, "E-SCAN-DTYPE", "all tensors or none"),
    "a list": ({"u": [1.0]}, "E-SCAN-TYPE", "got list"),
    "no B": ({"B": None}, "E-SCAN-TYPE", "got NoneType"),
    "another device": (
        {"z": torch.zeros(2, 6, 5, device="meta")},
        "E-SCAN-DEVICE",
        "z is on meta but u is on cpu",
    ),
}


@pytest.mark.parametrize(("change", "code", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("backend", [None, "reference", "cpu"])
def test_wrong_arguments_are_refused(change, code, words, backend):
    with pytest.raises(UsageError) as caught:
        selective_scan(**{**_arguments(), **change}, backend=backend)
    assert caught.value.code == code
    assert words in caught.value.message


def test_the_right_arguments_pass():
    assert selective_scan(**_arguments()).shape == (2, 6, 5)


def test_256_states_pass(cases):
    scan = cases.random_scan(batch=1, dim=3, length=4, state=256)
    cases.assert_close(scan.run(selective_scan), scan.truth(), torch.float32)
