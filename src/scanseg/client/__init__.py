"""A typed client of the service. It needs httpx only, no torch.

from scanseg.client import Client

with Client("http://127.0.0.1:8000") as client:
    result = client.predict("mri.nii.gz", model="heart")
    result.save_mask("mask.nii.gz")
"""

from scanseg.client.answers import Job, Result, Training
from scanseg.client.connection import ServiceError
from scanseg.client.service import Client

__all__ = ["Client", "Job", "Result", "ServiceError", "Training"]
