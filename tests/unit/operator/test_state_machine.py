"""The tables of the state machine are what `decide` does: nothing happens that they do not know, and all of it occurs.

One thing happens at a time, and then the operator comes to rest. Random worlds are driven through all that can happen,
those at rarely visited steps as often as the others. What they show are marks: a step that followed another, a step
that answered a question, a phase of a step. For each of them a witness stands in `state-machine.json`, the
shortest way there that was found: `UPDATE_GOLDEN=1` looks for all of them anew, which takes some minutes.
"""

import copy
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from datafetch_api.report import Progress
from datafetch_api.resource import DataFetch
from datafetch_operator.errors import Action
from datafetch_operator.lifecycle import QUESTIONS, Case, Decision, Question
from datafetch_operator.steps import Step
from datafetch_operator.transitions import COURSE, FIRST, STEPS, TRANSITIONS
from unit.operator.test_convergence import CREATE, HAPPENINGS
from unit.operator.world import World, claimant, fetch

GOLDEN = Path(__file__).with_name("state-machine.json")
SEED, ROUNDS, LONG = 20260131, 2000, 100_000
UNSEEN = "unseen: "
History = list[str]
_asked: list[str] = []
"""The questions that were answered, in the order in which that was done."""


def _ends_unread(world: World) -> None:
    """Let the newest Job end well, and its pods go before anybody has read their result."""
    if world.pods and world.pods[-1].running and world.pods[-1].job in world.jobs:
        world.end_pod(0, "", "Completed")
        world.end_job("Complete")
        world.pods.clear()


def _is_being_deleted(world: World) -> None:
    world.claim = world.claim and replace(world.claim, deleting=True)


def _jobs_are_being_deleted(world: World) -> None:
    world.jobs = {name: replace(job, deleting=True) for name, job in world.jobs.items()}


def _goes_well(world: World) -> None:
    """Let the download, and what follows from it, go on until it has ended well."""
    for _ in range(4):
        HAPPENINGS["a pod runs"](world)
        world.settle()
        HAPPENINGS["the pod ends well"](world)
        world.settle()


def _goes_wrong(world: World) -> None:
    """Let the download fail for good."""
    HAPPENINGS["a pod runs"](world)
    world.settle()
    HAPPENINGS["the pod fails for good"](world)


ELDER = claimant("older", "tinyllama", "2025-01-01T00:00:00Z", "uid-of-the-older")
MORE: dict[str, Callable[[World], object]] = {
    "the claim is on its way out": _is_being_deleted,
    "its Jobs are on their way out": _jobs_are_being_deleted,
    "a Job ends unread": _ends_unread,
    "the download goes well": _goes_well,
    "the download goes wrong": _goes_wrong,
    "an older fetch has its path": lambda world: setattr(world, "rivals", (ELDER,)),
    "the older fetch goes": lambda world: setattr(world, "rivals", ()),
}
ALL = HAPPENINGS | MORE
KINDS: dict[str, DataFetch] = {
    "plain": fetch(),
    "creates": fetch(target=CREATE),
    "sharded": fetch(job={"shards": 3}),
    "recipe": fetch().model_copy(update={"spec": fetch().spec.model_copy(update={"target": None})}),
}


class Watched(World):
    """A world that notes what it shows, and after which history."""

    marks: dict[str, History]
    history: History
    step: str = "new"

    @classmethod
    def begin(cls, kind: str, marks: dict[str, History]) -> Self:
        """Return a world at rest, with a fetch of that kind."""
        world = cls(KINDS[kind])
        world.marks, world.history = marks, [kind]
        return world

    def copy(self) -> Self:
        other = copy.copy(self)
        other.jobs, other.pods, other.writes = dict(self.jobs), list(self.pods), []
        other.ended = {name: set(shards) for name, shards in self.ended.items()}
        other.history = list(self.history)
        return other

    def happen(self, what: str) -> None:
        """Let one thing happen, and the operator come to rest; `UNSEEN`: before it looks for the first time."""
        self.history.append(what)
        ALL[what.removeprefix(UNSEEN)](self)
        if not what.startswith(UNSEEN):
            self.settle()

    def decide(self, progress: Progress | None = None, refusals: Mapping[Action, str] | None = None) -> Decision:
        decision = super().decide(progress, refusals)
        if decision.step is None:
            return decision
        before, self.step = self.step, type(decision.step).__name__
        if before != self.step:
            self._mark(_followed(before, self.step))
        self._mark(_answered(_asked[-1], self.step))
        if decision.status is not None and decision.status.phase is not None:
            self._mark(_showed(self.step, decision.status.phase.value))
        return decision

    def _mark(self, mark: str) -> None:
        known = self.marks.get(mark)
        if known is None or len(self.history) < len(known):
            self.marks[mark] = list(self.history)


