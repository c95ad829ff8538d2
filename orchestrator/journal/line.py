"""The waiting line: the queued agents of the committed state, indexed so that choosing is O(log n).

Derived and never stored: the store updates it with every commit, from the agents that the commit touched, and
rebuilds it at start. Those whose time has come stand in lanes, which take turns as `core.claims` says, those
whose backoff still runs by its end; beside them are those who have just left the line for a slot, and those a
crash has cut that run.

Whoever waits for something else than a slot is passed over with all who wait for the same: the line knows the
first of each *lane*, of the agents of one repository and priority that stand alike with regard to crashes.
The dispatcher and the API's queue positions read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from sortedcontainers import SortedList  # type: ignore[import-untyped]

from orchestrator.core.claims import HIGHEST, Claim, Claims
from orchestrator.core.model import Agent, AgentId, Phase, State, TaskId, TaskStatus
from orchestrator.core.policy import Standing, has_come, order_key, standing
from orchestrator.journal.blocked import Blocked
from orchestrator.journal.lanes import Entry, Lanes
from orchestrator.journal.lanes import Place as LanePlace

_Place = tuple[int, int, AgentId]
_Delay = tuple[datetime, int, int, AgentId]
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def queued(agent: Agent | None) -> bool:
    """Return whether the agent waits in the queue."""
    return agent is not None and agent.phase is Phase.QUEUED and agent.live


@dataclass(slots=True)
class _Waiting:
    """One who waits: where it stands, in which lane, and whether among those whose time has come."""

    place: _Place
    standing: Standing
    repository: str
    #: The end of its backoff, long ago where it has none. Kept when it has come: a clock may be set back.
    not_before: datetime
    due: bool

    @property
    def delay(self) -> _Delay:
        """Its place among those whose time has not come."""
        return (self.not_before, *self.place)

    @property
    def in_lane(self) -> LanePlace:
        """Its lane, a repository and a priority, and its place there."""
        level, queued_seq, agent_id = self.place
        return self.repository, -level, queued_seq, agent_id


def _waiting(agent: Agent, state: State) -> _Waiting:
    repository = state.tasks[agent.task_id].spec.context.repository
    place = (*order_key(agent), agent.id)
    not_before = agent.not_before or _LONG_AGO
    return _Waiting(place, standing(agent), repository, not_before, due=agent.not_before is None)


class WaitingLine:
    """The queued agents, in the order in which they go."""

    def __init__(
        self,
        state: State,
        claims: Iterable[Claim] = (),
        ended: Mapping[TaskId, TaskStatus] = MappingProxyType({}),
    ) -> None:
        """Line up who waits, after these claims; `ended` has the tasks that are waited for and not there."""
        self._claims = Claims()
        for claim in claims:
            self._claims.add(claim)
        #: Who waits for other tasks, and stands nowhere in the line until these are completed.
        self.blocked = Blocked(ended)
        free = [one for one in state.agents.values() if queued(one) and not self.blocked.add(one, state)]
        waiting = [_waiting(agent, state) for agent in free]
        due = [each for each in waiting if each.due]
        self._waiting = {each.place[-1]: each for each in waiting}
        self._due: SortedList[_Place] = SortedList(each.place for each in due)
        self._delayed: SortedList[_Delay] = SortedList(each.delay for each in waiting if not each.due)
        self._lanes = {
            stand: Lanes(self._claims, (each.in_lane for each in due if each.standing is stand))
            for stand in Standing
        }
        #: Who has a slot and has begun nothing yet, in the order in which they got it.
        self.assigned: dict[AgentId, None] = {}
        #: Who has a slot and was cut by a crash of late.
        self.suspects: dict[AgentId, Agent] = {}
        for agent in state.agents.values():
            self._note_active(agent.id, agent)

    def __len__(self) -> int:
        return len(self._waiting)

    def claimed(self, claim: Claim) -> None:
        """Take in that somebody got a slot."""
        self._claims.add(claim)
        for lanes in self._lanes.values():
            lanes.place(claim.repository, claim.priority)

    def update(self, agent_id: AgentId, state: State) -> None:
        """Put the agent where it belongs in this state: in the line, or out of it."""
        agent = state.agents.get(agent_id)
        if (before := self._waiting.pop(agent_id, None)) is not None:
            self._remove(before)
        if agent is None or not queued(agent):
            self.blocked.remove(agent_id)
        elif not self.blocked.add(agent, state):
            self._waiting[agent_id] = _waiting(agent, state)
            self._add(self._waiting[agent_id])
        self._note_active(agent_id, agent)

    def _note_active(self, agent_id: AgentId, agent: Agent | None) -> None:
        if agent is not None and agent.live and agent.phase is Phase.PREPARING:
            self.assigned[agent_id] = None
        else:
            self.assigned.pop(agent_id, None)
        if agent is not None and agent.active and agent.crashes:
            self.suspects[agent_id] = agent
        else:
            self.suspects.pop(agent_id, None)

    def first_due(
        self,
        now: datetime,
        standings: Iterable[Standing] = Standing,
        holds: Callable[[str], bool] = lambda _repository: False,
    ) -> AgentId | None:
        """Return who goes next, or None where nobody's time has come.

        Of those only who stand in one of these ways, and of whose repository `holds` is not true: it is asked
        once at most for each standing and repository, however many wait.
        """
        self._take_in_who_is_due(now)
        asked = {each: dict[str, bool]() for each in standings}
        for priority in self._priorities():
            firsts = [self._first_of(each, priority, now, holds, asked[each]) for each in asked]
            if (first := min((entry for entry in firsts if entry is not None), default=None)) is not None:
                return first.agent_id
        return None

    def _take_in_who_is_due(self, now: datetime) -> None:
        for end in (0, -1):  # at the end: of a clock that was set back since
            while self._delayed and has_come(self._delayed[end][0], now):
                self._move(self._delayed[end][-1])

    def _priorities(self) -> list[int]:
        """Return the priorities of those whose time has come in the order in which they are taken."""
        oldest = {}
        for priority in range(HIGHEST, 0, -1):
            index = self._due.bisect_left((-priority, 0, ""))
            if index < len(self._due) and self._due[index][0] == -priority:
                oldest[priority] = self._due[index][1]
        overdue = [each for each in oldest if self._claims.overdue(each, oldest[each])]
        overdue.sort(key=lambda each: self._claims.waits_since(each, oldest[each]))
        return [*overdue, *(each for each in oldest if each not in overdue)]

    def _first_of(
        self,
        stand: Standing,
        priority: int,
        now: datetime,
        holds: Callable[[str], bool],
        asked: dict[str, bool],
    ) -> Entry | None:
        for entry in self._lanes[stand].firsts(priority):
            if not has_come(self._waiting[entry.agent_id].not_before, now):
                self._move(
                    entry.agent_id
                )  # the clock was set back: the next of its lane stands here or later
                continue
            if entry.repository not in asked:
                asked[entry.repository] = holds(entry.repository)
            if not asked[entry.repository]:
                return entry
        return None

    def next_due(self) -> datetime | None:
        """Return when the first of those whose backoff still runs may go."""
        return self._delayed[0][0] if self._delayed else None

    def delayed(self, now: datetime) -> int:
        """Return how many wait for the end of a backoff."""
        self._take_in_who_is_due(now)
        return len(self._delayed)

    def rank(self, agent_id: AgentId) -> int | None:
        """Return the agent's place by priority and age, 1 for the first, or None where it does not wait.

        Turns are left out: to tell when each lane's come would cost a look at every lane.
        """
        waiting = self._waiting.get(agent_id)
        if waiting is None:
            return None
        if waiting.due:
            return int(self._due.index(waiting.place)) + 1
        return len(self._due) + int(self._delayed.index(waiting.delay)) + 1

    def ahead(self, priority: int, queued_seq: int) -> int:
        """Return how many stand before an agent that is queued by this event, by priority and age."""
        return int(self._due.bisect_left((-priority, queued_seq, "")))

    def _move(self, agent_id: AgentId) -> None:
        """Put one among those whose time has come, or back."""
        waiting = self._waiting[agent_id]
        self._remove(waiting)
        waiting.due = not waiting.due
        self._add(waiting)

    def _add(self, waiting: _Waiting) -> None:
        if waiting.due:
            self._due.add(waiting.place)
            self._lanes[waiting.standing].add(*waiting.in_lane)
        else:
            self._delayed.add(waiting.delay)

    def _remove(self, waiting: _Waiting) -> None:
        if waiting.due:
            self._due.remove(waiting.place)
            self._lanes[waiting.standing].remove(*waiting.in_lane)
        else:
            self._delayed.remove(waiting.delay)
