"""What the service answers, as values with names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanseg.client.service import Client


@dataclass(frozen=True)
class Job:
    """A prediction or evaluation as the service tells it.

    Attributes:
        facts: The whole answer.
    """

    facts: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.facts["id"])

    @property
    def state(self) -> str:
        """`waiting`, `queued`, `running`, `done`, `failed` or `cancelled`."""
        return str(self.facts["state"])

    @property
    def progress(self) -> float | None:
        """Part of the current stage that is done."""
        found = self.facts.get("progress")
        return None if found is None else float(found["fraction"])


@dataclass(frozen=True)
class Training:
    """A training that the service watches.

    Attributes:
        facts: The whole answer.
    """

    facts: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.facts["id"])

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return str(self.facts["name"])

    @property
    def state(self) -> str:
        """`waiting`, `running`, `finished`, `stopped` or `failed`."""
        return str(self.facts["state"])

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return int(self.facts["epoch"])

    @property
    def eta_s(self) -> float | None:
        """Seconds that it will still take; None while unknown and unless it is running."""
        found = self.facts["eta_s"]
        return None if found is None else float(found)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The most memory that it has used; None while that is not known."""
        found = self.facts["memory"]
        return None if found is None else int(found["peak_bytes"])

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record an epoch, as in metrics.jsonl; empty in lists, which carry no curves."""
        return list(self.facts.get("metrics", []))


@dataclass(frozen=True)
class Result:
    """The findings of a prediction, and its files.

    Attributes:
        facts: The whole document.
    """

    facts: dict[str, Any]
    _client: Client = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """Id of the prediction."""
        return str(self.facts["id"])

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Size, pieces, place and certainty of each label."""
        return list(self.facts["labels"])

    @property
    def insights(self) -> list[str]:
        """Sentences about the mask."""
        return [str(entry["text"]) for entry in self.facts["insights"]]

    @property
    def next_steps(self) -> list[str]:
        """Sentences about what to do next, most urgent first."""
        return [str(entry["text"]) for entry in self.facts["next_steps"]]

    @property
    def disclaimer(self) -> str:
        """What the result must not be used for."""
        return str(self.facts["disclaimer"])

    def save_mask(self, path: Path | str, *, format: str | None = None) -> Path:
        """Writes the mask; without an ending in `path` that of the input is added. Returns the path."""
        target = Path(path)
        known = self._client.version()["mask_formats"]
        ending = next((one for one in known if target.name.lower().endswith(f".{one}")), None)
        wanted = format or ending
        if wanted is None:
            wanted = str(self.facts["files"]["mask"]["name"]).partition(".")[2]
        if ending is None:
            target = target.with_name(f"{target.name}.{wanted}")
        return self._client.download(f"/api/v1/predictions/{self.id}/mask?format={wanted}", target)

    def save_report(self, path: Path | str) -> Path:
        """Writes the report, one HTML file, or a PDF where the path ends with .pdf. Returns the path."""
        ending = "pdf" if Path(path).suffix.lower() == ".pdf" else "html"
        return self._client.download(f"/api/v1/predictions/{self.id}/report.{ending}", Path(path))

    def save_all(self, path: Path | str) -> Path:
        """Writes a zip archive of everything. Returns the path."""
        return self._client.download(f"/api/v1/predictions/{self.id}/all.zip", Path(path))

    def save_file(self, name: str, path: Path | str) -> Path:
        """Writes a file: `uncertainty`, `probabilities/1`, `preview.png`, `mesh/1`, `slice/axial/20.png`.

        Returns:
            The path.
        """
        return self._client.download(f"/api/v1/predictions/{self.id}/{name}", Path(path))

    def erase(self) -> None:
        """Erases the prediction and all its files on the server."""
        self._client.delete(self.id)