def _noting(question: Question) -> Question:
    """Return the question with what it was asked and answered noted."""

    def ask(case: Case) -> Step | None:
        answer = question.ask(case)
        if answer is not None:
            _asked.append(question.asks)
        return answer

    return replace(question, ask=ask)


@pytest.fixture(autouse=True)
def note_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datafetch_operator.lifecycle.QUESTIONS", tuple(map(_noting, QUESTIONS)))
    _asked.clear()


def _followed(before: str, after: str) -> str:
    return f"{before} -> {after}"


def _answered(asks: str, step: str) -> str:
    return f"{asks} {step}"


def _showed(step: str, phase: str) -> str:
    return f"{step} in phase {phase}"


def _explore(seed: int, rounds: int) -> dict[str, History]:
    """Drive worlds through what can happen, those at rarely visited steps as often as the others."""
    dice, marks = random.Random(seed), dict[str, History]()
    pools: dict[str, list[Watched]] = defaultdict(list)
    names = sorted(ALL)
    before = [name for name in names if "operator" not in name and "download" not in name]
    for _ in range(rounds):
        step = dice.choice(["new", *sorted(pools)])
        if step == "new":
            world = Watched.begin(dice.choice(sorted(KINDS)), marks)
            for what in dice.sample(before, dice.randint(0, 3)):
                world.happen(UNSEEN + what)
            world.settle()
            if dice.random() < 0.5:
                world.happen("the download goes well")
        else:
            world = dice.choice(pools[step]).copy()
            world.happen(dice.choice(names))
        pool = pools[world.step]
        if len(pool) < 200:
            pool.append(world)
        else:
            pool[dice.randrange(200)] = world
    return marks


def _replay(history: Iterable[str]) -> dict[str, History]:
    kind, *happenings = history
    marks: dict[str, History] = {}
    world = Watched.begin(kind, marks)
    for happening in happenings:
        if not happening.startswith(UNSEEN) and world.step == "new":
            world.settle()
        world.happen(happening)
    if world.step == "new":
        world.settle()
    return marks


def _shorten(mark: str, history: History) -> History:
    """Return the history without whatever is not needed to get there."""
    for place in reversed(range(1, len(history))):
        shorter = history[:place] + history[place + 1 :]
        if mark in _replay(shorter):
            history = shorter
    return history


def _find_witnesses() -> None:
    """Look for witnesses of all that occurs; those that stand there already and still hold are kept."""
    known: dict[str, History] = json.loads(GOLDEN.read_text())
    found = {mark: history for mark, history in known.items() if mark in _replay(history)}
    for mark, history in _explore(SEED, LONG).items():
        found.setdefault(mark, _shorten(mark, history))
    GOLDEN.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n")


def _tables() -> set[str]:
    """Return what the tables say that there is."""
    marks = {_followed("new", step.__name__) for step in FIRST}
    marks |= {_followed(step.__name__, after.__name__) for step in STEPS for after in TRANSITIONS[step]}
    marks |= {_answered(question.asks, step.__name__) for question in QUESTIONS for step in question.answers}
    return marks | {_showed(step.__name__, phase.value) for step in STEPS for phase in step.phases}


def test_nothing_happens_that_the_tables_do_not_know() -> None:
    assert sorted(_explore(SEED, ROUNDS).keys() - _tables()) == []


def test_all_that_the_tables_know_occurs() -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        _find_witnesses()
    witnesses = json.loads(GOLDEN.read_text())
    assert sorted(witnesses) == sorted(_tables())
    assert [mark for mark, history in witnesses.items() if mark not in _replay(history)] == []


def test_what_is_drawn_is_in_the_table_and_shows_every_step() -> None:
    drawn = {_followed(arrow.before.__name__ if arrow.before else "new", arrow.after.__name__) for arrow in COURSE}
    assert sorted(drawn - _tables()) == []
    assert {step for arrow in COURSE for step in (arrow.before, arrow.after) if step} == set(STEPS)
