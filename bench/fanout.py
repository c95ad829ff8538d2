"""Events to many readers: how many a second are delivered, and how late they are.

One publisher, and 1, 10, 100 and 1,000 readers by WebSocket and by SSE, at this API (every event goes through
the journal first) and, in turns with it, at Node's `ws` and `http`, which send the same from memory; so the
journal is in memory too, where the host has a place for it: what a disk costs is `bench/journal.py`'s to say.
*Saturated*: at most 32 events are not yet with all readers. *Paced*: 1,000 events a second for 100 readers;
p99 over all deliveries, from before the event is recorded. *Stuck*: what ten readers that never read cost in
memory.

The readers are this process: plain sockets whose bytes are searched for marks, so that they cost less than
what they measure (`readers_cpu` says how busy they were). Prints one JSON line a figure, the median of
BENCH_ROUNDS, with the ratio to Node of the same rounds; without `node`, or `ws` (installed by npm into a
temporary place), the peer is left out and said so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.api.services import Limits
from orchestrator.core.events import SystemDegraded
from tests.kit.served import TOKEN, Served, serve_api

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
READERS = (1, 10, 100, 1000)
SECONDS = 0.8
#: Events that may be on their way.
WINDOW = 32
PACE, PACED_READERS = 1000, 100
STUCK = 10
PAD = "x" * 40
MARK = re.compile(rb'"@(\d{18})')
HERE = Path(__file__).resolve().parent

HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
REQUESTS = {
    "WebSocket": f"GET /ws HTTP/1.1\r\n{HEAD}{UPGRADE}\r\n",
    "SSE": f"GET /events HTTP/1.1\r\n{HEAD}\r\n",
}


def event() -> SystemDegraded:
    """Return an event that says when it was made."""
    return SystemDegraded(part="bench", detail=f"@{time.monotonic_ns():018d} {PAD}")


class Publisher:
    """Does what it is told on stdin: `run RATE SECONDS`, and how many events are with all readers."""

    def __init__(self, served: Served) -> None:
        self._store = served.store
        self._credit = 0
        self._moved = trio.Event()

    async def listen(self) -> None:
        """Publish as it is told until stdin ends."""
        pending = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as commands, trio.open_nursery() as running:
            async for chunk in commands:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    word, *rest = line.split()
                    if word == b"run":
                        self._credit = 0
                        running.start_soon(self._run, float(rest[0]), float(rest[1]))
                    else:
                        self._credit = int(word)
                        self._moved.set()
            running.cancel_scope.cancel()

    async def _run(self, rate: float, seconds: float) -> None:
        sent, began = 0, time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            due = int(rate * passed) - sent if rate else WINDOW - (sent - self._credit)
            if due > 0:
                sent += due
                await self._store.note(*(event() for _ in range(due)))
            self._moved = trio.Event()
            with trio.move_on_after(0.001 if rate else seconds):
                await self._moved.wait()
        print(f"sent {sent}", flush=True)


async def serve(home: Path) -> None:
    """Serve the API over a journal in the directory."""
    limits = Limits(burst=100_000, requests_per_s=100_000)
    async with serve_api(home, limits=limits) as served:
        print(f"port {served.port}", flush=True)
        await Publisher(served).listen()


class Peer:
    """A server, as a child of ours."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.process = name, process
        self.port = int(self.answer().split()[1])

    def tell(self, line: str) -> None:
        """Give it a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def answer(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if not line:
            raise EOFError(f"{self.name} has ended")
        return line

    def rss_mib(self) -> float:
        """Return the memory that it has."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Outcome:
    """What one run gave."""

    delivered: int = 0
    seconds: float = 0.0
    late_ms: list[float] = field(default_factory=list)
    server_cpu: float = 0.0
    readers_cpu: float = 0.0

    @property
    def p99_ms(self) -> float:
        """How late the latest but one in a hundred is."""
        return sorted(self.late_ms)[int(len(self.late_ms) * 0.99)] if self.late_ms else 0.0


