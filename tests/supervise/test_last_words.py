"""What is said to an agent in the moment of its end is refused, or told to be unheard: never just lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orchestrator.core.commands import Command, CompleteAgent, FailAgent, TellAgent
from orchestrator.core.events import AgentMessage
from orchestrator.errors import AlreadyEnded
from sandbox.base import User
from tests.kit.plane import Plane, open_plane
from tests.kit.remote import make_remote


@pytest.mark.parametrize(("script", "end"), [("true", CompleteAgent), ("exit 1", FailAgent)])
async def test_words_in_the_moment_of_an_end(
    reachable_path: Path,
    ordinary_user: User,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    end: type[CompleteAgent | FailAgent],
) -> None:
    refused: list[AlreadyEnded] = []

    def speak_before_the_end(plane: Plane) -> Callable[..., Any]:
        submit = plane.store.submit

        async def spoken(command: Command, **more: object) -> Any:  # noqa: ANN401 - as the store's
            if isinstance(command, end):
                try:
                    await submit(TellAgent(command.agent_id, "wait!", "me"))
                except AlreadyEnded as error:
                    refused.append(error)
            return await submit(command, **more)  # type: ignore[arg-type]

        return spoken

    remote = make_remote(reachable_path)
    with trio.fail_after(60):
        async with open_plane(reachable_path / "home", user=ordinary_user, roots=reachable_path) as plane:
            monkeypatch.setattr(plane.store, "submit", speak_before_the_end(plane))
            agent = await plane.submit(remote, script, "t")
            await plane.over(agent)
            told = [recorded.event for recorded in await plane.store.events_after(0, types=["agent.message"])]
    if end is CompleteAgent:
        assert (len(refused), told) == (1, [])
    else:
        assert not refused
        assert [event.delivered for event in told if isinstance(event, AgentMessage)] == [None, False]
