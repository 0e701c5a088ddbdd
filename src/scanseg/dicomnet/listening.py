"""From a trained model to a receiver that segments what it is sent."""

from collections.abc import Sequence
from pathlib import Path

from scanseg.dicomnet.inbox import Received
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.scp import Listener, ListenOptions, serve_dicom
from scanseg.dicomnet.segment import segment_and_send
from scanseg.inference.predict import Model
from scanseg.pipeline.predicting import require_writable


def listen(
    model: Path | str | Sequence[Path | str] | Model,
    port: int,
    peer: Peer | None,
    *,
    inbox: Path,
    output: Path,
    options: ListenOptions | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Listener:
    """Loads a model, starts to receive, segments each complete series and sends the result to `peer`.

    Args:
        model: Run folders, or a loaded model.
        port: TCP port; 0 takes a free one.
        peer: Who gets the segmentations; None leaves them in `output`.
        inbox: Folder for what is received.
        output: Folder for segmentations until they are sent.
        options: Who may send how much.
        device: As in `Model`; so is `threads`.

    Raises:
        ModelError: The model cannot be loaded.
        UsageError, Error: As `serve_dicom`.
    """
    loaded = model if isinstance(model, Model) else Model(model, device=device, threads=threads)
    options = options or ListenOptions()
    require_writable(output)

    def on_series(received: Received) -> None:
        segment_and_send(received, loaded, peer, output, ae_title=options.ae_title)

    return serve_dicom(port, on_series, inbox=inbox, options=options)
