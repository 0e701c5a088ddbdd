"""What the documentation prints is true: generated pages are current, commands and links exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "ARCHITECTURE.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CLI = ROOT / "docs" / "reference" / "cli.md"


def test_generated_pages_are_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert answer.returncode == 0, answer.stderr


def commands() -> list[tuple[str, str]]:
    """Returns every `scanseg ...` line in a bash block, with the page it stands on."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line.split("#")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
            found += [(page.name, line) for line in lines if line.startswith("scanseg ")]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_printed_commands_exist(page: str, command: str) -> None:
    words = command.split()[1:]
    sections = dict(re.findall(r"## scanseg ([a-z ]+)\n(.*?)(?=\n## |\Z)", CLI.read_text(), re.DOTALL))
    verb = next((v for v in (" ".join(words[:2]), words[0]) if v in sections), None)
    if verb is None:
        assert words == ["--help"]
        return
    for word in words:
        if word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit():
            assert re.search(rf"(?<![\w-]){re.escape(word.split('=')[0])}(?![\w-])", sections[verb]), (
                page,
                word,
            )


def links() -> list[tuple[Path, str]]:
    found = []
    for page in PAGES:
        found += [(page, link) for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())]
    return [(page, link) for page, link in found if "://" not in link]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda value: str(value).split("/")[-1])
def test_links_lead_somewhere(page: Path, link: str) -> None:
    assert (page.parent / link).exists(), f"{page.name} links to {link}"


TARGETS = ("demo", "test", "test-gpu", "system-packages", "lint", "docs", "faults", "bench", "results")


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
