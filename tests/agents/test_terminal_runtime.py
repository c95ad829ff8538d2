"""The runtime `terminal`: a living program is typed at when it is idle, and its screen is the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from orchestrator.agents.base import Prompt, Session, Turns
from orchestrator.agents.live_terminal import LiveTerminal
from orchestrator.agents.program import prompt_files
from orchestrator.agents.registry import make_runtimes
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError, FieldRefused
from sandbox.base import MIB
from tests.agents.conftest import Log, OpenSession, spec_of
from tests.kit.processes import fresh_mark, marked

pytestmark = pytest.mark.slow

QUICK = {"idleSeconds": 0.5, "columns": 80, "rows": 24}


def on_terminal(*command: str, terminal: dict[str, object] | None = None, **options: object) -> TaskSpec:
    return spec_of(*command, runtime="terminal", terminal={**QUICK, **(terminal or {})}, **options)


@asynccontextmanager
async def opened(session: Session) -> AsyncIterator[tuple[Turns, Callable[[], LiveTerminal]]]:
    """Begin a conversation; the terminal is there from the first turn on."""
    runtimes = make_runtimes()

    def terminal() -> LiveTerminal:
        found = runtimes.terminal("agent-1")
        assert found is not None
        return found

    with trio.fail_after(40):
        async with runtimes.find("terminal").open(session) as turns:
            yield turns, terminal
    assert runtimes.terminal("agent-1") is None


async def test_shell_is_typed_at_and_lives_through_the_turns(open_session: OpenSession, log: Log) -> None:
    session = open_session(on_terminal("bash", "--norc", "-i", env={"PS1": "> "}))
    async with opened(session) as (turns, _):
        first = await turns.turn(Prompt("X=one; echo said $X", 1))
        second = await turns.turn(Prompt("echo again $X; cat $ORCHESTRATOR_PROMPT_FILE", 2))
    assert (first.ok, first.stop_reason, first.exit) == (True, "idle", None)
    assert "said one" in first.text
    assert "again one\n" in second.text
    assert second.text.count("cat $ORCHESTRATOR_PROMPT_FILE") == 2, "typed, and in the file"
    assert log.started == 1
    assert "said one" in log.of("stdout")
    assert not any("\x1b" in line for line in log.of("stdout"))
    assert list(session.scratch.iterdir()) == prompt_files(session.scratch, session.agent_id)


@pytest.mark.parametrize(("status", "ok"), [(0, True), (3, False)])
async def test_program_that_ends_ends_its_turn(open_session: OpenSession, status: int, ok: bool) -> None:
    script = f"read -r line; echo got $line; exit {status}"
    async with opened(open_session(on_terminal("sh", "-c", script))) as (turns, _):
        result = await turns.turn(Prompt("hello", 1))
        assert (result.ok, result.stop_reason) == (ok, "exit")
        assert result.exit is not None
        assert result.exit.code == status
        assert "got hello" in result.text


async def test_program_that_ended_is_started_again_for_the_next_prompt(open_session: OpenSession) -> None:
    script = "read -r line; echo got $line in turn $ORCHESTRATOR_TURN"
    async with opened(open_session(on_terminal("sh", "-c", script))) as (turns, _):
        await turns.turn(Prompt("hello", 1))
        assert "got you in turn 2" in (await turns.turn(Prompt("you", 2))).text


async def test_python_is_asked_by_its_marker(open_session: OpenSession) -> None:
    spec = on_terminal("python3", "-q", terminal={"idleMarker": ">>> ", "idleSeconds": 600})
    async with opened(open_session(spec)) as (turns, _):
        result = await turns.turn(Prompt("import time; time.sleep(1); print(6 * 7)", 1))
        assert result.text.splitlines()[-2:] == ["42", ">>>"]
        assert "1764" in (await turns.turn(Prompt("print(42 ** 2)", 2))).text


PROTOCOL = r"""
import sys, time
def say(text): sys.stdout.write(text); sys.stdout.flush()
say("\033[?2004h")
while True:
    say("WAITS" + "> ")
    words = sys.stdin.readline()
    if not words: break
    say("WORKS")
    time.sleep(1.0)
    say(f"did {words!r}\r\n")
