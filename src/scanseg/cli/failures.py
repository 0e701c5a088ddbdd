"""How the errors of a verb become a message and an exit code."""

import functools
from collections.abc import Callable
from typing import Any

import typer

from scanseg.errors import Error

INTERRUPTED = 130


def shows_errors(verb: Callable[..., int | None]) -> Callable[..., None]:
    """Turns the errors of a verb into a message and an exit code."""

    @functools.wraps(verb)
    def run(**arguments: Any) -> None:
        from scanseg.cli.console import Output, configure_logging

        output = Output(
            json=arguments.get("json", False),
            quiet=arguments.get("quiet", False),
            verbose=arguments.get("verbose", False),
        )
        configure_logging(verbose=output.verbose)
        try:
            code = verb(**arguments) or 0
        except KeyboardInterrupt:
            output.err.print("Interrupted. Run the same command again to continue.")
            code = INTERRUPTED
        except Error as error:
            if output.verbose:
                output.err.print_exception()
            output.error(error)
            code = error.exit_code
        except BrokenPipeError:
            code = 1
        except Exception as error:
            if output.verbose:
                output.err.print_exception()
            fault = f"{type(error).__name__}: {error}"
            hint = (
                "Run again with --verbose and report what it prints; nothing under a final name is damaged."
            )
            output.error(Error(f"Unexpected fault, {fault}", code="E-INTERNAL", hint=hint))
            code = 1
        raise typer.Exit(code)

    return run
