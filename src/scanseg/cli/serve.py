"""`scanseg serve`: trained models as a REST API with a web page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanseg.cli import options

if TYPE_CHECKING:
    from scanseg.cli.console import Output
    from scanseg.errors import UsageError
    from scanseg.server.limits import Limits
    from scanseg.server.serving import Address
    from scanseg.server.settings import DicomSettings, Settings


def serve(
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Run folder; give several to serve several.", show_default=False),
    ] = None,
    *,
    watch: Annotated[
        list[Path] | None,
        typer.Option(
            "--watch",
            show_default=False,
            help="Show the training of this run folder, or of all runs in a folder; may be repeated.",
        ),
    ] = None,
    allow_training: Annotated[
        bool, typer.Option("--allow-training", help="Let users stop the trainings that are shown.")
    ] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="Ask for the token in this file; made if it is missing. Always with other hosts.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="Folder of uploads and results, on a local disk.", show_default="~/.scanseg"
        ),
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="Results are erased after this time.")] = "24h",
    max_upload: Annotated[str, typer.Option("--max-upload", help="Largest upload.")] = "2G",
    job_time: Annotated[str, typer.Option("--job-time", help="Longest time of one prediction.")] = "1h",
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Further host name of this server, as behind a proxy."),
    ] = None,
    dicom_port: Annotated[
        int | None,
        typer.Option(
            "--dicom-port",
            min=0,
            max=65535,
            show_default=False,
            help="Also receive DICOM series (C-STORE) on this port, as predictions; 0 takes a free one.",
        ),
    ] = None,
    dicom_host: Annotated[
        str | None,
        typer.Option("--dicom-host", help="Address to receive on.", show_default="that of --host"),
    ] = None,
    dicom_ae_title: Annotated[
        str, typer.Option("--dicom-ae-title", help="What the receiver is called.")
    ] = "SCANSEG",
    dicom_from: Annotated[
        list[str] | None,
        typer.Option(
            "--dicom-from", help="AE title that may send; may be repeated. Needed beyond this machine."
        ),
    ] = None,
    dicom_model: Annotated[
        str | None,
        typer.Option("--dicom-model", help="Id of the model for series.", show_default="the only one"),
    ] = None,
    dicom_quiet_seconds: Annotated[
        float,
        typer.Option("--dicom-quiet-seconds", min=0.1, help="A series is complete after so much silence."),
    ] = 5.0,
    send_to: Annotated[
        str | None,
        typer.Option(
            "--send-to",
            help="Who gets the segmentations of received series: TITLE@HOST:PORT or https://.../dicom-web.",
            show_default=False,
        ),
    ] = None,
    send_secret: options.SendSecret = None,
    dicom_tls_cert: Annotated[
        Path | None,
        typer.Option("--dicom-tls-cert", help="Certificate of the receiver (PEM): DICOM is encrypted."),
    ] = None,
    dicom_tls_key: Annotated[Path | None, typer.Option("--dicom-tls-key", help="Its key (PEM).")] = None,
    dicom_tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--dicom-tls-ca", help="Authority (PEM) that must have signed the sender's certificate."
        ),
    ] = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send by TLS too, with these files.")] = False,
    docs: Annotated[bool, typer.Option("--docs", help="Also serve a page with the routes, /docs.")] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Serve models as a REST API with a web page.

    On this machine only, unless --host says otherwise.

    With --watch it shows trainings, with or without models.
    """
    from scanseg.cli.console import Output
    from scanseg.optional import require

    for name in ("fastapi", "uvicorn", "yaml"):
        require(name, extra="serve", purpose="scanseg serve")
    from scanseg.server.limits import Limits, parse_size, parse_span
    from scanseg.server.models import model_ids
    from scanseg.server.serving import run
    from scanseg.server.settings import Settings, is_local, prepare_folder
    from scanseg.server.tokens import load_tokens

    out = Output(json=json, quiet=quiet, verbose=verbose)
    tls = (dicom_tls_cert, dicom_tls_key, dicom_tls_ca)
    if dicom_port is None and (
        dicom_from or dicom_model or dicom_host or send_to or any(tls) or send_tls or send_secret
    ):
        raise _no_port()
    _check_what(model, watch, allow_training)
    data = (data_dir or Path.home() / ".scanseg").expanduser()
    limits = Limits(upload_bytes=parse_size(max_upload), ttl_s=parse_span(ttl), job_s=parse_span(job_time))
    prepare_folder(data)
    where = token_file if token_file or is_local(host) else data / "token"
    tokens, secret = ({}, None) if where is None else load_tokens(where)
    settings = Settings(
        runs=model_ids(model or []),
        data=data,
        host=host,
        port=port,
        tokens=tokens,
        names=tuple(allow_host or ()),
        docs=docs,
        device=device,
        threads=threads,
        limits=limits,
        watch=tuple(watch or ()),
        allow_training=allow_training,
        dicom=None
        if dicom_port is None
        else _dicom(
            dicom_port,
            limits,
            host=dicom_host or host,
            ae_title=dicom_ae_title,
            callers=tuple(dicom_from or ()),
            quiet_s=dicom_quiet_seconds,
            model=dicom_model,
            send_to=send_to,
            secret=send_secret,
            tls=tls,
            send_tls=send_tls,
        ),
    )

    run(settings, on_listening=lambda address: _announce(out, settings, address, where, secret))
    return 0


