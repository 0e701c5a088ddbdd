"""From a trained model to a receiver that segments what it is sent, and sends the result on."""

from collections.abc import Sequence
from pathlib import Path

from scanseg.dicomnet.destination import Destination, sender
from scanseg.dicomnet.inbox import Received
from scanseg.dicomnet.outbox import Outbox
from scanseg.dicomnet.scp import Listener, ListenOptions, serve_dicom
from scanseg.inference.predict import Model
from scanseg.inference.segmentation import save_segmentation
from scanseg.pipeline.predicting import require_writable


class Listening:
    """A running receiver with its model; see `listen`."""

    def __init__(self, listener: Listener, outbox: Outbox | None) -> None:
        self._listener, self._outbox = listener, outbox

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._listener.port

    def wait(self) -> None:
        """Waits for an interrupt."""
        self._listener.wait()

    def stop(self) -> None:
        """Finishes the series at hand; what waits is taken up by the next start."""
        self._listener.stop()
        if self._outbox is not None:
            self._outbox.stop()

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def listen(
    model: Path | str | Sequence[Path | str] | Model,
    port: int,
    peer: Destination | None,
    *,
    inbox: Path,
    output: Path,
    options: ListenOptions | None = None,
    send_tls: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> Listening:
    """Loads a model, starts to receive, segments each complete series and sends the result to `peer`.

    Args:
        model: Run folders, or a loaded model.
        port: TCP port; 0 takes a free one.
        peer: Who gets the segmentations; a peer that is away is tried again until it takes them. None leaves
            them in `output`.
        inbox: Folder for what is received.
        output: Folder for segmentations, until they are sent.
        options: Who may send how much.
        send_tls: Send by TLS as well, with `options.tls`.
        device: As in `Model`; so is `threads`.

    Raises:
        ModelError: The model cannot be loaded.
        UsageError, Error: As `serve_dicom`.
    """
    loaded = model if isinstance(model, Model) else Model(model, device=device, threads=threads)
    options = options or ListenOptions()
    output = Path(output)
    require_writable(output)

    def on_series(received: Received) -> None:
        segment(received, loaded, output)

    listener = serve_dicom(port, on_series, inbox=inbox, options=options)
    if peer is None:
        return Listening(listener, None)
    send = sender(peer, ae_title=options.ae_title, tls=options.tls if send_tls else None)
    return Listening(listener, Outbox(output, send))


def segment(received: Received, model: Model, output: Path) -> Path:
    """Predicts a series and writes `OUTPUT/ID.dcm`; returns that path.

    UIDs follow from the series, its id and the weights: a series that is handed over again after a crash
    makes the same object.

    Raises:
        DataError: The series is refused.
        ModelError: The network's output is not finite.
    """
    path = output / f"{received.case_id}.dcm"
    prediction = model.predict(received.folder)
    save_segmentation(path, prediction, received.folder, model, uid_seed=received.case_id)
    return path
