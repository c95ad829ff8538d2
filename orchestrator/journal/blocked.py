"""Who waits for other tasks: released as the last of these is completed, doomed as one ends otherwise.

Derived and never stored, a part of the waiting line: what an agent waits for is in the state, and how those
tasks stand is told by every commit. A task that is handed over again is waited for again. A task's end costs
O(log n) for each agent that waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.model import Agent, AgentId, State, TaskId, TaskStatus


class Blocked:
    """The queued agents that were queued behind other tasks."""

    def __init__(self, ended: Mapping[TaskId, TaskStatus]) -> None:
        #: How tasks stand that somebody was queued behind; `ended` has those that the state does not.
        self._statuses: dict[TaskId, TaskStatus] = {}
        self._ended = ended
        self._waits_for: dict[AgentId, tuple[TaskId, ...]] = {}
        self._followers: dict[TaskId, set[AgentId]] = {}
        #: Who cannot be released any more, and whose end that is.
        self.doomed: dict[AgentId, TaskId] = {}

    def news(self, statuses: Mapping[TaskId, TaskStatus]) -> set[AgentId]:
        """Take in how tasks stand now, in the order of the journal; return who has to be looked at again."""
        touched: set[AgentId] = set()
        for task_id, status in statuses.items():
            if followers := self._followers.get(task_id):
                self._statuses[task_id] = status
                touched |= followers
        self._ended = statuses
        return touched

    def add(self, agent: Agent, state: State) -> bool:
        """Take in one who waits in the queue; return whether it has to wait for others there."""
        if agent.id not in self._waits_for:  # else how those stand is known, if only here
            self._register(agent, state)
        unmet = self.unmet(agent.id)
        self.doomed.pop(agent.id, None)
        if failed := [each for each in unmet if self._statuses[each].ended]:
            self.doomed[agent.id] = failed[0]
        return bool(unmet)

    def _register(self, agent: Agent, state: State) -> None:
        for task_id in agent.waits_for:
            self._waits_for[agent.id] = agent.waits_for
            self._followers.setdefault(task_id, set()).add(agent.id)
            if task_id not in self._statuses:
                task = state.tasks.get(task_id)
                ended = self._ended.get(task_id, TaskStatus.FAILED)
                self._statuses[task_id] = ended if task is None else task.status

    def remove(self, agent_id: AgentId) -> None:
        """Let go of one who has left the queue."""
        self.doomed.pop(agent_id, None)
        for task_id in self._waits_for.pop(agent_id, ()):
            self._followers[task_id].discard(agent_id)
            if not self._followers[task_id]:
                del self._followers[task_id], self._statuses[task_id]

    def unmet(self, agent_id: AgentId) -> tuple[TaskId, ...]:
        """Return the tasks that the agent still waits for."""
        waits_for = self._waits_for.get(agent_id, ())
        return tuple(each for each in waits_for if self._statuses[each] is not TaskStatus.COMPLETED)
