"""The client's calls about tasks and the queue. `client.Client` is one of these."""

from __future__ import annotations

import json
from urllib.parse import quote

from orchestrator.client_calls import TRIES, Caller
from orchestrator.client_stream import Json
from orchestrator.client_words import body_of, object_of
from orchestrator.core.spec import TaskSpec


class QueueCalls(Caller):
    """Calls about tasks and the queue."""

    async def submit_task(self, spec: TaskSpec | Json, *, idempotency_key: str | None = None) -> Json:
        """Hand a task over without waiting for a slot."""
        return object_of(await self._create("/tasks", body_of(spec), idempotency_key))

    async def requeue(self, task_id: str, *, idempotency_key: str | None = None) -> Json:
        """Queue a task that failed or was cancelled once more, by a new attempt."""
        path = f"/tasks/{quote(task_id, safe='')}/requeue"
        return object_of(await self._create(path, None, idempotency_key))

    async def requeue_all(
        self,
        *,
        status: str = "failed",
        reason: str | None = None,
        repository: str | None = None,
        limit: int = 100,
    ) -> Json:
        """Queue those that failed and pass the filter once more, and tell which those were."""
        asked = {"status": status, "reason": reason, "repository": repository, "limit": limit}
        body = json.dumps({key: value for key, value in asked.items() if value is not None}).encode()
        return object_of((await self._call("POST", "/tasks/requeue", {}, body, {}, tries=1)).content)

    async def tasks(
        self, *, status: str | None = None, limit: int | None = None, after: str | None = None
    ) -> Json:
        """Return a page of tasks, newest first."""
        return object_of(await self._get("/tasks", {"status": status, "limit": limit, "after": after}))

    async def task(self, task_id: str) -> Json:
        """Return a task with its attempts and events."""
        return object_of(await self._get(f"/tasks/{quote(task_id, safe='')}"))

    async def cancel(self, task_id: str) -> Json:
        """Cancel a task; a live agent is killed."""
        response = await self._call("DELETE", f"/tasks/{quote(task_id, safe='')}", {}, None, {}, tries=1)
        return object_of(response.content)

    async def queue_stats(self) -> Json:
        """Return the queue at a glance."""
        return object_of(await self._get("/queue/stats"))

    async def queue_pause(self) -> Json:
        """Take nothing more from the queue."""
        return object_of(await self._post("/queue/pause"))

    async def queue_resume(self) -> Json:
        """Take work from the queue again."""
        return object_of(await self._post("/queue/resume"))

    async def queue_settings(self) -> Json:
        """Return the queue's settings."""
        return object_of(await self._get("/api/queue/settings"))

    async def queue_set(self, key: str, value: bool | int | str) -> Json:
        """Change a setting of the queue, and return all; safe to repeat."""
        body = json.dumps({"key": key, "value": value}).encode()
        return object_of((await self._call("POST", "/api/queue/settings", {}, body, {}, tries=TRIES)).content)
