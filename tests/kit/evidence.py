"""What a run leaves behind for the checker: journal, host, remotes, and what its clients were told.

Each request is kept as its client saw it: answered well, refused, or cut off, so that nobody knows.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import apsw

from orchestrator.core.events import Recorded
from orchestrator.journal import database
from orchestrator.journal.archive import EVENT_COLUMNS
from orchestrator.journal.encoding import read_event
from orchestrator.repo.git import OWNER
from tests.kit.processes import environments
from tests.kit.remote import Push, pushes

Outcome = Literal["ok", "refused", "unknown"]

AGENT_MARK = re.compile(rb"ORCHESTRATOR_AGENT_ID=([^\0]+)")


@dataclass(frozen=True, slots=True)
class Told:
    """One request of a client, and what came of it as far as the client knows."""

    kind: Literal["spawn", "kill", "message"]
    about: str  # the task of a spawn, else the agent
    outcome: Outcome
    answer: dict[str, Any] = field(default_factory=dict)
    key: str = ""  # the Idempotency-Key, where one was given


@dataclass(frozen=True, slots=True)
class Host:
    """What is found on the host: directories of agents, processes by agent, processes of our git."""

    directories: dict[str, list[str]]
    processes: dict[str, list[int]]
    git: list[int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What must be bounded: bytes of files and rows, and every agent's log as (bytes, lines)."""

    log_of_writes: int
    longest_event: int
    longest_error: int
    logs: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checker looks at; tests make false ones with `dataclasses.replace`."""

    database: Path
    events: tuple[Recorded, ...]
    audited_kills: frozenset[str]
    receipts: frozenset[str]
    host: Host
    pushes: dict[str, list[Push]]
    told: tuple[Told, ...]
    #: Files in which one of the secrets stands, as `name: form`.
    betrayals: tuple[str, ...]
    sizes: Sizes
    #: Whether all work is to be over; whether the supervisor has stopped in good order.
    settled: bool
    at_rest: bool


def gather(
    home: Path,
    *,
    told: Sequence[Told] = (),
    remotes: Sequence[Path] = (),
    secrets: Sequence[str] = (),
    files: Sequence[Path] = (),
    settled: bool = True,
    at_rest: bool = False,
) -> Evidence:
    """Collect what a state directory and its surroundings show now; `files` are searched for secrets too."""
    path = home / "orchestrator.db"
    connection = database.connect_reader(path)
    try:
        connection.execute("BEGIN")
        sql = f"SELECT {EVENT_COLUMNS} FROM events ORDER BY seq"
        events = tuple(read_event(row) for row in connection.execute(sql))
        kills = connection.execute("SELECT target FROM audit WHERE action = 'agent.kill'").fetchall()
        receipts = connection.execute("SELECT key FROM idempotency").fetchall()
        sizes = _sizes(home, connection)
    finally:
        connection.close()
    return Evidence(
        database=path,
        events=events,
        audited_kills=frozenset(str(row[0]) for row in kills),
        receipts=frozenset(str(row[0]) for row in receipts),
        host=look_at_host(home),
        pushes={str(remote): pushes(remote) for remote in remotes},
        told=tuple(told),
        betrayals=tuple(betrayals(home, secrets, files)),
        sizes=sizes,
        settled=settled,
        at_rest=at_rest,
    )


def look_at_host(home: Path) -> Host:
    """Return what of a state directory's agents is on the host now."""
    directories = {
        place: sorted(os.listdir(home / place)) if (home / place).exists() else []  # noqa: PTH208 - names
        for place in ("workspaces", "quarantine", "scratch")
    }
    processes: dict[str, list[int]] = {}
    git = []
    for pid, environment in environments():
        if found := AGENT_MARK.search(environment):
            processes.setdefault(found[1].decode(errors="replace"), []).append(pid)
        if f"{OWNER}={home}/".encode() in environment:
            git.append(pid)
    return Host(directories, processes, git)


def betrayals(home: Path, secrets: Sequence[str], files: Sequence[Path]) -> Iterator[str]:
    """Yield each file that holds a secret, plain or in a common disguise; `token` is where one belongs."""
    forms = {
        f"{name} of secret {number}": form
        for number, secret in enumerate(secrets)
        for name, form in (
            ("plain form", secret.encode()),
            ("base64", base64.b64encode(secret.encode())[:-3]),
            ("hex", secret.encode().hex().encode()),
        )
    }
    if not forms:
        return
    found = [path for path in home.rglob("*") if path.name != "token"]
    for path in (*found, *files):
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            yield from (f"{path.name}: {name}" for name, form in forms.items() if form in text)


def _sizes(home: Path, connection: apsw.Connection) -> Sizes:
    wal = home / "orchestrator.db-wal"
    logs: dict[str, tuple[int, int]] = {}
    if (home / "logs.db").exists():
        reader = database.connect_reader(home / "logs.db")
        try:
            logs = {
                str(row[0]): (int(row[1]), int(row[2]))
                for row in reader.execute(
                    "SELECT agent_id, sum(length(content)), count(*) FROM agent_logs GROUP BY agent_id"
                )
            }
        finally:
            reader.close()
    return Sizes(
        wal.stat().st_size if wal.exists() else 0,
        connection.execute("SELECT coalesce(max(length(data)), 0) FROM events").get,
        connection.execute("SELECT coalesce(max(length(error)), 0) FROM agents").get,
        logs,
    )
