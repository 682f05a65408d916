"""Which step in the life of a DataFetch can follow which: the state machine as a table. Data only.

`lifecycle.decide` looks at what is there, and never at the step before: so nearly every step can follow nearly every
other, whatever a user, Kubernetes or a lost status does. `TRANSITIONS` says which ones do when one thing has happened
and the operator has then come to rest; the unit tests prove that there are no others and that each of them occurs.
`COURSE` holds those that the documentation draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from datafetch_operator import steps

StepType = type[steps.Step]
STEPS: tuple[StepType, ...] = get_args(steps.Step)


@dataclass(frozen=True, slots=True)
class Transition:
    """An arrow in the drawing."""

    before: StepType | None
    """None: it is new."""
    after: StepType
    why: str


COURSE = (
    Transition(None, steps.Recipe, "no target"),
    Transition(None, steps.CreateClaim, "no claim, and create"),
    Transition(None, steps.AwaitClaim, "no claim"),
    Transition(None, steps.Start, "its claim is there"),
    Transition(steps.CreateClaim, steps.Start, "the claim is made"),
    Transition(steps.AwaitClaim, steps.Start, "a claim is there"),
    Transition(None, steps.Queued, "the limits of downloads are reached"),
    Transition(steps.Queued, steps.Start, "it is its turn"),
    Transition(steps.AwaitUse, steps.Start, "no other pod uses the claim"),
    Transition(steps.Start, steps.Watch, "its Job is there"),
    Transition(steps.Watch, steps.Done, "the Job is complete"),
    Transition(steps.Watch, steps.Failed, "the Job failed"),
    Transition(steps.Watch, steps.Start, "the Job vanished, or other sources, trigger or claim"),
    Transition(steps.Watch, steps.AwaitRemoval, "the Job is on its way out, or went unread"),
    Transition(steps.AwaitRemoval, steps.Start, "it is gone"),
    Transition(steps.Watch, steps.Adopt, "the status was lost"),
    Transition(steps.Adopt, steps.Watch, "it is known again"),
    Transition(steps.Done, steps.Start, "other sources, a new trigger, the schedule"),
    Transition(steps.Done, steps.AwaitUse, "the same, and a pod uses a ReadWriteOncePod claim"),
    Transition(steps.Failed, steps.Start, "a changed spec, a new trigger, the schedule, a grown claim"),
    Transition(steps.Watch, steps.Suspended, "suspend"),
    Transition(steps.Suspended, steps.Start, "resume"),
    Transition(steps.Watch, steps.Refused, "an invalid spec, or an older DataFetch has the path"),
    Transition(steps.Refused, steps.Start, "that is mended"),
    Transition(steps.Watch, steps.AwaitClaim, "the claim is gone"),
)
"""What a reader of the documentation is to see. The way to Suspended, Refused and AwaitClaim leads from every step."""


def _anything_but(*never: StepType) -> frozenset[StepType]:
    """Return all steps but these, and Recipe: a target cannot be added or taken away."""
    return frozenset(STEPS) - {steps.Recipe, *never}


FIRST: frozenset[StepType] = frozenset({steps.Recipe}) | _anything_but(
    steps.Done, steps.Failed, steps.Adopt, steps.AwaitRemoval, steps.Watch
)
"""What a DataFetch can be at when it is looked at first."""

TRANSITIONS: Mapping[StepType, frozenset[StepType]] = {
    steps.Recipe: frozenset(),
    steps.Refused: _anything_but(steps.Refused, steps.Adopt, steps.Watch),
    steps.Suspended: _anything_but(steps.Suspended, steps.Failed, steps.Adopt, steps.Watch),
    steps.CreateClaim: _anything_but(
        steps.CreateClaim,
        steps.AwaitClaim,
        steps.Done,
        steps.Failed,
        steps.AwaitUse,
        steps.Adopt,
        steps.AwaitRemoval,
        steps.Watch,
    ),
    steps.AwaitClaim: _anything_but(
        steps.AwaitClaim, steps.Done, steps.Failed, steps.AwaitUse, steps.Adopt, steps.AwaitRemoval, steps.Watch
    ),
    steps.Done: _anything_but(steps.Done, steps.Failed, steps.Watch),
    steps.Failed: _anything_but(steps.Failed, steps.Watch),
    steps.Start: _anything_but(steps.Start, steps.Adopt),
    steps.AwaitUse: _anything_but(steps.AwaitUse, steps.Failed, steps.Watch),
    steps.Queued: _anything_but(steps.Queued, steps.Failed, steps.Watch),
    steps.Adopt: _anything_but(steps.Adopt, steps.Refused, steps.Suspended, steps.CreateClaim, steps.AwaitClaim),
    steps.AwaitRemoval: _anything_but(steps.AwaitRemoval, steps.Adopt, steps.Watch),
    steps.Watch: _anything_but(steps.Watch),
}
