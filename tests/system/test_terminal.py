"""An agent's terminal over the WebSocket and by `orchestrator attach`, on a real supervisor."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
import trio

from orchestrator.agents.screen import Screen
from orchestrator.client import ClientError, TerminalSocket, Unreachable, open_client
from orchestrator.core.escapes import Tokens
from tests.kit.processes import fresh_mark, marked
from tests.kit.remote import branches, make_remote
from tests.kit.service import Service
from tests.kit.until import until

#: Says what it reads, and its size when that changes.
TALKER = r"""
import os, signal, sys
signal.signal(signal.SIGWINCH, lambda *_: print("size", *os.get_terminal_size(), flush=True))
print("\033[?2004h\033[?1000h\033]0;mine\007\033]52;c;ZXZpbA==\007\033[6n", end="")
print("up", flush=True)
while True:
    line = sys.stdin.readline().strip().rpartition("R")[2]  # what comes before answers our question
    if line == "alt": print("\033[?1049h\033[2J\033[Hon the other screen", flush=True)
    elif line == "flood":
        for n in range(1 << 60): print("flood", n)
    else: print("said", line, flush=True)
"""
IDLE = {"idleSeconds": 3600, "columns": 80, "rows": 24}


def talker(service: Service, remote: Path, script: str = TALKER, **options: Any) -> str:  # noqa: ANN401 - JSON
    """Spawn an agent that talks on its terminal, and wait until that is open."""
    given = {"runtime": "terminal", "command": ["python3", "-c", script], "terminal": IDLE, **options}
    agent = service.spawn(remote, "", options=given)
    service.wait(agent, until=("running",))
    return agent


@asynccontextmanager
async def seat(service: Service, agent: str, **how: bool) -> AsyncIterator[TerminalSocket]:
    """Open the agent's terminal over TCP."""
    url, token = str(service.http.base_url), service.env["ORCHESTRATOR_API_KEY"]
    with trio.fail_after(40):
        async with open_client(url, token=token) as client, client.open_terminal(agent, **how) as terminal:
            yield terminal


async def shown_until(terminal: TerminalSocket, word: bytes) -> bytes:
    """Read what is shown until a word comes."""
    shown = b""
    while word not in shown:
        piece = await terminal.receive_some()
        assert piece, f"it ended without {word!r}: {terminal.reason}"
        shown = shown[-100_000:] + piece
    return shown


@pytest.fixture
def remote(remotes: Path) -> Path:
    return make_remote(remotes, uuid.uuid4().hex)


def kill(service: Service, agent: str) -> None:
    status, answer = service.call("POST", f"/agents/{agent}/kill")
    assert (status, answer["remaining"]) == (200, 0), answer


@pytest.mark.slow
def test_work_of_a_living_shell_is_judged_and_lands(service: Service, remote: Path) -> None:
    agent = service.spawn(
        remote,
        "",
        options={
            "runtime": "terminal",
            "command": ["bash", "--norc", "-i"],
            "terminal": {"idleSeconds": 0.5},
        },
        context={"instructions": "\necho typed > b.txt; trap '' HUP TERM\n"},
    )
    ended = service.wait(agent)
    assert (ended["status"], ended["reason"]) == ("completed", "done"), ended
    assert any(name.startswith("agent/") for name in branches(remote))
    log = service.http.get(f"/agents/{agent}/logs").text
    assert "typed > b.txt" in log
    assert "\\u001b" not in log


@pytest.mark.slow
async def test_bytes_go_both_ways_and_a_size_is_told(service: Service, remote: Path) -> None:
    agent = talker(service, remote)
    async with seat(service, agent) as one, seat(service, agent, watch=True) as other:
        await one.type(b"hello\r")
        await shown_until(one, b"said hello")
        await one.resize(100, 30)
        await shown_until(one, b"size 100 30")
        await shown_until(other, b"size 100 30")
        await other.type(b"x")
        with pytest.raises(Unreachable, match="1008 this viewer only watches"):
            await shown_until(other, b"never")
    async with seat(service, agent, replay=True) as late:
        assert b"\x1b]52;c;ZXZpbA==" in await shown_until(late, b"said hello"), "as it came"
    kill(service, agent)


@pytest.mark.slow
async def test_there_is_none_before_the_upgrade(service: Service, remote: Path) -> None:
    silent = service.spawn(remote, "sleep 1000")
    service.wait(silent, until=("running",))
    for agent, code in (("no-such", "agent_not_found"), (silent, "no_terminal")):
        with pytest.raises(ClientError) as refused:
            async with seat(service, agent):
                pytest.fail("it opened")
        assert refused.value.code == code
    kill(service, silent)
    with pytest.raises(ClientError) as refused:
        async with seat(service, silent):
            pytest.fail("it opened")
    assert refused.value.code == "already_ended"


