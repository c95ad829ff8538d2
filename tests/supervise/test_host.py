"""The host's watermarks: too little of something stops the admission, and enough of it starts it again."""

from __future__ import annotations

from pathlib import Path

import trio

from orchestrator.core.watermark import WATERMARKS
from orchestrator.journal.store import Store, utc_now
from orchestrator.supervise.dispatcher import run_dispatcher
from orchestrator.supervise.host import compare, look_around, watch_host
from tests.supervise.conftest import OpenStore, submit
from tests.supervise.test_dispatcher import Starts, end

PLENTY = {part: least * 100 for part, least in WATERMARKS.items()}


async def told(store: Store, after: int) -> list[tuple[str, str]]:
    """Return type and part of the events about the host since a sequence."""
    return [
        (recorded.event.name, recorded.event.part)
        for recorded in await store.events_after(after)
        if recorded.event.name in {"system.degraded", "system.recovered"}
    ]


async def test_shortage_of_each_kind_is_told_once_and_holds_the_queue(opened: OpenStore) -> None:
    async with opened() as store, trio.open_nursery() as nursery:
        starts = Starts()
        nursery.start_soon(lambda: run_dispatcher(store, starts, clock=utc_now))
        for part, least in WATERMARKS.items():
            began = store.state.seq
            for _ in range(3):
                await compare(store, {**PLENTY, part: least - 1})
            assert await told(store, began) == [("system.degraded", part)]
            agent = await submit(store, f"t-{part}")
            assert store.state.active == 0
            assert agent not in starts.agents
            await compare(store, {**PLENTY, part: least * 1.2})
            assert store.state.control.short == {part}, "at the edge it does not flap"
            await compare(store, PLENTY)
            assert await told(store, began) == [("system.degraded", part), ("system.recovered", part)]
            assert await starts.take() == agent
            await end(store, agent)
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_measured_is_not_short(opened: OpenStore) -> None:
    async with opened() as store:
        await compare(store, {})
        assert not store.state.control.short


async def test_host_is_looked_at_again_and_again(opened: OpenStore) -> None:
    looks = 0
    async with opened() as store, trio.open_nursery() as nursery:

        def look() -> dict[str, float]:
            nonlocal looks
            looks += 1
            if looks == 5:
                nursery.cancel_scope.cancel()
            return {**PLENTY, "memory": 1 if looks % 2 else 10_000}

        with trio.fail_after(30):
            await watch_host(store, look, every_s=0)
    assert looks == 5


async def test_shortages_are_of_one_life_of_the_orchestrator(opened: OpenStore) -> None:
    async with opened() as store:
        await compare(store, {**PLENTY, "pids": 1, "memory": 1})
        assert store.state.control.short == {"pids", "memory"}
    async with opened() as store:
        assert not store.state.control.short


def test_host_tells_what_is_left(tmp_path: Path) -> None:
    left = look_around((tmp_path, Path("/")))
    assert left.keys() >= {"disk", "memory", "pids"}
    assert all(figure > 0 for figure in left.values()), left


def test_files_that_a_cgroup_only_keeps_in_memory_are_room(tmp_path: Path) -> None:
    mb = 1024 * 1024
    figures = {
        "memory.max": 300 * mb,
        "memory.current": 299 * mb,
        "memory.stat": f"anon {99 * mb}\nactive_file {50 * mb}\ninactive_file {140 * mb}\n"
        f"slab_reclaimable {10 * mb}",
        "pids.max": 500,
        "pids.current": 100,
    }
    for name, figure in figures.items():
        (tmp_path / name).write_text(f"{figure}\n")
    left = look_around((tmp_path,), cgroups=(tmp_path,))
    assert left["memory"] == 201
    assert left["pids"] == 400


def test_what_cannot_be_looked_at_is_missing_and_ends_nothing(tmp_path: Path) -> None:
    left = look_around((tmp_path / "went",), cgroups=(tmp_path / "none",))
    assert "disk" not in left
    assert left.keys() >= {"memory", "pids"}
