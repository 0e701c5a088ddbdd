"""Every backend against the float64 reference, outputs and all gradients; and the operator's manners."""

import itertools
import math
import shutil

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from scanseg.kernels import selective_scan
from scanseg.kernels.arguments import KEPT_EVERY
from scanseg.kernels.backends import list_backends
from scanseg.kernels.op import scan_operator
from scanseg.kernels.reference import selective_scan_reference

# Those that take tensors in main memory; tests/kernels/gpu holds the rest.
BACKENDS = [status.name for status in list_backends() if status.available and status.name != "cuda"]
LENGTHS = (1, 2, 3, 15, 16, 17, 63, 257, 1000)
DIMS = (1, 3, 8, 16, 33, 96)
LAYOUTS = ("first", "last", "sliced", "reversed")
FLAGS = ("skip", "gate", "bias", "softplus")


@pytest.fixture
def poisoned():
    """Fills fresh memory with NaN, so that a value nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def _shapes():
    """Returns every length with every dim; the other choices turn over, so that each meets many shapes."""
    for i, (length, dim) in enumerate(itertools.product(LENGTHS, DIMS)):
        groups = [g for g in (None, 1, 2, 4) if g is None or dim % g == 0]
        flags = {name: bool((i * 7 + 5) >> k & 1) for k, name in enumerate(FLAGS)}
        choice = {
            "batch": 1 if length * dim > 10_000 else 2,
            "state": (1, 4, 16, 5)[(i + length) % 4],
            "groups": groups[i % len(groups)],
            "layout": LAYOUTS[i % 4],
        }
        yield pytest.param({"length": length, "dim": dim, "seed": i, **choice, **flags}, id=f"{length}x{dim}")


@pytest.mark.parametrize("shape", list(_shapes()))
def test_every_backend_equals_float64(cases, poisoned, shape):
    scan = cases.random_scan(**shape)
    truth = scan.truth()
    for backend in BACKENDS:
        if backend == "reference" and shape["length"] * shape["dim"] > 20_000:
            continue  # the same loop as the truth, slow
        cases.assert_close(scan.run(selective_scan, backend=backend), truth, torch.float32)


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_combination_of_options(cases, poisoned, flags, layout):
    scan = cases.random_scan(
        dim=24, length=21, groups=2, layout=layout, **dict(zip(FLAGS, flags, strict=True))
    )
    truth = scan.truth()
    for backend in BACKENDS:
        cases.assert_close(scan.run(selective_scan, backend=backend), truth, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dim", "length"), [(1, 1), (3, 17), (16, 16), (33, 50), (40, 64)])
def test_half_precision_input(cases, poisoned, backend, dtype, layout, dim, length):
    scan = cases.random_scan(dim=dim, length=length, layout=layout, dtype=dtype, state=16)
    values = scan.run(selective_scan, backend=backend)
    assert values["y"].dtype == values["u"].dtype == values["B"].dtype == dtype
    assert values["A"].dtype == torch.float32
    cases.assert_close(values, scan.truth(), dtype)


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "D", "z"])
def test_dtypes_may_be_mixed(cases, name):
    scan = cases.random_scan(dim=20, length=35)
    scan.tensors[name] = scan.tensors[name].to(torch.bfloat16)
    scan.dy = scan.dy.to(scan.tensors["u"].dtype)
    values = scan.run(selective_scan, backend="cpu")
    assert values[name].dtype == torch.bfloat16
    assert values["y"].dtype == scan.tensors["u"].dtype
    cases.assert_close(values, scan.truth(), torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_tensors_and_gradients(cases, poisoned, backend):
    scan = cases.random_scan(batch=3, dim=20, length=18)
    scan.tensors["u"] = scan.tensors["u"][:1, :, :1].expand(3, 20, 18)
    scan.tensors["delta"] = scan.tensors["delta"][:, :1].expand(3, 20, 18)
    scan.tensors["B"] = scan.tensors["B"][..., :1].expand(3, 4, 18)
    scan.tensors["A"] = scan.tensors["A"][:1].expand(20, 4)
    scan.tensors["D"] = scan.tensors["D"][:1].expand(20)
    scan.dy = torch.ones(()).expand(3, 20, 18)
    cases.assert_close(scan.run(selective_scan, backend=backend), scan.truth(), torch.float32)


def test_channel_last_input_gives_channel_last_output_and_gradients(cases):
    scan = cases.random_scan(dim=24, length=40, layout="last")
    values = scan.run(selective_scan, backend="cpu")
    assert all(values[name].stride() == scan.tensors["u"].stride() for name in ("y", "u", "delta", "z"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients_the_output_is_the_same(cases, backend):
    scan = cases.random_scan(dim=24, length=40)
    with torch.no_grad():
        y = selective_scan(**scan.tensors, delta_softplus=True, backend=backend)
    assert torch.equal(y, scan.run(selective_scan, backend=backend)["y"])


# Truths that hold for any selective scan.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("zeroed", ["B", "C"])
def test_without_input_or_output_projection_only_the_skip_is_left(cases, backend, zeroed):
    scan = cases.random_scan(gate=False, dim=20, length=50)
    scan.tensors[zeroed].zero_()
    y = selective_scan(**scan.tensors, delta_softplus=True, backend=backend)
    assert torch.equal(y, scan.tensors["D"][:, None] * scan.tensors["u"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step", [1, 16, 30, 39])
def test_an_output_depends_on_nothing_later(cases, backend, step):
    scan = cases.random_scan(dim=20, length=40)
    before = selective_scan(**scan.tensors, delta_softplus=True, backend=backend)
    for name in ("u", "delta", "B", "C", "z"):
        scan.tensors[name][..., step:] += 1
    after = selective_scan(**scan.tensors, delta_softplus=True, backend=backend)
    assert torch.equal(before[..., :step], after[..., :step])
    assert (before[..., step:] != after[..., step:]).any(-1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scan_in_two_parts_adds_the_decayed_state(cases, backend):
    scan = cases.random_scan(dim=20, length=75, gate=False, skip=False, bias=False, softplus=False)
    whole = selective_scan(**scan.tensors, backend=backend)
    _, states = scan_operator(*scan.tensors.values(), False, True)
    cut = 2 * KEPT_EVERY
    tail = {name: tensor for name, tensor in scan.tensors.items() if tensor is not None}
    tail |= {name: tail[name][..., cut:] for name in ("u", "delta", "B", "C")}
    second = selective_scan(**tail, backend=backend)
    elapsed = tail["delta"].cumsum(-1)
    decay = torch.exp(elapsed[:, :, None] * tail["A"][:, :, None])
    carried = (tail["C"][:, None] * decay * states[:, 2].mT[..., None]).sum(2)
    assert cases.difference(second + carried, whole[..., cut:].double()) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_parameters_give_a_convolution(cases, backend):
    scan = cases.random_scan(batch=1, dim=20, length=200, gate=False, skip=False)
    for name in ("delta", "B", "C"):
        scan.tensors[name] = scan.tensors[name][..., :1].expand_as(scan.tensors[name])
    a = {name: None if tensor is None else tensor.double() for name, tensor in scan.tensors.items()}
    dt = torch.nn.functional.softplus(a["delta"][0, :, 0] + a["delta_bias"])
    powers = torch.exp(dt[:, None, None] * a["A"][..., None] * torch.arange(200))
    kernel = ((a["C"] * a["B"])[0, None, :, :1] * powers).sum(1) * dt[:, None]
    padded = torch.nn.functional.pad(a["u"], (199, 0))
    expected = torch.nn.functional.conv1d(padded, kernel.flip(-1)[:, None], groups=20)
    y = selective_scan(**scan.tensors, delta_softplus=True, backend=backend)
    assert cases.difference(y, expected) < 1e-5


@pytest.mark.parametrize(
    ("length", "slow", "fast"), [(1000, 1e-4, 20), (16384, 1e-4, 2e-4), (65536, 1e-4, 20)]
)
def test_long_scans_neither_overflow_nor_drift(length, slow, fast):
    generator = torch.Generator().manual_seed(length)
    uniform = torch.rand(1, 3, length, generator=generator)
    delta = slow * (fast / slow) ** uniform
    u, B, C = (torch.randn(1, size, length, generator=generator) for size in (3, 2, 2))
    arguments = (u, delta, -torch.ones(3, 2), B, C)
    with torch.no_grad():
        truth = selective_scan_reference(*(tensor.double() for tensor in arguments))
        y = selective_scan(*arguments, backend="cpu")
    assert y.isfinite().all()
    assert (y - truth).abs().max() < 1e-4 * truth.abs().max()


def test_gradients_of_a_long_scan(cases):
    scan = cases.random_scan(batch=1, dim=2, length=1500, state=2, seed=3)
    cases.assert_close(scan.run(selective_scan, backend="cpu"), scan.truth(), torch.float32)


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "z", "D", "delta_bias"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_number_that_is_none_is_never_hidden(cases, name, poison):
    scan = cases.random_scan(batch=1, dim=20, length=40)
    scan.tensors[name].view(-1)[0] = poison
    y = selective_scan(**scan.tensors, delta_softplus=True, backend="cpu")
    truth = selective_scan_reference(**scan.tensors, delta_softplus=True)
    assert torch.equal(y.isnan(), truth.isnan())


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "z", "D", "delta_bias"])
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7FC00001, -1], ids=hex)
def test_nor_is_one_with_other_bits(cases, name, bits):
    scan = cases.random_scan(batch=1, dim=20, length=40)
    scan.tensors[name].view(torch.int32).view(-1)[0] = bits
    y = selective_scan(**scan.tensors, delta_softplus=True, backend="cpu")
    truth = selective_scan_reference(**scan.tensors, delta_softplus=True)
    assert truth.isnan().any()
    assert torch.equal(y.isnan(), truth.isnan())


@pytest.mark.parametrize("big", ["delta", "A"])
def test_powers_beyond_the_range_of_floats(cases, big):
    """Tiles with a decay below 2**-126 and tiles without, in one scan."""
    scan = cases.random_scan(batch=1, dim=40, length=100)
    if big == "delta":
        scan.tensors["delta"][..., 40:60] = 1000
    else:
        scan.tensors["A"][17] = -1000
    cases.assert_close(scan.run(selective_scan, backend="cpu"), scan.truth(), torch.float32)


@pytest.mark.parametrize("step", [40.0, 200.0], ids=["over several steps", "in one step"])
def test_growth_overflows_as_the_reference_does(step):
    u = torch.ones(1, 1, 6)
    delta = torch.tensor([[[1.0, 1.0, step, step, step, 1.0]]])
    arguments = (u, delta, torch.ones(1, 1), u, u)
    y, truth = selective_scan(*arguments, backend="cpu"), selective_scan_reference(*arguments)
    assert torch.equal(y.isinf(), truth.isinf())
    assert truth.isinf().any()


# The operator.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [{"layout": "last"}, {"skip": False, "gate": False, "bias": False, "groups": 2}],
    ids=["all", "none"],
)
def test_opcheck(cases, dtype, options):
    scan = cases.random_scan(dim=4, length=18, dtype=dtype, **options)
    torch.library.opcheck(scan_operator, (*scan.fresh().values(), True, True))
    torch.library.opcheck(scan_operator, (*scan.tensors.values(), False, False))


def test_double_input_runs_the_reference_and_passes_gradcheck(cases):
    scan = cases.random_scan(batch=1, dim=2, length=3, state=2)
    leaves = list(scan.fresh(torch.float64).values())
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, True), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiles_as_one_graph(cases, dtype):
    torch.compiler.reset()
    scan = cases.random_scan(dim=20, length=40, dtype=dtype, layout="last")
    # aot_eager traces forward and backward as inductor does, without needing a C++ compiler.
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    values, eager = scan.run(compiled), scan.run(selective_scan)
    assert all(torch.equal(values[name], eager[name]) for name in values)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler of torch.compile needs g++")
def test_compiles_between_other_operations(cases):
    torch.compiler.reset()

    def block(**arguments):
        arguments["u"] = torch.nn.functional.silu(arguments["u"])
        return selective_scan(**arguments).square()

    scan = cases.random_scan(dim=20, length=40, layout="last")
    values, eager = scan.run(torch.compile(block, fullgraph=True)), scan.run(block)
    cases.assert_close(values, {name: tensor.double() for name, tensor in eager.items()}, torch.float32)


def test_compiles_with_changing_lengths(cases):
    torch.compiler.reset()
    compiled = torch.compile(selective_scan, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (40, 17, 33):
        scan = cases.random_scan(dim=20, length=length)
        assert torch.equal(scan.run(compiled)["u"], scan.run(selective_scan)["u"])


def test_autocast_leaves_the_state_in_float32(cases):
    scan = cases.random_scan(dim=20, length=300)
    for backend in BACKENDS:
        expected = scan.run(selective_scan, backend=backend)
        with torch.autocast("cpu", torch.bfloat16):
            values = scan.run(selective_scan, backend=backend)
        assert all(torch.equal(values[name], expected[name]) for name in values)


def test_meta_tensors_get_a_shape():
    u = torch.zeros(2, 6, 5, device="meta")
    y = selective_scan(u, u, torch.zeros(6, 3, device="meta"), u[:, :3], u[:, :3])
    assert y.shape == (2, 6, 5)
    assert y.device.type == "meta"


def test_activation_checkpointing_gives_the_same_gradients(cases):
    scan = cases.random_scan(dim=20, length=40)

    def wrapped(**arguments):
        return checkpoint(selective_scan, **arguments, use_reentrant=False)

    values, expected = scan.run(wrapped), scan.run(selective_scan)
    assert all(torch.equal(values[name], expected[name]) for name in values)


def test_the_backward_of_a_scan_without_states_says_so(cases):
    scan = cases.random_scan()
    y, _ = scan_operator(*scan.fresh().values(), True, False)
    with pytest.raises(RuntimeError, match="keep_states=False"):
        y.sum().backward()


def test_the_same_input_gives_the_same_bits(cases):
    scan = cases.random_scan(dim=96, length=257, state=16)
    first, second = scan.run(selective_scan), scan.run(selective_scan)
    assert all(torch.equal(first[name], second[name]) for name in first)