@pytest.mark.slow
def test_no_foreign_page_gets_one(service: Service) -> None:
    headers = {
        "Origin": "https://evil.example",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = service.http.get("/agents/any/terminal", headers=headers)
    assert answer.json()["code"] == "origin_refused"


@pytest.mark.slow
async def test_kill_while_attached_in_a_flood_ends_the_viewer(service: Service, remote: Path) -> None:
    mark = fresh_mark("flood")
    agent = talker(service, remote, env={"MARK": mark})
    async with seat(service, agent) as one, seat(service, agent) as stuck:
        await one.type(b"flood\r")
        await shown_until(one, b"flood 9999")
        await trio.to_thread.run_sync(kill, service, agent)
        assert not marked(mark)
        while await one.receive_some():
            pass
        assert one.reason == "the program ended: signal 9" or "was ended" in one.reason
        assert await stuck.receive_some(), "it has something yet"


@pytest.mark.slow
async def test_what_is_typed_while_frozen_waits(service: Service, remote: Path) -> None:
    agent = talker(service, remote)
    async with seat(service, agent) as one:
        await shown_until(one, b"up")
        assert service.call("POST", "/freeze")[0] == 200
        await one.type(b"waited\r")
        await shown_until(one, b"waited")
        assert service.call("POST", "/thaw")[0] == 200
        await shown_until(one, b"said waited")
    kill(service, agent)


@pytest.mark.slow
def test_after_a_crash_the_program_runs_again_and_is_told(own_service: Service) -> None:
    own_service.start()
    remote = make_remote(own_service.remotes)
    life = "${ORCHESTRATOR_RESUMED:-0}"
    script = f"echo life {life} | tee -a lives; read -r line; [ {life} = 1 ] || exec sleep 1000"
    options = {"runtime": "terminal", "command": ["sh", "-c", script], "terminal": {"idleSeconds": 0.5}}
    agent = own_service.spawn(remote, "", options=options)
    own_service.wait(agent, until=("running",))
    until(lambda: "life 0" in own_service.http.get(f"/agents/{agent}/logs").text, "it works")
    own_service.kill9()
    own_service.start()
    ended = own_service.wait(agent)
    assert ended["status"] == "completed", ended
    assert "life 1" in own_service.http.get(f"/agents/{agent}/logs").text


# --- orchestrator attach -----------------------------------------------------------------------------------


@contextmanager
def attached(service: Service, agent: str, *options: str, **over: str) -> Iterator[pexpect.spawn]:
    """Sit at an agent's terminal, in a shell's, whose modes are looked at afterwards."""
    words = [sys.executable, "-m", "orchestrator", "attach", agent, *options]
    script = 'stty -g; "$@"; echo "status $?"; stty -g; exec cat'
    seat = pexpect.spawn(
        "sh", ["-c", script, "sh", *words], env={**service.env, "TERM": "xterm", **over}, timeout=40,
        dimensions=(30, 90), encoding="utf-8", codec_errors="replace",
    )  # fmt: skip
    try:
        seat.expect(r"([0-9a-f:]{20,})\r\n")
        seat.modes = seat.match[1]
        yield seat
    finally:
        seat.close(force=True)


def left(seat: pexpect.spawn, status: int) -> str:
    """Wait until the command has ended, check that the terminal is as it was, and return what was shown."""
    seat.expect(rf"status {status}\r\n([0-9a-f:]+)\r\n")
    assert seat.match[1] == seat.modes
    shown = str(seat.before)
    screen = Screen(90, 30)
    screen.apply(Tokens().feed(shown.encode()))
    assert len(list(screen.pictures())) == 1, "the main screen"
    assert not screen.cursor.hidden
    for mode in ("1000", "2004"):
        assert shown.rfind(f"\x1b[?{mode}l") > shown.rfind(f"\x1b[?{mode}h")
    assert not re.search(r"\x1b\]|\x1b\[6n|\x1b\[c", shown), "no clipboard, no title, no question"
    return shown


@pytest.mark.slow
def test_attach_types_resizes_and_leaves(service: Service, remote: Path) -> None:
    agent = talker(service, remote)
    with attached(service, agent) as one:
        one.expect("size 90 30")
        one.send("hello\r")
        one.expect("said hello")
        one.setwinsize(40, 100)
        one.expect("size 100 40")
        one.send("alt\r")
        one.expect("on the other screen")
        one.send("\x1d")
        assert "left" in left(one, 0)
    assert service.status(agent)["status"] == "running"
    over = {"ORCHESTRATOR_HOME": "/nonexistent"}
    url = ("--url", str(service.http.base_url), "--detach-key", "^A")
    with attached(service, agent, *url, **over) as two:  # over TCP, with another key
        two.expect("on the other screen")
        two.send("\x1dstill here\r")
        two.expect("still here")
        two.send("\x01")
        left(two, 0)
    kill(service, agent)


@pytest.mark.slow
def test_attach_ends_with_the_agent_and_with_a_signal(service: Service, remote: Path) -> None:
    agent = talker(service, remote)
    with attached(service, agent) as one, attached(service, agent, "--watch") as other:
        one.expect("size 90 30")
        other.expect("up")
        other.send("not typed\r")
        one.send("typed\r")
        other.expect("said typed")
        found = until(lambda: command_below(other.pid), "the command runs")
        os.kill(found or 0, signal.SIGTERM)
        assert "not typed" not in left(other, 143)
        kill(service, agent)
        assert "the program ended" in left(one, 0)


def command_below(pid: int) -> int | None:
    """Return the child that a shell waits for."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(words[0]) if words else None


@pytest.mark.slow
def test_attach_by_json_prints_what_is_shown(service: Service, remote: Path) -> None:
    agent = talker(service, remote)
    one = pexpect.spawn(
        sys.executable, ["-m", "orchestrator", "attach", agent, "--json"], env=service.env, timeout=40,
        encoding="utf-8",
    )  # fmt: skip
    one.expect(r'\{"shown": ?"[A-Za-z0-9+/=]+"\}\r\n')
    kill(service, agent)
    one.expect(r'\{"ended": ?".*"\}\r\n')
    one.close()


@pytest.mark.slow
def test_attach_without_a_terminal_says_so(service: Service) -> None:
    one = pexpect.run(
        f"sh -c '{sys.executable} -m orchestrator attach x < /dev/null'", env=service.env, timeout=40
    )
    assert b"attach needs a terminal" in one
    assert json.loads(service.http.get("/health").text)["status"] == "healthy"