"""


@pytest.mark.parametrize(
    ("waits", "works"),
    [(r"\033]133;A\007", r"\033]133;C\007"), (r"\033]9;4;0\033\\", r"\033]9;4;3\033\\")],
    ids=["OSC 133", "OSC 9;4"],
)
async def test_what_a_program_says_about_itself_counts_more_than_silence(
    open_session: OpenSession, waits: str, works: str
) -> None:
    script = PROTOCOL.replace("WAITS", waits).replace("WORKS", works)
    for idle_seconds in (0.3, 600):
        spec = on_terminal("python3", "-c", script, terminal={"idleSeconds": idle_seconds})
        async with opened(open_session(spec)) as (turns, _):
            result = await turns.turn(Prompt("a\tb\x1b[201~\x03c\u202e", 1))
            assert "did '\\x1b[200~a\\tb\\\\x03c\\\\u202e\\x1b[201~\\n'" in result.text.replace("\n", "")


async def test_program_that_does_not_exist_is_named(open_session: OpenSession) -> None:
    async with opened(open_session(on_terminal("no-such-agent"))) as (turns, _):
        with pytest.raises(AgentError, match=r"no program 'no-such-agent' in the sandbox"):
            await turns.turn(Prompt("x", 1))


def test_task_without_a_command_is_refused() -> None:
    spec = TaskSpec.model_validate({"taskId": "T", "context": {"repository": "https://example.org/r"}})
    with pytest.raises(FieldRefused, match='the runtime "terminal" needs the program'):
        make_runtimes().find("terminal").check(spec)


async def test_error_of_the_log_ends_the_turn_as_it_is(open_session: OpenSession, log: Log) -> None:
    async def broken(stream: str, line: str) -> None:
        raise AgentError(f"{stream} {line}")

    log.output = broken  # type: ignore[method-assign]
    async with opened(open_session(on_terminal("sh", "-c", "echo x; sleep 1000"))) as (turns, _):
        with pytest.raises(AgentError, match=r"^stdout x$"):
            await turns.turn(Prompt("p", 1))


async def test_exception_of_the_caller_leaves_the_conversation_as_it_is(open_session: OpenSession) -> None:
    async def talk() -> None:
        async with opened(open_session(on_terminal("cat"))) as (turns, _):
            await turns.turn(Prompt("p", 1))
            raise AgentError("mine")

    with pytest.raises(AgentError, match=r"^mine$"):
        await talk()


async def test_cancelled_turn_leaves_no_process_and_no_prompt(open_session: OpenSession, log: Log) -> None:
    mark = fresh_mark("terminal")
    session = open_session(
        on_terminal("sh", "-c", "setsid sleep 1000 & echo up; exec sleep 1000", env={"MARK": mark})
    )
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            async with opened(session) as (turns, _):
                await turns.turn(Prompt("p", 1))

        nursery.start_soon(talk)
        await log.wait_for("up")
        nursery.cancel_scope.cancel()
    assert not marked(mark)
    assert list(session.scratch.iterdir()) == prompt_files(session.scratch, session.agent_id)


async def test_flood_costs_little_and_holds_up_nobody(open_session: OpenSession, log: Log) -> None:
    flood = "head -c 10000000 /dev/zero | tr '\\0' 'y' | fold -w 79; echo; echo the end"
    laps = 0

    async def run_laps() -> None:
        nonlocal laps
        while True:
            await trio.lowlevel.checkpoint()
            laps += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_laps)
        async with opened(open_session(on_terminal("sh", "-c", flood))) as (turns, _):
            result = await turns.turn(Prompt("p", 1))
        nursery.cancel_scope.cancel()
    assert result.ok
    assert result.text.endswith("the end\n")
    assert laps > 1000
    assert len(log.of("stdout")) <= 150_000
    assert sum(map(len, log.of("stdout"))) < 9 * MIB


HOSTILE = r"""
import os, sys
out = sys.stdout.buffer
for junk in (b"\xff\xfe\x80", b"\x1b[" + b"1;" * 300000, b"m", b"\x1b]0;" + b"t" * 300000, b"\x07",
             b"\x1bP" + b"q" * 99999, b"\x1b\\", b"\x1b7" * 5000, b"e" + "\u0301".encode() * 9999,
             b"\x1b[99999999999999999999999C", b"\x1b[?5h\x1b[?3h\x1b#8", os.urandom(200000),
             b"\x18\x1bc\x1b[?1049l"):
    out.write(junk)
