"""F1 for the queue: killed amid a crowd of submissions, it has every acknowledged task, once, in order.

`ORCHESTRATOR_SUBMITS=10000` asks for as many as the issue does; a plain run does with fewer.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from orchestrator.client import Client, Unreachable, open_client
from tests.kit.service import Service

SUBMITS = int(os.environ.get("ORCHESTRATOR_SUBMITS", "240"))
SENDERS = 20


@dataclass
class Crowd:
    """Senders who hand tasks over one after the other, and what they were answered, in that order."""

    remotes: Path
    answers: list[list[dict[str, Any]]] = field(default_factory=lambda: [[] for _ in range(SENDERS)])

    @property
    def answered(self) -> int:
        return sum(map(len, self.answers))

    async def send(self, client: Client, sender: int, service: Service | None) -> None:
        """Hand a sender's tasks over until nobody answers; kill the service at half of all."""
        for number in range(sender, SUBMITS, SENDERS):
            task = f"T-{number}"
            body = {
                "taskId": task,
                "priority": 5,
                "context": {"repository": f"{self.remotes.as_uri()}/{number % 3}.git"},
                "options": {"command": ["true"], "runtime": "command"},
            }
            try:
                answer = await client.submit_task(body, idempotency_key=task)
            except Unreachable:
                return
            self.answers[sender].append(answer)
            if service is not None and self.answered == SUBMITS // 2:
                service.kill9()


async def everything(client: Client) -> list[dict[str, Any]]:
    """Return all tasks, the oldest first."""
    found, after = list[dict[str, Any]](), None
    while True:
        page = await client.tasks(limit=1000, after=after)
        found += page["tasks"]
        if (after := page["next"]) is None:
            return found[::-1]


async def test_f01_every_acknowledged_submission_is_there_once_and_in_order(reachable_path: Path) -> None:
    with Service(reachable_path) as service:
        url, token = str(service.http.base_url), service.env["ORCHESTRATOR_API_KEY"]
        for number in range(3):
            (service.remotes / f"{number}.git").mkdir()
        async with open_client(url, token=token) as client:
            await client.queue_pause()
            before, after = Crowd(service.remotes), Crowd(service.remotes)
            async with trio.open_nursery() as nursery:
                for sender in range(SENDERS):
                    nursery.start_soon(before.send, client, sender, service)
            assert SUBMITS // 2 <= before.answered < SUBMITS
            service.start()

            places = {task["taskId"]: place for place, task in enumerate(await everything(client))}
            agents = {task["taskId"]: task["agentId"] for task in await everything(client)}
            for answers in before.answers:
                assert [agents[each["taskId"]] for each in answers] == [each["agentId"] for each in answers]
                order = [places[each["taskId"]] for each in answers]
                assert order == sorted(order), "who was answered before he sent the next one stands before it"

            async with trio.open_nursery() as nursery:
                for sender in range(SENDERS):
                    nursery.start_soon(after.send, client, sender, None)
            for once, again in zip(before.answers, after.answers, strict=True):
                assert again[: len(once)] == once, "a repetition gets the answer that was given"
            tasks = await everything(client)
            assert Counter(task["taskId"] for task in tasks) == Counter(f"T-{n}" for n in range(SUBMITS))
            assert {task["attempt"] for task in tasks} == {1}
            kept = [task["taskId"] for task in tasks if task["taskId"] in places]
            assert kept == sorted(places, key=places.__getitem__)

            stats = await client.queue_stats()
            assert (stats["pending"], stats["paused"]) == (SUBMITS, True)
            _, listing = service.call("GET", "/api/queue?limit=1000")
            assert listing["stats"] == stats
            waiting = [each["taskId"] for each in listing["items"]]
            assert waiting == [task["taskId"] for task in tasks][:1000]
