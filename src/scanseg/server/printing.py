"""Reports as PDF on demand, each by a process of its own, under limits and without network.

`python -m scanseg.server.printing` reads one JSON line, writes one file, answers with one JSON line and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scanseg.errors import Error
from scanseg.server.problems import Refusal
from scanseg.server.reading import confine

_LIMIT_S = 60.0
_HINT = "Take report.html: it holds the same, and a browser prints it."


class Printer:
    """Starts one printing process at a time.

    Args:
        limit_s: A process is killed after this time.
    """

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        self._turn = asyncio.Semaphore(1)

    async def pdf(self, page: Path, target: Path) -> Path:
        """Returns `target`, the PDF of an HTML report, which is written if it is not there.

        Raises:
            Refusal: 404 if this server cannot write PDF files, or not this one; 503 if it took too long.
        """
        async with self._turn:
            if not target.is_file():
                found = await self._asked({"page": str(page), "target": str(target)})
                if "code" in found:
                    raise _refusal(found)
        return target

    async def _asked(self, orders: dict[str, str]) -> dict[str, Any]:
        line = json.dumps(orders | {"limit_s": str(self._limit_s)}).encode() + b"\n"
        # Not asyncio's own: one that is called off while it starts is waited for without end (Python 3.11).
        process = subprocess.Popen(
            [sys.executable, "-m", "scanseg.server.printing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            said, _ = await asyncio.to_thread(process.communicate, line, self._limit_s)
            found: dict[str, Any] = json.loads(said)
        except subprocess.TimeoutExpired:
            raise Refusal(
                503,
                "The PDF could not be made in time.",
                code="E-SERVE-TOOLS",
                hint=_HINT,
                headers={"Retry-After": "2"},
            ) from None
        except ValueError:
            return {"code": "E-PDF-CRASH", "message": "The process that makes PDF files failed.", "hint": ""}
        finally:
            process.kill()
            process.wait()
        return found


def _refusal(found: dict[str, Any]) -> Refusal:
    """Returns the answer to a reader, with what the operator can do where the server lacks something."""
    if found["code"] in ("E-EXTRA-MISSING", "E-PDF-LIBRARY"):
        text = f"This server cannot write PDF files. {found['message']}"
        return Refusal(404, text, code="E-SERVE-PDF", hint=f"{_HINT} For the operator: {found['hint']}")
    return Refusal(404, "This report cannot be made a PDF.", code="E-SERVE-PDF", hint=_HINT)


# -- the process --------------------


def _printed(orders: dict[str, str]) -> dict[str, str]:
    from scanseg.reporting.pdf import load_weasyprint, write_pdf

    try:
        load_weasyprint()  # before the limits, which may not allow to
        confine()
        write_pdf(Path(orders["page"]), Path(orders["target"]))
    except Error as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}
    except OSError:
        # The prediction was erased meanwhile, or the disk is full.
        return {"code": "E-PDF-DISK", "message": "The PDF could not be written.", "hint": ""}
    return {}


def main() -> None:
    """Reads orders, writes the PDF, answers."""
    import signal

    orders = json.loads(sys.stdin.readline())
    # The server kills what is late; should it be gone itself, this process still ends.
    if hasattr(signal, "alarm"):
        signal.alarm(int(float(orders["limit_s"])) + 5)
    # Only this one line is ever printed, whatever libraries say.
    answer_to = os.dup(1)
    os.dup2(2, 1)
    os.write(answer_to, json.dumps(_printed(orders)).encode() + b"\n")


if __name__ == "__main__":
    main()