out.write(b"\r\n\x1b]52;c;ZXZpbA==\x07still \x1b[1mhere\x1b[0m\r\n")
out.flush()
"""


async def test_hostile_output_breaks_nothing(open_session: OpenSession, log: Log) -> None:
    async with opened(open_session(on_terminal("python3", "-c", HOSTILE))) as (turns, _):
        result = await turns.turn(Prompt("p", 1))
    assert result.ok
    assert result.text.endswith("still here\n")
    assert log.of("stdout")[-1].endswith("still here"), log.lines[-3:]
    assert not any(set(line) & set(map(chr, [*range(9), *range(10, 32), 127])) for line in log.of("stdout"))


async def test_viewers_see_the_screen_and_the_program_sees_its_size(open_session: OpenSession) -> None:
    script = """
import os, signal
signal.signal(signal.SIGWINCH, lambda *_: print("now", *os.get_terminal_size(), flush=True))
print("up", flush=True)
while True: print("said", input())
"""
    async with opened(open_session(on_terminal("python3", "-c", script))) as (turns, terminal):
        await turns.turn(Prompt("p", 1))
        with terminal().watch() as one, terminal().watch(replay=True) as other:
            assert b"said p" in await one.next_piece()
            assert b"up\r\n" in await other.next_piece()  # the echo of what is typed may come before it
            terminal().resize_nowait(100, 30)
            shown = b""
            while b"now 100 30" not in shown:
                shown += await one.next_piece()
            assert terminal().type_nowait(b"q\r")
            while b"said q" not in shown:
                shown += await one.next_piece()


async def test_slow_viewer_gets_a_picture_and_nobody_waits_for_it(open_session: OpenSession) -> None:
    flood = "input()\nfor n in range(30000): print('line', n)\ninput('the end')"
    async with opened(open_session(on_terminal("python3", "-c", flood))) as (turns, terminal):
        await turns.turn(Prompt("go", 1))
        with terminal().watch() as quick, terminal().watch() as slow:
            assert b"the end" in await quick.next_piece()
            assert b"the end" in await slow.next_piece()
    script = "input()\n" + flood
    async with opened(open_session(on_terminal("python3", "-c", script))) as (turns, terminal):
        await turns.turn(Prompt("not yet", 1))
        with terminal().watch() as slow:
            assert b"not yet" in await slow.next_piece()
            await turns.turn(Prompt("go", 2))
            assert slow.skips == 1
            picture = await slow.next_piece()
    assert b"the end" in picture
    assert len(picture) < 10_000


async def test_questions_of_a_program_are_answered_without_a_viewer(open_session: OpenSession) -> None:
    script = r"""
import os, sys, tty
tty.setraw(0)
sys.stdout.write("\r\nab\033[c\033[5n\033[6n"); sys.stdout.flush()
got = b""
while not got.endswith(b"R"): got += os.read(0, 99)
sys.stdout.write(f"\r\n{got!r}\r\n")
"""
    async with opened(open_session(on_terminal("python3", "-c", script))) as (turns, _):
        assert r"b'\x1b[?6c\x1b[0n\x1b[2;3R'" in (await turns.turn(Prompt("", 1))).text


async def test_resumed_program_is_told_so(open_session: OpenSession) -> None:
    session = open_session(on_terminal("sh", "-c", "echo $ORCHESTRATOR_RESUMED $TERM"), resumed=True)
    async with opened(session) as (turns, _):
        assert "1 xterm-256color" in (await turns.turn(Prompt("p", 1))).text
