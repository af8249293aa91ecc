"""Shapes of the records, receipts and progress that a run's process and its recorder write for each other.

Only readers use them, to find damaged lines; writers append plain dicts. Keys that earlier versions lack have defaults.
"""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from torchmill.components.refs import StepRef

Status = Literal["FINISHED", "FAILED", "KILLED"]
Texts = dict[str, str]


class Progress(BaseModel):
    """How far a recorder has come, in ``sent.json``."""

    model_config = ConfigDict(frozen=True)

    to: NonNegativeInt = 0
    """Position in the journal up to which everything is in MLflow."""
    run_id: str = ""
    experiment_id: str = ""
    status: Status | Literal[""] = ""
    """Status that MLflow has; empty while the run goes on."""


@dataclass
class Open:
    kind: Literal["open"]
    id: str
    server: str
    experiment: str
    name: str
    params: Texts
    tags: Texts
    groups_metrics: bool = False


@dataclass
class Metrics:
    kind: Literal["metrics"]
    step: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    time: Annotated[int, Field(ge=0, lt=2**63)]
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]]


@dataclass
class Params:
    kind: Literal["params"]
    params: Texts


@dataclass
class Tags:
    kind: Literal["tags"]
    tags: Texts


@dataclass
class Files:
    kind: Literal["files"]
    paths: list[Annotated[str, Field(pattern=r"^[^\x00]+$")]]
    folder: str


@dataclass
class DataSet:
    kind: Literal["dataset"]
    name: str
    digest: str
    source: str
    profile: dict[str, Any]


@dataclass
class Begin:
    kind: Literal["begin"]
    name: str


@dataclass
class StepEnd:
    kind: Literal["step"]
    name: str
    step: StepRef


@dataclass
class Register:
    kind: Literal["register"]
    ask: str
    name: str
    file: str
    example: str
    tags: Texts


@dataclass
class StandingRequest:
    kind: Literal["standing"]
    ask: str
    name: str
    version: str
    until: float


@dataclass
class Promote:
    kind: Literal["promote"]
    ask: str
    name: str
    version: str
    champion: str | None
    crown: bool
    tags: Texts
    contest: Texts = field(default_factory=dict)


@dataclass
class Settle:
    kind: Literal["settle"]
    ask: str


@dataclass
class End:
    kind: Literal["end"]
    status: Status
    ask: str = ""


Record = Annotated[
    Open
    | Metrics
    | Params
    | Tags
    | Files
    | DataSet
    | Begin
    | StepEnd
    | Register
    | StandingRequest
    | Promote
    | Settle
    | End,
    Discriminator("kind"),
]


@dataclass
class Opened:
    receipt: Literal["opened"]
    process: int
    run_id: str
    experiment_id: str
    server: str


@dataclass
class Refused:
    receipt: Literal["refused"]
    process: int
    message: str
    remedy: str
    unreachable: bool


@dataclass
class Registered:
    receipt: Literal["registered"]
    process: int
    ask: str
    version: str | int


@dataclass
class Champion:
    name: str
    version: str
    run_id: str
    tags: Texts = field(default_factory=dict)


@dataclass
class StandingAnswer:
    receipt: Literal["standing"]
    process: int
    ask: str
    champion: Champion | None
    file: str | None
    was_champion: bool
    trained_on: str | None = None
    contests: str = ""


@dataclass
class Promotion:
    receipt: Literal["promotion"]
    process: int
    ask: str
    state: Literal["done", "changed"]


@dataclass
class Declined:
    receipt: Literal["declined"]
    process: int
    ask: str
    message: str


@dataclass
class Note:
    receipt: Literal["away", "back", "settled", "ended"]
    process: int


Receipt = Annotated[
    Opened | Refused | Registered | StandingAnswer | Promotion | Declined | Note, Discriminator("receipt")
]