def connect(peer: Peer, kind: str) -> socket.socket:
    """Return a reader that has been let in."""
    reader = socket.create_connection(("127.0.0.1", peer.port))
    reader.sendall(REQUESTS[kind].encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += reader.recv(1)
    reader.setblocking(False)
    return reader


@contextlib.contextmanager
def connected(peer: Peer, kind: str, count: int) -> Iterator[dict[int, socket.socket]]:
    """Own so many readers."""
    with contextlib.ExitStack() as owned:
        readers = [owned.enter_context(contextlib.closing(connect(peer, kind))) for _ in range(count)]
        yield {reader.fileno(): reader for reader in readers}


def run(peer: Peer, readers: dict[int, socket.socket], rate: int, seconds: float) -> Outcome:
    """Let the peer publish, and read until all have all."""
    outcome, told, sent = Outcome(), 0, None
    carried = dict.fromkeys(readers, b"")
    poll = select.epoll()
    assert peer.process.stdout is not None
    for descriptor in (*readers, output := peer.process.stdout.fileno()):
        poll.register(descriptor, select.EPOLLIN)
    cpu, own, began = peer.cpu_s(), time.process_time(), time.monotonic()
    peer.tell(f"run {rate} {seconds}")
    while sent is None or outcome.delivered < sent * len(readers):
        ready = poll.poll(20)
        if not ready:
            raise TimeoutError(f"{peer.name}: {outcome.delivered} of {sent} x {len(readers)} were delivered")
        for descriptor, _ in ready:
            if descriptor == output:
                sent = int(peer.answer().split()[1])
                continue
            data = carried[descriptor] + readers[descriptor].recv(1 << 18)
            if rate:
                now, end = time.monotonic_ns(), 0
                for found in MARK.finditer(data):
                    outcome.late_ms.append((now - int(found[1])) / 1e6)
                    outcome.delivered += 1
                    end = found.end()
                carried[descriptor] = data[max(end, len(data) - 20) :]
            else:
                outcome.delivered += data.count(b'"@')
                carried[descriptor] = b'"' if data.endswith(b'"') else b""
        if not rate and (done := outcome.delivered // len(readers)) > told:
            told = done
            peer.tell(str(told))
    outcome.seconds = time.monotonic() - began
    outcome.server_cpu = (peer.cpu_s() - cpu) / outcome.seconds
    outcome.readers_cpu = (time.process_time() - own) / outcome.seconds
    return outcome


def report(name: str, unit: str, values: dict[str, list[float]], digits: int, **more: float) -> None:
    """Print the median of ours, and beside it the peer's."""
    line = {"name": name, "value": round(statistics.median(values["ours"]), digits), "unit": unit}
    if "Node" in values:
        ratios = [one / other for one, other in zip(values["ours"], values["Node"], strict=True) if other]
        line["ratio"] = round(statistics.median(ratios or [0.0]), 2)
        line["node"] = round(statistics.median(values["Node"]), digits)
    print(json.dumps(line | {key: round(value, 2) for key, value in more.items()}), flush=True)


def measure(peers: list[Peer], kind: str, count: int, rate: int) -> dict[str, list[Outcome]]:
    """Let the peers take turns."""
    outcomes: dict[str, list[Outcome]] = {peer.name: [] for peer in peers}
    for _ in range(ROUNDS):
        for peer in peers:
            with connected(peer, kind, count) as readers:
                outcomes[peer.name].append(run(peer, readers, rate, SECONDS * (2 if rate else 1)))
    return outcomes


def stuck(peer: Peer, kind: str) -> float:
    """Return by how many MiB the peer grows by readers that never read, while one does."""
    with connected(peer, kind, 1) as reading:
        run(peer, reading, 0, SECONDS)
        before = peer.rss_mib()
        with connected(peer, kind, STUCK):
            run(peer, reading, 0, SECONDS * 4)
            return peer.rss_mib() - before


def compare(peers: list[Peer]) -> None:
    """Print every figure."""
    for kind in REQUESTS:
        for count in READERS:
            got = measure(peers, kind, count, 0)
            rates = {name: [one.delivered / one.seconds for one in all_] for name, all_ in got.items()}
            busy = statistics.median(one.readers_cpu for one in got["ours"])
            report(f"{kind}, {count} readers, saturated", "events/s", rates, 0, readers_cpu=busy)
        got = measure(peers, kind, PACED_READERS, PACE)
        late = {name: [one.p99_ms for one in all_] for name, all_ in got.items()}
        busy = statistics.median(one.server_cpu for one in got["ours"])
        report(f"{kind}, {PACED_READERS} readers, {PACE} events/s, p99", "ms", late, 2, server_cpu=busy)
        grown = {peer.name: [stuck(peer, kind)] for peer in peers}
        report(f"{kind}, {STUCK} readers that never read: growth", "MiB", grown, 1)


def node_command(folder: Path) -> list[str] | None:
    """Return how the peer is started, None where it cannot be."""
    if (node := shutil.which("node")) is None or (npm := shutil.which("npm")) is None:
        print("node or npm is not installed: without the peer", file=sys.stderr)
        return None
    install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "ws@8"]
    if subprocess.run(install, check=False, timeout=120, stdout=subprocess.DEVNULL).returncode:
        print("npm did not install ws: without the peer", file=sys.stderr)
        return None
    return [node, str(HERE / "_fanout.cjs")]


def main() -> None:
    """Start both, and compare."""
    popen = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else Path()
    with tempfile.TemporaryDirectory(dir=place, prefix=".bench-") as name, contextlib.ExitStack() as owned:
        folder = Path(name).resolve()
        commands = {"ours": [sys.executable, __file__, "serve", str(folder)], "Node": node_command(folder)}
        peers = []
        for peer, command in commands.items():
            if command:
                env = {**os.environ, "NODE_PATH": str(folder / "node_modules")}
                child = owned.enter_context(popen(command, env=env))
                owned.callback(child.kill)
                peers.append(Peer(peer, child))
        compare(peers)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        trio.run(serve, Path(sys.argv[2]))
    else:
        main()
