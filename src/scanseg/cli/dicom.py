"""`scanseg dicom`: receive series from a PACS or scanner, sort files, take names out of them."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options
from scanseg.cli.failures import shows_errors

dicom = typer.Typer(help="Receive DICOM series, sort files, take names out of them.", no_args_is_help=True)


@dicom.command()
@shows_errors
def listen(
    *,
    model: Annotated[
        list[Path],
        typer.Option("--model", "-m", help="Run folder; several make an ensemble.", show_default=False),
    ],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="TCP port; 0 takes a free one.")
    ] = 11112,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    ae_title: Annotated[str, typer.Option("--ae-title", help="What this receiver is called.")] = "SCANSEG",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="AE title that may send; may be repeated. Needed beyond this machine."),
    ] = None,
    send_to: Annotated[
        str | None,
        typer.Option(
            "--send-to",
            help="Who gets the segmentations: TITLE@HOST:PORT or https://.../dicom-web.",
            show_default=False,
        ),
    ] = None,
    send_secret: options.SendSecret = None,
    inbox: Annotated[
        Path, typer.Option("--inbox", help="Folder for what is received; failed series stay in it.")
    ] = Path("dicom-inbox"),
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for segmentations until they are sent.")
    ] = Path("dicom-masks"),
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", help="Our certificate (PEM): associations are encrypted."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM).")] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Authority (PEM) that must have signed the sender's certificate."),
    ] = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send by TLS too, with these files.")] = False,
    quiet_seconds: Annotated[
        float, typer.Option("--quiet-seconds", min=0.1, help="A series is complete after so much silence.")
    ] = 5.0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Receive series (C-STORE), segment and send back. Stop with Ctrl-C."""
    from scanseg.cli.console import Output
    from scanseg.dicomnet.destination import parse_destination
    from scanseg.dicomnet.listening import listen as start
    from scanseg.dicomnet.scp import ListenOptions
    from scanseg.dicomnet.tls import require_for_sending, tls_files

    out = Output(json=json, quiet=quiet, verbose=verbose)
    peer = None if send_to is None else parse_destination(send_to, secret_file=send_secret)
    tls = tls_files(tls_cert, tls_key, tls_ca)
    if send_tls:
        require_for_sending(tls, peer)
    chosen = ListenOptions(
        ae_title=ae_title, host=host, callers=tuple(allow or ()), quiet_s=quiet_seconds, tls=tls
    )
    with start(
        model,
        port,
        peer,
        inbox=inbox,
        output=output,
        options=chosen,
        send_tls=send_tls,
        device=device,
        threads=threads,
    ) as listener:
        out.say(f"{ae_title} listens on {host}:{listener.port}. Ctrl-C stops.")
        out.result({"ae_title": ae_title, "host": host, "port": listener.port})
        listener.wait()
    return 0


@dicom.command()
@shows_errors
def deidentify(
    source: Annotated[Path, typer.Argument(help="Folder or zip archive of DICOM files.", show_default=False)],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Empty folder for the copies.", show_default=False)
    ],
    shift_days: Annotated[
        int | None,
        typer.Option("--shift-days", help="Move dates by so many days instead of removing them."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", help="File with a secret of 16 bytes or more; the same one maps UIDs the same way."
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Copy files without what names the patient.

    PS3.15 basic profile. Pixels are not looked at.
    """
    from scanseg.cli.console import Output
    from scanseg.data.dicom_deidentify import NOTICE
    from scanseg.data.dicom_deidentify import deidentify as run
    from scanseg.data.limits import open_file

    out = Output(json=json, quiet=quiet, verbose=verbose)
    key = None
    if key_file is not None:
        with open_file(key_file) as stream:
            key = stream.read(4096)
    result = run(source, output, key=key, shift_days=shift_days)
    out.findings(result.findings)
    out.say(f"{result.files} files of {result.series} series written to {output}.")
    out.say(NOTICE)
    out.result(result.as_dict())
    return 0


@dicom.command()
@shows_errors
def sort(
    source: Annotated[Path, typer.Argument(help="Folder or zip archive of DICOM files.", show_default=False)],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Empty folder for the copies.", show_default=False)
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Copy mixed files into a folder for each series.

    Such as the files of a disc.
    """
    from scanseg.cli.console import Output
    from scanseg.data.dicom_sort import sort_series

    out = Output(json=json, quiet=quiet, verbose=verbose)
    found, left_out = sort_series(source, output)
    out.findings(left_out)
    rows = [
        (one.folder.name, one.files, "x".join(map(str, one.shape)) if one.shape else one.reason)
        for one in found
    ]
    out.table("", ["series", "files", "volume (z, y, x), or why it is refused"], rows)
    findings = [finding.as_dict() for finding in left_out]
    out.result({"series": [one.as_dict() for one in found], "findings": findings})
    return 0
