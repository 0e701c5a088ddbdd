"""`scanseg serve`: trained models as a REST API with a web page."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def serve(
    model: Annotated[
        list[Path],
        typer.Option("--model", "-m", help="Run folder; give several to serve several.", show_default=False),
    ],
    *,
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
    docs: Annotated[bool, typer.Option("--docs", help="Also serve a page with the routes, /docs.")] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Serve models as a REST API with a web page, on this machine only unless --host says otherwise."""
    from scanseg.cli.console import Output
    from scanseg.optional import require

    for name in ("fastapi", "uvicorn", "yaml"):
        require(name, extra="serve", purpose="scanseg serve")
    from scanseg.server.limits import Limits, parse_size, parse_span
    from scanseg.server.models import model_ids
    from scanseg.server.serving import Address, run
    from scanseg.server.settings import Settings, is_local, prepare_folder
    from scanseg.server.tokens import load_tokens

    out = Output(json=json, quiet=quiet, verbose=verbose)
    data = (data_dir or Path.home() / ".scanseg").expanduser()
    limits = Limits(upload_bytes=parse_size(max_upload), ttl_s=parse_span(ttl), job_s=parse_span(job_time))
    prepare_folder(data)
    tokens: dict[str, str] = {}
    secret: str | None = None
    where = token_file
    if where is None and not is_local(host):
        where = data / "token"
    if where is not None:
        tokens, secret = load_tokens(where)
    settings = Settings(
        runs=model_ids(model),
        data=data,
        host=host,
        port=port,
        tokens=tokens,
        names=tuple(allow_host or ()),
        docs=docs,
        device=device,
        threads=threads,
        limits=limits,
    )

    def tell(address: Address) -> None:
        page = f"{address.url}/" + (f"#token={secret}" if secret else "")
        out.result(
            {
                "event": "listening",
                "url": address.url,
                "page": page,
                "host": address.host,
                "port": address.port,
                "models": list(settings.runs),
                "token_file": None if where is None else str(where),
            }
        )
        out.say(f"Serving {', '.join(settings.runs)} at {page}")
        if where is not None:
            out.say(f"Token: in {where}" + ("; it is shown only now." if secret else "."))
        if not is_local(host):
            out.say("Traffic is not encrypted. Put a TLS proxy in front: see docs/how-to/serve.md.")
        out.say("Research software. Not a medical device. Stop with Ctrl-C.")

    run(settings, on_listening=tell)
    return 0
