"""The package as a whole: light to import, honest about its surface, safe by construction."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scanseg

SOURCE = Path(scanseg.__file__).parent
UNSAFE_CALLS = {"eval", "exec", "compile"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def test_import_is_light() -> None:
    code = "import sys, scanseg; print([m for m in ('torch', 'numba', 'monai', 'numpy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    assert sorted(scanseg.__all__) == sorted(set(scanseg.__all__))
    for name in scanseg.__all__:
        assert getattr(scanseg, name) is not None


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = scanseg.no_such_name


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_that_runs_code_from_files(path: Path) -> None:
    found = [fault for node in ast.walk(ast.parse(path.read_text())) if (fault := unsafe(node))]
    assert not found


def unsafe(node: ast.AST) -> str | None:
    """Returns what is unsafe about a node: pickle, eval, torch.load, numpy.load that may unpickle."""
    if isinstance(node, ast.Import):
        names = {alias.name.split(".")[0] for alias in node.names}
        return f"line {node.lineno}: import {names & UNSAFE_MODULES}" if names & UNSAFE_MODULES else None
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
        return f"line {node.lineno}: from {node.module}"
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
        return f"line {node.lineno}: {node.func.id}()"
    name = ast.unparse(node.func)
    if name in {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}:
        return f"line {node.lineno}: {name}()"
    if name in {"np.load", "numpy.load"}:
        safe = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) == "False"]
        return None if safe else f"line {node.lineno}: {name}() without allow_pickle=False"
    return None


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "torch.load(p)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_guard_sees_what_is_unsafe(source: str) -> None:
    assert any(unsafe(node) for node in ast.walk(ast.parse(source)))


def test_no_network_at_import_or_help() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise RuntimeError('network')\n"
        "socket.socket.connect = refuse\n"
        "import scanseg, scanseg.pipeline, scanseg.networks, scanseg.training.recipe, scanseg.inference\n"
        "print('ok')"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "ok", answer.stderr
