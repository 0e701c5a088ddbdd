"""Writes the reference pages from the registries, the command line and the source. `--check` only compares.

Run: python docs/generate.py [--check]
"""

import argparse
import ast
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "scanseg"
VERBS = (
    ["demo"],
    ["dataset", "check"],
    ["plan"],
    ["train"],
    ["predict"],
    ["evaluate"],
    ["compare"],
    ["explain"],
    ["report"],
    ["serve"],
    ["networks", "list"],
    ["networks", "show"],
    ["bench", "scan"],
    ["bench", "orders"],
    ["bench", "growth"],
    ["bench", "network"],
    ["dicom", "listen"],
    ["dicom", "sort"],
    ["dicom", "deidentify"],
    ["doctor"],
)
HEAD = "<!-- Written by docs/generate.py; do not edit. -->\n\n"


def cli_page() -> str:
    """Returns the help text of every verb."""
    parts = ["# Command line\n"]
    for verb in VERBS:
        parts.append(f"## scanseg {' '.join(verb)}\n\n```text\n{_help(verb)}\n```\n")
    return "\n".join(parts)


def _help(verb: list[str]) -> str:
    # Read by rich and typer when they are imported, which this is the first to do.
    os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100", NO_COLOR="1", TERM="dumb")
    from typer.testing import CliRunner

    from scanseg.cli.app import app

    answer = CliRunner().invoke(app, [*verb, "--help"], prog_name="scanseg")
    if answer.exit_code:
        raise SystemExit(f"scanseg {' '.join(verb)} --help failed:\n{answer.output}")
    return "\n".join(line.rstrip() for line in answer.stdout.strip().splitlines())


def networks_page() -> str:
    """Returns the table of networks with parameters at one size."""
    from network_pages import OVERVIEW, parameters_at

    from scanseg.networks import NETWORKS, list_networks

    parts = [
        "# Networks\n",
        "[What each learned with one small budget](../networks/results.md) on images and on volumes.\n",
        "Parameters at a patch of 64x64x64 (3D) and 256x256 (2D), one input channel, two classes.\n",
        "| network | what it is | parameters 3D | parameters 2D |",
        "|---|---|---|---|",
    ]
    for name in list_networks():
        counts = [_parameters(*parameters_at(name, dims), OVERVIEW[dims]) for dims in (3, 2)]
        parts.append(f"| [{name}](../networks/{name}.md) | {NETWORKS[name].summary} | {' | '.join(counts)} |")
    return "\n".join(parts) + "\n"


def _parameters(taken: tuple[int, ...], count: int, size: tuple[int, ...]) -> str:
    if not taken:
        return "-"
    return f"{count:,}" if taken == size else f"{count:,} at {'x'.join(map(str, taken))}"


def network_files() -> dict[str, str]:
    """Returns the page and the drawing of every network, by path below docs/."""
    from network_pages import network_page

    from scanseg.networks import NETWORKS

    files = {}
    for name in NETWORKS:
        page, drawing = network_page(name)
        files[f"networks/{name}.md"] = HEAD + page
        if drawing:
            files[f"networks/{name}.svg"] = drawing
    return files


def metrics_page() -> str:
    """Returns the table of metrics."""
    from scanseg.evaluation.metrics import METRICS

    lines = ["# Metrics\n", "| metric | unit | range | better | what it says |", "|---|---|---|---|---|"]
    for name in METRICS:
        metric = METRICS[name]
        low, high = metric.low, "unbounded" if metric.high in (None, float("inf")) else metric.high
        lines.append(f"| `{name}` | {metric.unit} | {low} to {high} | {metric.better} | {metric.summary} |")
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """Returns every preset as its TOML file."""
    parts = [
        "# Recipes\n",
        "Presets for `scanseg train --recipe NAME`. Copy one and pass the file to change it.\n",
    ]
    for path in sorted((SOURCE / "training" / "presets").glob("*.toml")):
        parts.append(f"## {path.stem}\n\n```toml\n{path.read_text().strip()}\n```\n")
    return "\n".join(parts)


def errors_page() -> str:
    """Returns every code with its sentences and remedies, from the calls in the source."""
    found: dict[str, dict[str, None]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for code, sentence in _sentences(node):
                    found.setdefault(code, {})[sentence] = None
    lines = ["# Codes of errors, warnings and notes\n", "`{...}` stands for what was found.\n"]
    for code in sorted(found):
        lines += [f"## {code}\n", *(f"- {sentence}" for sentence in found[code] if sentence), ""]
    return "\n".join(lines)


def _sentences(call: ast.Call) -> list[tuple[str, str]]:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [_text(value) for value in values]
    codes = [text for text in texts if re.fullmatch(r"[EWI](-[A-Z0-9]+){2,}", text)]
    sentences = [text for text in texts if " " in text]
    return [(code, " ".join(sentences)) for code in codes]


def _text(node: ast.expr) -> str:
    """Returns the text of a string or f-string, with `{...}` for what is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = [str(part.value) if isinstance(part, ast.Constant) else "{...}" for part in node.values]
    return re.sub(r"\s+", " ", "".join(parts)).strip()


PAGES = {
    "cli.md": cli_page,
    "networks.md": networks_page,
    "metrics.md": metrics_page,
    "recipes.md": recipes_page,
    "errors.md": errors_page,
}


def main() -> int:
    """Writes or checks every page; returns 1 if a page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    files = {f"reference/{name}": HEAD + make() for name, make in PAGES.items()} | network_files()
    stale = []
    for name, text in files.items():
        path = DOCS / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run: make docs\n")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
