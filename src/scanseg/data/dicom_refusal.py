"""Why a DICOM file is refused, before anything names the file."""


class Refusal(Exception):
    """Why one file is no slice: a code, and a predicate such as `has no pixel data`."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(code)
        self.code, self.what = code, what
