"""What happens to a received series: predict it, and send the segmentation to who wants it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from scanseg.dicomnet.inbox import Received
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.send import send_files
from scanseg.errors import Error
from scanseg.inference.predict import Model
from scanseg.inference.segmentation import save_segmentation

logger = logging.getLogger(__name__)

_WAITS_S = (1.0, 10.0, 60.0)


def segment_and_send(
    received: Received,
    model: Model,
    peer: Peer | None,
    output: Path,
    *,
    ae_title: str = "SCANSEG",
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Predicts a series, writes `OUTPUT/ID.dcm` and sends it; a peer that fails is tried four times.

    UIDs follow from the series, its id and the weights, so a series that is handed over again after a crash
    makes the same object, which the peer stores once.

    Args:
        received: The series.
        model: The loaded model.
        peer: Who gets the segmentation; None only writes it.
        output: Folder of segmentations; erased once sent.
        ae_title: What we are called.
        wait: Waits for so many seconds.

    Returns:
        Where the segmentation was written; the file is gone if it was sent.

    Raises:
        Error: The series is refused, or the peer did not take the segmentation, which then stays on disk.
    """
    path = output / f"{received.case_id}.dcm"
    prediction = model.predict(received.folder)
    save_segmentation(path, prediction, received.folder, model, uid_seed=received.case_id)
    if peer is None:
        return path
    for wait_s in (*_WAITS_S, None):
        try:
            send_files([path], peer, ae_title=ae_title)
            break
        except Error as error:
            if wait_s is None:
                raise
            logger.warning("%s Next try in %g s.", error.message, wait_s)
            wait(wait_s)
    path.unlink()
    logger.info("Segmentation of %s sent", received.case_id)
    return path
