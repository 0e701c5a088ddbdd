"""`scanseg doctor`: what this machine offers, what is missing, and how to mend it."""

from typing import Annotated

import typer

from scanseg.cli import options


def doctor(
    *,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Time the scan on this machine.")] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Show versions, devices, scan backends, extras, memory and speed. Exit code 1 if something is broken."""
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    facts = pipeline.diagnose(bench=bench)
    for title, rows in facts["tables"].items():
        out.table(title, ("what", "found"), list(rows.items()))
    out.table(
        "Scan backends",
        ("backend", "runs", "why"),
        [(b["name"], "yes" if b["available"] else "no", b["reason"]) for b in facts["backends"]],
    )
    for problem in facts["problems"]:
        out.err.print(f"[red]{problem['code']}[/]  {problem['text']}")
        out.err.print(f"    Fix: {problem['hint']}")
    out.say("[green]Everything needed is here.[/]" if not facts["problems"] else "")
    out.result(facts)
    return 1 if facts["problems"] else 0