def _announce(
    out: "Output", settings: "Settings", address: "Address", token_file: Path | None, secret: str | None
) -> None:
    """Says where the service is; `secret` is a token that was made just now."""
    from scanseg.server.settings import is_local

    page = f"{address.url}/" + (f"#token={secret}" if secret else "")
    out.result(
        {
            "event": "listening",
            "url": address.url,
            "page": page,
            "host": address.host,
            "port": address.port,
            "models": list(settings.runs),
            "dicom_port": address.dicom_port,
            "token_file": None if token_file is None else str(token_file),
        }
    )
    out.say(f"Serving {', '.join([*settings.runs, *(['trainings'] if settings.watch else [])])} at {page}")
    if settings.dicom is not None:
        listen = settings.dicom.listen
        out.say(f"{listen.ae_title} receives DICOM on {listen.host}:{address.dicom_port}")
    if token_file is not None:
        out.say(f"Token: in {token_file}" + ("; it is shown only now." if secret else "."))
    if not is_local(settings.host):
        out.say("Traffic is not encrypted. Put a TLS proxy in front: see docs/how-to/serve.md.")
    out.say("Research software. Not a medical device. Stop with Ctrl-C.")


def _dicom(
    port: int,
    limits: "Limits",
    *,
    host: str,
    ae_title: str,
    callers: tuple[str, ...],
    quiet_s: float,
    model: str | None,
    send_to: str | None,
    secret: Path | None,
    tls: tuple[Path | None, Path | None, Path | None],
    send_tls: bool,
) -> "DicomSettings":
    """Returns how series are received; the bounds of uploads hold for them too."""
    from scanseg.dicomnet.destination import parse_destination
    from scanseg.dicomnet.scp import ListenOptions
    from scanseg.dicomnet.tls import require_for_sending, tls_files
    from scanseg.server.settings import DicomSettings

    listen = ListenOptions(
        ae_title=ae_title,
        host=host,
        callers=callers,
        quiet_s=quiet_s,
        most_bytes=min(ListenOptions.most_bytes, limits.upload_bytes),
        free_bytes=limits.free_bytes,
        tls=tls_files(*tls),
    )
    if secret is not None and send_to is None:
        raise _no_receiver()
    peer = None if send_to is None else parse_destination(send_to, secret_file=secret)
    if send_tls:
        require_for_sending(listen.tls, peer)
    return DicomSettings(port, listen, model=model or "", send_to=peer, send_tls=send_tls)


def _no_receiver() -> "UsageError":
    from scanseg.errors import UsageError

    return UsageError(
        "--send-secret needs --send-to https://...", code="E-DICOM-SECRET", hint="Give both, or neither."
    )


def _check_what(model: list[Path] | None, watch: list[Path] | None, allow_training: bool) -> None:
    from scanseg.errors import UsageError

    if not model and not watch:
        raise UsageError(
            "There is nothing to serve.",
            code="E-SERVE-NOTHING",
            hint="Give a run folder with --model RUN, or a training to show with --watch RUN.",
        )
    if allow_training and not watch:
        raise UsageError(
            "--allow-training needs --watch.",
            code="E-SERVE-WATCH",
            hint="Give the folder of the runs with --watch FOLDER.",
        )


def _no_port() -> "UsageError":
    from scanseg.errors import UsageError

    return UsageError(
        "--send-to, --send-tls and the options that begin with --dicom- need --dicom-port.",
        code="E-SERVE-DICOM",
        hint="For example --dicom-port 11112.",
    )
