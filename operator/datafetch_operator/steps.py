"""The steps in the life of a DataFetch: what `lifecycle` finds it at, and `status` describes. Values only.

Each says in which phases it can be, and which condition explains them: that one's reason is `status.reason`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from datafetch_api.resource import ConditionType, Phase
from datafetch_operator.observation import Job, Place
from datafetch_operator.reasons import Reason
from datafetch_operator.render.config_map import Attempt
from datafetch_operator.waiting import Activity


@dataclass(frozen=True, slots=True)
class Recipe:
    """It has no target: there is nothing to do until a pod asks."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.RECIPE,)
    explained_by: ClassVar[ConditionType | None] = None

    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The spec cannot be carried out."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.FAILED, Phase.PENDING)
    explained_by: ClassVar[ConditionType | None] = ConditionType.ACCEPTED

    reason: Reason
    message: str
    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class Suspended:
    """It is to stand still."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.SUSPENDED,)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """Its claim is missing and is to be made."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING,)
    explained_by: ClassVar[ConditionType | None] = ConditionType.TARGET_READY

    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class AwaitClaim:
    """Its claim is missing, or on its way out."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING,)
    explained_by: ClassVar[ConditionType | None] = ConditionType.TARGET_READY

    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What is wanted is published."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.READY,)
    explained_by: ClassVar[ConditionType | None] = ConditionType.READY

    next_sync: datetime | None = None
    """When the schedule wants it again."""
    look_again_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and nothing has changed since that could mend it."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.FAILED,)
    explained_by: ClassVar[ConditionType | None] = ConditionType.FAILED

    next_sync: datetime | None = None
    """When the schedule tries it again."""
    look_again_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """An attempt is to be started; `is_new` where the status does not count it yet.

    Or the publication of what its shards have brought: then it is Fetching already.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING, Phase.FETCHING, Phase.REFRESHING)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    attempt: Attempt
    is_new: bool
    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class AwaitUse:
    """Only one pod can use the claim, and another one does: an attempt starts when that has ended."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING, Phase.REFRESHING)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    pod: str
    look_again_seconds: float


@dataclass(frozen=True, slots=True)
class Queued:
    """An attempt is to be started, and as many downloads as may be are under way: it waits for its turn."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING, Phase.REFRESHING)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    attempt: Attempt
    place: Place
    look_again_seconds: None = None


@dataclass(frozen=True, slots=True)
class Adopt:
    """The status was lost, and the attempt's Job is there: it is taken up again."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING,)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    job: Job
    look_again_seconds: float = 0


@dataclass(frozen=True, slots=True)
class AwaitRemoval:
    """The attempt's Job is on its way out, or ended without a result: the next attempt comes after it."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING, Phase.REFRESHING)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    job: Job
    look_again_seconds: float


@dataclass(frozen=True, slots=True)
class Watch:
    """The attempt's Job is at work, or waits for something."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase.PENDING, Phase.FETCHING, Phase.REFRESHING)
    explained_by: ClassVar[ConditionType | None] = ConditionType.PROGRESSING

    job: Job
    activity: Activity

    @property
    def look_again_seconds(self) -> float | None:
        """When to look again, where no event will say that something changed."""
        return self.activity.look_again_seconds


Step = (
    Recipe
    | Refused
    | Suspended
    | CreateClaim
    | AwaitClaim
    | Done
    | Failed
    | Start
    | AwaitUse
    | Queued
    | Adopt
    | AwaitRemoval
    | Watch
)
