"""F2: the real journal on a disk that loses power; what was acknowledged is there, whatever else was lost."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest
import trio

from orchestrator.core.commands import KillAgent
from orchestrator.core.events import AgentTurn, AgentUsage
from orchestrator.core.model import AgentId, Reason, Usage
from orchestrator.journal import database
from orchestrator.journal.store import Store
from tests.journal.powerloss import Acknowledged, Recording, crashes
from tests.journal.rig import running_store, work

RECORDINGS = 10
CRASHES = 200  # of each recording
CHILDREN, ROUNDS = 4, 6


async def acknowledging(store: Store, recording: Recording, number: int) -> None:
    """Live through a few agents, and note each acknowledgement when it comes."""

    def told() -> None:
        recording.operations.append(Acknowledged(store.state.seq))

    for round_number in range(ROUNDS):
        agent_id = AgentId(f"a{number}.{round_number}")
        ids = await work(store, f"t{number}.{round_number}", agent_id, instructions="x" * 700)
        told()
        for turn in range(3):
            await store.record(
                AgentTurn(**ids, turn=turn, stop_reason="end", duration_ms=1.0, text="y" * 300)
            )
            told()
            await store.record(AgentUsage(**ids, usage=Usage(input_tokens=1)))
            told()
        await store.submit(KillAgent(agent_id, Reason.OPERATOR))
        told()


async def recorded(home: Path, synchronous: str) -> Recording:
    """Return what the disk saw of a busy journal."""
    recording = Recording()
    async with (
        running_store(home, connect=recording.connector(synchronous)) as store,
        trio.open_nursery() as nursery,
    ):
        for number in range(CHILDREN):
            nursery.start_soon(acknowledging, store, recording, number)
    return recording


def reopened(home: Path, files: dict[str, bytes]) -> int:
    """Return the newest event that a start after the crash finds; its checks hold."""
    for name, content in files.items():
        (home / name).write_bytes(content)
    path = home / "orchestrator.db"
    connection = database.configured(apsw.Connection(str(path)), "OFF")  # nothing to lose here
    try:
        return database.check(connection, path).seq
    finally:
        connection.close()
        for left in home.iterdir():
            left.unlink()


def lost(recording: Recording, home: Path, seed: int) -> int:
    """Return in how many of the crashes something acknowledged was gone."""
    home.mkdir(exist_ok=True)
    chance = random.Random(seed)
    return sum(
        reopened(home, files) < acknowledged for files, acknowledged in crashes(recording, chance, CRASHES)
    )


@pytest.mark.slow
async def test_power_loss_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for seed in range(RECORDINGS):
        recording = await recorded(tmp_path / f"full{seed}", "FULL")
        assert lost(recording, tmp_path / "crashed", seed) == 0, f"seed {seed}"


@pytest.mark.slow
async def test_the_simulator_catches_a_journal_that_does_not_sync(tmp_path: Path) -> None:
    recording = await recorded(tmp_path / "normal", "NORMAL")
    assert lost(recording, tmp_path / "crashed", 0) > 0
