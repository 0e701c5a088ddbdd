"""Measures figures of reliability and prints them as JSON.

    python tests/figure.py S3            quick size
    python tests/figure.py --full S3     the size before a release
    python tests/figure.py --print DIR   what a run of the tests with SCANSEG_FIGURES=DIR has left

The exit status is 0 only if every figure is there and holds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
FIGURES = {
    "S3": "server/test_kill.py::test_random_kills",
    "S4": "server/test_safety.py::test_nonsense_is_answered_and_forgotten",
    "S4-uploads": "server/test_safety.py::test_mutated_uploads_fail_with_words",
    "S5": "server/test_safety.py::test_slow_connections_are_closed_and_nobody_waits",
    "S6": "server/test_safety.py::test_every_route_needs_the_token",
    "S7": "faults/test_archive_attacks.py::test_archives_leave_nothing_outside_their_folder",
    "S8": "faults/test_leaks.py::test_nothing_of_one_patient_is_in_the_next",
    "S9": "server/test_safety.py::test_nothing_of_a_patient_reaches_logs_errors_or_reports",
    "S10": "server/test_openapi.py::test_answers_follow_the_description",
    "P5": "server/test_kill.py::test_a_restart_with_a_long_queue",
    "T7": "server/test_protections.py::test_without_a_protection_its_test_fails",
}


def collected(folder: Path, names: list[str]) -> list[dict]:
    """Returns the figures in a folder; one that was asked for and is not there has not passed."""
    paths = {name: folder / f"{name}.json" for name in names}
    missing = {"passed": False, "error": "its test ended before it was measured, or did not run"}
    return [
        json.loads(path.read_text()) if path.is_file() else {"figure": name, **missing}
        for name, path in paths.items()
    ]


def measured(names: list[str], *, full: bool) -> list[dict]:
    """Returns figures after running their tests; what pytest says goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                *(str(TESTS / FIGURES[name]) for name in names),
            ],
            env={**os.environ, "SCANSEG_FIGURES": folder, "SCANSEG_FAULTS": "full" if full else ""},
            cwd=TESTS.parent, stdout=sys.stderr, check=False,
        )  # fmt: skip
        return collected(Path(folder), names)


def main() -> int:
    """Runs or collects, prints, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FIGURE", help=f"any of {' '.join(FIGURES)}; all without")
    parser.add_argument("--full", action="store_true", help="the size before a release, not the quick one")
    parser.add_argument("--print", type=Path, metavar="DIR", dest="folder", help="run nothing, print these")
    given = parser.parse_args()
    names = given.names or list(FIGURES)
    if unknown := set(names) - set(FIGURES):
        parser.error(f"unknown figure {', '.join(sorted(unknown))}; known are {', '.join(FIGURES)}")
    found = collected(given.folder, names) if given.folder else measured(names, full=given.full)
    sys.stdout.write(json.dumps(found[0] if len(found) == 1 else found, indent=1) + "\n")
    return 0 if all(one["passed"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
