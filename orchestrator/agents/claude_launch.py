"""How Claude Code is launched: its arguments, its environment, and the way from it to the door.

The invariant: it has no key, asks nobody, tells nobody, and changes nothing but its worktree and its own
home. Caller: `claude_code`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from orchestrator.agents.base import Session
from orchestrator.agents.claude_cli import Version
from orchestrator.agents.claude_settings import claude_settings
from sandbox.base import Bind
from sandbox.inlet import open_socket
from sandbox.ports import Ports

HOME_TARGET = "/orchestrator/home"
SOCKET_TARGET = "/orchestrator/door.sock"
#: Bytes of a unix socket's path, as a program connects to it.
MAX_SOCKET_PATH = 107
#: What cannot work here (no network, nobody to ask) or would take the work elsewhere or beyond its turn.
WITHOUT = (
    *("WebFetch", "WebSearch", "AskUserQuestion", "EnterWorktree", "ExitWorktree"),
    *("CronCreate", "CronDelete", "CronList", "ScheduleWakeup"),
)
#: The first version that can be told that nobody answers its questions.
_PROMPTS_NONE: Version = (2, 1, 329)
#: What a task may not set: it would lead past the door.
_OURS = ("ANTHROPIC_", "CLAUDE_", "API_")


@dataclass(frozen=True, slots=True)
class Way:
    """How the program reaches the door."""

    #: A unix socket that is bound inside, and where we accept what connects to it.
    binds: tuple[Bind, ...] = ()
    listener: trio.SocketListener | None = None
    #: A port of the sandbox's own loopback, whose listener comes with each sandbox.
    ports: Ports | None = None

    def environment(self, session: Session) -> dict[str, str]:
        """Return the variables by which the program finds the door."""
        if self.ports is not None:
            return {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.ports.numbers[0]}"}
        (bind,) = self.binds
        return {
            "ANTHROPIC_BASE_URL": "http://llm.local",
            "ANTHROPIC_UNIX_SOCKET": session.backend.seen(bind.source, bind.target),
        }


@contextmanager
def open_way(session: Session, wanted: Literal["auto", "socket", "port"]) -> Iterator[Way]:
    """Open a way from sandboxes of the session to us.

    A port is what the program documents, so where the sandbox has a network of its own, it is one; on the
    host's loopback everybody could connect, so there it is a socket of the agents' user, if its path is
    short enough.
    """
    path = session.scratch / f"{session.agent_id}.door"
    seen = session.backend.seen(path, SOCKET_TARGET)
    if wanted == "auto":
        short = len(os.fsencode(seen)) <= MAX_SOCKET_PATH
        wanted = "port" if session.backend.namespaced or not short else "socket"
    if wanted == "port":
        with session.backend.reserve_ports(1) as ports:
            yield Way(ports=ports)
    else:
        with open_socket(path, session.backend.user) as listener:
            yield Way(binds=(Bind(path, SOCKET_TARGET),), listener=listener)


def arguments(version: Version, model: str) -> list[str]:
    """Return what the program is told, but for its session."""
    return [
        *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
        "--replay-user-messages",
        "--dangerously-skip-permissions",
        *(("--permission-prompts", "none") if version >= _PROMPTS_NONE else ()),
        *("--disallowedTools", ",".join(WITHOUT), "--strict-mcp-config", "--model", model),
    ]


def environment(session: Session, home: Path, way: Way, model: str) -> dict[str, str]:
    """Return the program's environment: the task's, where that leads not past the door, and ours."""
    options = session.spec.options
    return {
        **{name: text for name, text in options.env.items() if not name.upper().startswith(_OURS)},
        **claude_settings(model),
        "CLAUDE_CONFIG_DIR": session.backend.seen(home, HOME_TARGET),
        **way.environment(session),
    }


def home_bind(home: Path) -> Bind:
    """Return how the program's own home is shown inside."""
    return Bind(home, HOME_TARGET, writable=True)
