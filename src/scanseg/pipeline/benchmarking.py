"""The verb `bench`: what is timed, for how long, and where the results go."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scanseg.benchmarking.contest import Settings, default_limit_bytes, run_contest
from scanseg.benchmarking.document import CaseResult, Document
from scanseg.benchmarking.growth import run_growth
from scanseg.benchmarking.machine import load_average, machine_facts
from scanseg.benchmarking.measure import FEWEST_ROUNDS, MOST_ROUNDS
from scanseg.benchmarking.network import NetworkCase, run_networks
from scanseg.benchmarking.parity import TOLERANCE
from scanseg.benchmarking.suites import SUITES
from scanseg.devices import usable_cores
from scanseg.errors import UsageError
from scanseg.networks import NETWORKS
from scanseg.progress import Report, silent

_MINUTES_A_CASE = 1.0
_DEFAULT_PATCH = {2: (256, 256), 3: (32, 64, 64)}
_DEFAULT_BASELINE = "nnunet_resenc"


def bench_scan(
    shapes: Sequence[str] = ("quick",),
    *,
    peers: Sequence[str] | None = None,
    threads: int = 1,
    minutes: float | None = None,
    call_s: float | None = None,
    seed: int = 0,
    output: Path | None = None,
    suite: str = "scan",
    report: Report = silent,
) -> Document:
    """Times our scan against other formulations and returns, and with `output` writes, the result.

    Args:
        shapes: Names of shapes; `all` and `quick` stand for several.
        peers: Names of contenders; None takes all. The baseline always runs.
        threads: Of all contenders but those that take all cores.
        minutes: About how long timing may take; a minute a shape by default. Looking for errors and for what
            a contender can do comes on top.
        call_s: Seconds that one call may take; whoever is slower is timed on fewer steps. By default a
            thirtieth of the time for a shape.
        seed: Of inputs and of the order of turns.
        output: Folder for KIND.json, KIND.md and KIND.png, written anew after each shape.
        suite: `scan`, or `orders` for several scans in their own orders.
        report: Told about each step.

    Raises:
        UsageError: A shape or contender is unknown.
    """
    chosen = SUITES[suite]
    cases, contenders = chosen.choose_cases(shapes), chosen.choose_contenders(peers)
    case_s = 60.0 * (_MINUTES_A_CASE if minutes is None else minutes / len(cases))
    settings = Settings(threads, seed, case_s, default_limit_bytes(), call_s)
    words = [suite, "--shapes", ",".join(shapes), *_option("--peers", peers and ",".join(peers))]
    words += _option("--call", call_s)
    document, finished = _begin(suite, words, minutes, settings, output)
    document.rules |= {"tolerance": dict(TOLERANCE), "a call may take (s)": round(settings.limit_s, 2)}
    run_contest(chosen, cases, contenders, settings, finished=finished, report=report)
    return _end(document, output)


def bench_growth(
    *,
    smallest: int = 8,
    largest: int = 20,
    threads: int = 1,
    minutes: float | None = None,
    seed: int = 0,
    output: Path | None = None,
    report: Report = silent,
) -> Document:
    """Times our scan at lengths 2^smallest to 2^largest and returns the result.

    Args:
        smallest: Exponent of the shortest length.
        largest: Exponent of the longest.
        threads: As in `bench_scan`; so are `minutes` (one by default), `seed`, `output` and `report`.

    Raises:
        UsageError: The exponents are not in order, or out of range.
    """
    if not 4 <= smallest < largest <= 24:
        raise UsageError(
            f"Lengths must go from 2^4 at least to 2^24 at most, got 2^{smallest} to 2^{largest}.",
            code="E-BENCH-LENGTH",
        )
    settings = Settings(threads, seed, 60.0 * (minutes or _MINUTES_A_CASE), None)
    words = ["growth", "--smallest", str(smallest), "--largest", str(largest)]
    document, finished = _begin("growth", words, minutes, settings, output)
    run_growth(settings, smallest=smallest, largest=largest, finished=finished, report=report)
    return _end(document, output)


def bench_network(
    names: Sequence[str] = ("umamba_enc", "nnunet_resenc"),
    *,
    spatial_dims: int | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int = 2,
    base_features: int | None = None,
    same: str = "",
    against: str | None = None,
    threads: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    output: Path | None = None,
    report: Report = silent,
) -> Document:
    """Times training steps and forward passes of whole networks and returns the result.

    Args:
        names: Registered networks.
        spatial_dims: 2 or 3; by default the axes of the patch, else 3.
        patch_size: By default 32x64x64 or 256x256.
        batch_size: Patches at once.
        base_features: Channels of the first stage; each network's own by default.
        same: Give the others as many `blocks` or `convolutions` per stage as the first network has, where
            they can; empty leaves each its own.
        against: The network to divide by; `nnunet_resenc` if it is among them, else the first.
        threads: All usable cores by default.
        minutes: As in `bench_scan`, one by default; so are `seed`, `output` and `report`.

    Raises:
        UsageError: A network is unknown or does not fit, dimensions and patch do not agree, or `same` is
            neither.
    """
    names = list(dict.fromkeys(NETWORKS[name].name for name in names))
    dims = spatial_dims or (len(patch_size) if patch_size else 3)
    patch = tuple(patch_size or _DEFAULT_PATCH.get(dims, ()))
    if len(patch) != dims:
        raise UsageError(
            f"--spatial-dims {dims} and a patch of {len(patch)} axes do not agree.",
            code="E-BENCH-PATCH",
            hint="Leave --spatial-dims out; the patch says it.",
        )
    if same not in ("", "blocks", "convolutions"):
        raise UsageError(f"--same must be blocks or convolutions, got {same!r}.", code="E-BENCH-SAME")
    baseline = against or (_DEFAULT_BASELINE if _DEFAULT_BASELINE in names else names[0])
    if baseline not in names:
        names.append(NETWORKS[baseline].name)
    settings = Settings(threads or usable_cores(), seed, 60.0 * (minutes or _MINUTES_A_CASE), None)
    case = NetworkCase(patch, batch_size, base_features=base_features, same=same)
    words = ["network", *names, "--patch-size", "x".join(map(str, patch)), "--batch-size", str(batch_size)]
    words += [*_option("--features", base_features), *_option("--same", same or None)]
    words += ["--against", baseline]
    document, finished = _begin("network", words, minutes, settings, output)
    run_networks(names, case, settings, baseline=baseline, finished=finished, report=report)
    return _end(document, output)


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]


def _begin(
    kind: Any, words: list[str], minutes: float | None, settings: Settings, output: Path | None
) -> tuple[Document, Callable[[CaseResult], None]]:
    """Returns an empty document and the function that adds a case to it."""
    words = [*words, "--threads", str(settings.threads), *_option("--minutes", minutes)]
    words += ["--seed", str(settings.seed), *_option("-o", output)]
    document = Document(
        kind=kind,
        command=shlex.join(["scanseg", "bench", *words]),
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        seed=settings.seed,
        machine=machine_facts(),
        load=(load_average(), None),
        rules={"rounds": f"{FEWEST_ROUNDS} to {MOST_ROUNDS}", "seconds a case": round(settings.case_s, 1)},
    )
    if settings.limit_bytes is not None:
        document.rules["a call may take (GiB)"] = round(settings.limit_bytes / 2**30, 1)
    started_s = time.monotonic()

    def finished(case: CaseResult) -> None:
        document.cases.append(case)
        document.seconds = round(time.monotonic() - started_s, 1)
        if output is not None:
            document.save(output)

    return document, finished


def _end(document: Document, output: Path | None) -> Document:
    document.load = (document.load[0], load_average())
    document.complete = True
    if output is not None:
        document.save(output)
    return document
