"""What goes in and out of the API, as types; the OpenAPI description is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1000)]
Spacing = Annotated[list[Annotated[float, Field(gt=0, lt=1e6)]], Field(min_length=2, max_length=3)]


class Closed(BaseModel):
    """A body that may hold nothing but its fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Options(Closed):
    """The words of `scanseg predict`."""

    tta: bool = False
    step_size: Annotated[float, Field(ge=0.1, le=1.0)] = 0.5
    probabilities: bool = False
    uncertainty: bool = True
    nan_fill: Annotated[float | None, Field(ge=-1e30, le=1e30)] = None
    spacing: Spacing | None = None


class InputName(Closed):
    """A file that will be uploaded; only its ending matters to the server."""

    name: Annotated[str, Field(min_length=1, max_length=1000)]


class NewPrediction(Closed):
    """Order of a prediction. `model` may be left out where only one is served."""

    model: Text | None = None
    inputs: list[InputName] = Field(default_factory=list, max_length=64)
    sample: Text | None = None
    options: Options = Options()


class NewEvaluation(Closed):
    """Order of an evaluation: of a prediction's mask, or of a mask that is uploaded too."""

    prediction: Text | None = None
    model: Text | None = None
    reference: InputName = InputName(name="reference.nii.gz")
    mask: InputName = InputName(name="mask.nii.gz")


class NewReview(Closed):
    """What a reader thinks of a mask."""

    verdict: Literal["accept", "reject", "unsure"]
    comment: Annotated[str, Field(max_length=2000)] = ""


class Review(BaseModel):
    """A stored review."""

    verdict: str
    comment: str
    at: str


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    id: str | None = None


class Progress(BaseModel):
    """How far a running job is."""

    stage: str
    done: int
    total: int
    fraction: float
    eta_s: float | None


class Input(BaseModel):
    """A place for an upload, and what lies there."""

    slot: str
    name: str
    received: bool
    bytes: int | None
    sha256: str | None
    href: str


class JobAnswer(BaseModel):
    """A prediction or an evaluation."""

    id: str
    seq: int
    kind: str
    model: str
    state: Literal["waiting", "queued", "running", "done", "failed", "cancelled"]
    name: str
    created: str
    started: str | None
    finished: str | None
    expires: str | None
    options: dict[str, Any]
    inputs: list[Input]
    progress: Progress | None
    position: int | None
    eta_s: float | None
    tries: int
    error: dict[str, Any] | None
    review: Review | None
    links: dict[str, str]


class JobList(BaseModel):
    """A page of jobs, newest first."""

    predictions: list[JobAnswer]
    next: int | None


class LabelAnswer(BaseModel):
    """A label of a model."""

    value: int
    name: str
    colour: str


class ModelAnswer(BaseModel):
    """A model that is served."""

    id: str
    version: str
    name: str
    spatial_dims: int
    channels: list[str]
    labels: list[LabelAnswer]
    network: str
    modality: str
    licence: str
    citation: str
    folds: int
    validation: dict[str, float]
    validation_cases: int
    training_range: dict[str, Any]
    state: str
    device: str
    seconds_per_case: float | None


class ModelList(BaseModel):
    """All models."""

    models: list[ModelAnswer]


class Snippets(BaseModel):
    """The same prediction in other words."""

    cli: str
    curl: str
    python: str


class EpochRecord(BaseModel):
    """What a training wrote about an epoch; null where it has no number."""

    epoch: int
    step: int | None
    best: bool
    learning_rate: float | None
    train_loss: float | None
    validation_loss: float | None
    auxiliary_loss: float | None
    pseudo_dice: float | None
    ema_pseudo_dice: float | None
    pseudo_dice_per_label: dict[str, float | None]
    seconds: float | None
    elapsed_seconds: float | None
    skipped_steps: int | None
    peak_memory_bytes: int | None
    total_memory_bytes: int | None
    memory_kind: Literal["gpu", "process"] | None


class TrainingMemory(BaseModel):
    """The most memory that a training has used, and how much there is of the kind; null where unknown."""

    peak_bytes: int
    total_bytes: int | None
    kind: Literal["gpu", "process"] | None


class TrainingProblem(BaseModel):
    """Why a training failed, or what is wrong with its files."""

    code: str
    level: Literal["error", "warning", "info"]
    detail: str
    hint: str


class TrainingAnswer(BaseModel):
    """A training in a folder that is watched."""

    id: str
    name: str
    fold: str | None
    dataset: str | None
    labels: list[str]
    state: Literal["waiting", "running", "finished", "stopped", "failed"]
    stopping: bool
    epoch: int
    epochs: int | None
    epochs_left: int | None
    step: int
    steps: int | None
    epoch_s: float | None
    elapsed_s: float | None
    eta_s: float | None
    expected_end: str | None
    started: str | None
    ended: str | None
    updated: str | None
    recipe: dict[str, Any]
    last: EpochRecord | None
    best: EpochRecord | None
    memory: TrainingMemory | None
    problems: list[TrainingProblem]
    links: dict[str, str]


class TrainingCurves(TrainingAnswer):
    """A training with the records of its epochs after `metrics_after`."""

    metrics_after: int
    metrics: list[EpochRecord]


class TrainingList(BaseModel):
    """All trainings that are watched, those changed last first."""

    trainings: list[TrainingAnswer]
    stop_allowed: bool


class SampleAnswer(BaseModel):
    """An image that ships with the package."""

    id: str
    name: str
    licence: str
    citation: str


class SampleList(BaseModel):
    """Samples that fit a model."""

    samples: list[SampleAnswer]


class Health(BaseModel):
    """The process answers."""

    status: str


class Readiness(BaseModel):
    """Whether every model is loaded."""

    status: str
    models: dict[str, str]


class Version(BaseModel):
    """What runs here, and within which limits."""

    name: str
    version: str
    api: str
    disclaimer: str
    versions: dict[str, str]
    devices: dict[str, str]
    limits: dict[str, float]
    formats: list[str]
    mask_formats: list[str]
    windows: list[str]
    token_required: bool
    docs: bool
    trainings: bool


# The schema is that of one event; its data are JSON.
_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
