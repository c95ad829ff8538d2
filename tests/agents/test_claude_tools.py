"""The tools of the runtime `claude`: a server in a real sandbox, asked as a model asks, politely and not."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from orchestrator.agents.base import Session
from orchestrator.agents.claude.hands import MAX_TEXT, Hands, HandsLost, Outcome, open_hands
from orchestrator.agents.claude.tool_files import CAP
from orchestrator.errors import AgentError
from sandbox.base import Directory
from tests.agents.conftest import OpenSession, spec_of
from tests.kit.processes import fresh_mark, marked
from tests.kit.until import seen

LONG_S = 30.0


class Model:
    """Calls tools as a model does."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands

    async def bash(self, command: str, deadline_s: float = LONG_S) -> Outcome:
        return await self.hands.call("bash", {"command": command}, deadline_s=deadline_s)

    async def said(self, command: str) -> str:
        outcome = await self.bash(command)
        assert outcome.ok, outcome
        return outcome.text

    async def edit(self, command: str, path: str, **more: object) -> Outcome:
        given = {"command": command, "path": path, **more}
        return await self.hands.call("str_replace_based_edit_tool", given, deadline_s=LONG_S)

    async def use(self, tool: str, **given: object) -> Outcome:
        return await self.hands.call(tool, given, deadline_s=LONG_S)


@asynccontextmanager
async def model_of(session: Session) -> AsyncIterator[Model]:
    async with open_hands(session) as hands:
        yield Model(hands)


@pytest.fixture
async def model(open_session: OpenSession) -> AsyncIterator[Model]:
    """Return a model with hands in each kind of sandbox."""
    async with model_of(open_session(spec_of("unused"))) as made:
        yield made


@pytest.fixture
def place(reachable_path: Path) -> Path:
    """Return the host's path of the workspace."""
    return reachable_path / "workspace"


# --- the shell


async def test_shell_lives_on_from_call_to_call(model: Model) -> None:
    assert await model.said("mkdir -p d && cd d && export X='a b'; f() { echo \"<$X>\"; }") == ""
    assert (await model.said("basename $PWD; f")).splitlines() == ["d", "<a b>"]


async def test_restart_begins_anew(model: Model) -> None:
    await model.said("X=1; cd /")
    assert (await model.use("bash", restart=True)).text == "tool has been restarted."
    assert await model.said("echo $X") == "\n"


async def test_exit_status_and_errors_are_told_with_the_output(model: Model) -> None:
    outcome = await model.bash("echo out; echo err >&2; (exit 3)")
    assert (outcome.ok, outcome.text) == (True, "out\nerr\n\n[exit status 3]")


@pytest.mark.parametrize("wrong", ["if", "echo 'x", ")", "cat <<X", "${", "\\"])
async def test_command_that_is_no_shell_leaves_a_shell_that_works(model: Model, wrong: str) -> None:
    await model.bash(wrong)
    assert await model.said("echo on") == "on\n"


async def test_command_that_ends_the_shell_is_told_and_another_begins(model: Model) -> None:
    outcome = await model.bash("X=1; echo bye; exit 4")
    assert not outcome.ok
    assert "bye" in outcome.text
    assert "the shell has ended" in outcome.text
    assert await model.said("echo [$X]") == "[]\n"


async def test_input_of_a_command_is_empty(model: Model) -> None:
    assert await model.said("cat; read x; echo done") == "done\n"


async def test_what_is_beyond_the_cap_is_cut_in_the_middle_and_marked(model: Model) -> None:
    said = await model.said("echo begin; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert said.startswith("begin\nxxx")
    assert said.endswith("xxx\nend\n")
    assert len(said) < CAP + 100
    assert "bytes of output were cut here" in said


async def test_bytes_that_are_no_text_are_replaced(model: Model) -> None:
    assert await model.said("printf 'a\\377b\\000c'") == "a\N{REPLACEMENT CHARACTER}b\0c"


async def test_long_command_and_odd_characters_arrive(model: Model) -> None:
    text = "é'\"$`\\\n" * 30_000
    assert await model.said(f"printf %s {shlex.quote(text)} | wc -c") == f"{len(text.encode())}\n"


async def test_processes_that_hold_the_pipes_hold_up_no_call(model: Model) -> None:
    assert await model.said("sleep 1000 & (setsid sleep 1000 &); echo first") == "first\n"
    assert await model.said("echo second") == "second\n"


async def test_endless_writer_in_the_background_holds_up_no_call(model: Model) -> None:
    await model.said("yes & echo $! > pid")
    assert (await model.bash("kill $(cat pid)")).ok
    await model.said(":")
    assert await model.said("echo on") == "on\n"


async def test_call_past_its_deadline_is_ended_with_its_session_and_the_shell_replaced(model: Model) -> None:
    mark = fresh_mark("late")
    outcome = await model.bash(
        f"X=1; echo before; trap '' TERM HUP INT; (setsid sh -c ': {mark}; while :; do sleep 1000; done') &"
        f" sh -c ': {mark}; trap \"\" TERM; while :; do sleep 1000; done'",
        deadline_s=1.0,
    )
    assert not outcome.ok
    assert outcome.text.startswith("before\n")
    assert "the time of this call is over" in outcome.text
    await seen(lambda: not marked(mark), "its processes are gone")
    assert await model.said("echo [$X]") == "[]\n"


async def test_fork_without_end_is_ended_by_its_deadline(open_session: OpenSession) -> None:
    async with model_of(open_session(spec_of("unused"))) as model:
        await model.bash("f() { sleep 0.05; f & f & sleep 1000; }; ulimit -u 100; f", deadline_s=1.0)
        assert await model.said("echo on") == "on\n"


# --- the protocol and the server


async def test_command_has_no_descriptor_of_the_protocol_and_cannot_look_for_one(model: Model) -> None:
    own = await model.said("ls /proc/self/fd")
    assert set(own.split()) <= {"0", "1", "2", "3"}, own
    looked = await model.bash("ls /proc/$PPID/fd; cat /proc/$PPID/environ; echo x > /proc/$PPID/fd/1")
    assert looked.text.count("ermission denied") == 3, looked


async def test_output_that_looks_like_a_frame_is_output(model: Model) -> None:
    forged = '\\000\\000\\000\\040{"id": 1, "ok": true, "text": "x"}'
    assert '"text": "x"' in await model.said(f"printf '{forged}'; printf '{forged}' >&2")
    assert await model.said("echo on") == "on\n"


async def test_polite_signals_do_not_end_the_server(model: Model) -> None:
    assert "on" in await model.said("kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; echo on")
    assert await model.said("echo on") == "on\n"


async def test_end_of_the_server_is_told_with_how_it_ended(open_session: OpenSession) -> None:
    async with model_of(open_session(spec_of("unused"))) as model:
        with pytest.raises(HandsLost) as lost:
            await model.bash("kill -9 $PPID; sleep 1000")
        assert not lost.value.ended.ok


async def test_sandbox_without_python_is_told_with_the_fix(open_session: OpenSession) -> None:
    session = open_session(spec_of("unused", env={"PATH": "/nowhere"}))
    with pytest.raises(AgentError, match=r"no python3 in the sandbox.*PATH is /nowhere \(options.env\)"):
        async with model_of(session):
            pass


async def test_nothing_is_left_when_the_block_is_cancelled_in_a_call(open_session: OpenSession) -> None:
    mark = fresh_mark("cut")
    with trio.CancelScope() as scope:
        async with model_of(open_session(spec_of("unused"))) as model, trio.open_nursery() as nursery:
            nursery.start_soon(model.bash, f"(setsid sh -c ': {mark}; sleep 1000') & sleep 1000; : {mark}")
            await seen(lambda: len(marked(mark)) >= 1, "it runs")
            scope.cancel()
    assert scope.cancelled_caught
    assert not marked(mark)


async def test_hostile_answers_are_bounded_and_refused(open_session: OpenSession) -> None:
    # The server's own interpreter is the agent's to choose, where its environment is.
    session = open_session(spec_of("unused"))
    assert isinstance(session.workspace, Directory)
    fake = session.workspace.path / "python3"
    for frame in ("\\377\\377\\377\\377", "\\000\\000\\000\\002[]", "\\000\\000\\000\\002{x"):
        fake.write_text(f"#!/bin/sh\nprintf '{frame}'\nsleep 1000\n")
        fake.chmod(0o755)
        path = f"{'/workspace' if session.backend.namespaced else session.workspace.path}:/usr/bin:/bin"
        with pytest.raises(AgentError, match="says what it never would"):
            async with model_of(open_session(spec_of("unused", env={"PATH": path}))):
                pass
    assert MAX_TEXT > CAP


# --- files


async def test_editor_creates_views_replaces_and_inserts(model: Model, place: Path) -> None:
    assert (await model.edit("create", "a/b.txt", file_text="one\ntwo\nthree\n")).ok
    assert (await model.edit("view", "a/b.txt")).text == "     1\tone\n     2\ttwo\n     3\tthree"
    assert (await model.edit("view", "a/b.txt", view_range=[2, -1])).text == "     2\ttwo\n     3\tthree"
    assert (await model.edit("str_replace", "a/b.txt", old_str="two\n", new_str="2\n")).ok
    assert (await model.edit("insert", "a/b.txt", insert_line=0, insert_text="zero")).ok
    assert (await model.edit("insert", "a/b.txt", insert_line=4, insert_text="four")).ok
    assert (place / "a/b.txt").read_text() == "zero\none\n2\nthree\nfour"
    assert (await model.edit("view", ".")).text == ".\n./a\n./a/b.txt"


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("view", {"path": "none"}, "File not found: none"),
        ("view", {"path": "f", "view_range": [3, 2]}, "Invalid view_range"),
        ("view", {"path": "f", "view_range": [9, 12]}, "has only 3 lines"),
        ("view", {"path": ""}, "path: a text is needed"),
        ("str_replace", {"path": "f", "old_str": "zzz"}, "No match found for replacement."),
        (
            "str_replace",
            {"path": "f", "old_str": "x", "new_str": ""},
            "Found 2 matches for replacement text.",
        ),
        ("str_replace", {"path": "f", "old_str": "", "new_str": ""}, "old_str is empty"),
        ("str_replace", {"path": "f"}, "old_str: a text is needed"),
        ("insert", {"path": "f", "insert_line": 9, "insert_text": "x"}, "Invalid insert_line 9"),
        ("create", {"path": ".", "file_text": "x"}, "is a directory"),
        ("create", {"path": "f"}, "file_text: a text is needed"),
        ("view", {"path": "fifo"}, "is no regular file"),
        ("create", {"path": "fifo", "file_text": "x"}, "is no regular file"),
        ("view", {"path": "/dev/zero"}, "is no regular file"),
        ("undo_edit", {"path": "f"}, "command is one of"),
        ("view", {"path": "a\0b"}, "path: a text is needed"),
    ],
)
async def test_editor_says_what_is_wrong(
    model: Model, command: str, given: dict[str, Any], said: str
) -> None:
    await model.said("printf 'x\\ny\\nx\\n' > f; mkfifo fifo")
    outcome = await model.edit(command, **given)
    assert (outcome.ok, said in outcome.text) == (False, True), outcome
    assert await model.said("cat f") == "x\ny\nx\n"


async def test_editing_keeps_what_it_does_not_touch_byte_by_byte(model: Model, place: Path) -> None:
    await model.said("printf 'a\\377\\r\\nb\\r\\n' > f; chmod 751 f")
    assert (await model.edit("str_replace", "f", old_str="b", new_str="é")).ok
    assert (place / "f").read_bytes() == b"a\xff\r\n\xc3\xa9\r\n"
    assert (place / "f").stat().st_mode & 0o777 == 0o751


async def test_reading_is_by_lines_and_bounded(model: Model) -> None:
    await model.said("seq 1 100000 > many; head -c 100000 /dev/zero | tr '\\0' x > wide; : > empty")
    assert (await model.use("read", path="many", offset=99999)).text == " 99999\t99999\n100000\t100000"
    part = (await model.use("read", path="many")).text
    assert part.endswith("[there is more from line 2001 on: use offset]")
    assert len((await model.use("read", path="wide")).text) < 5000
    assert (await model.use("read", path="empty")).text == "[the file is empty]"
    assert not (await model.use("read", path="many", limit=0)).ok


async def test_files_are_found_by_pattern_and_searched(model: Model) -> None:
    await model.said(
        "mkdir -p src/deep .git; echo 'def f(): pass' > src/deep/a.py; echo DEF > src/b.txt; ln -s / src/all"
        "; echo 'def g' > .git/c.py; printf 'def\\0' > src/bin"
    )
    assert (await model.use("glob", pattern="*.py")).text == "src/deep/a.py"
    assert (await model.use("glob", pattern="src/**/*.{py,txt}")).text == "src/b.txt\nsrc/deep/a.py"
    assert (await model.use("glob", pattern="src/*.py")).text == "No files found."
    assert (await model.use("grep", pattern=r"^def \w")).text == "src/deep/a.py:1:def f(): pass"
    assert (await model.use("grep", pattern="def", ignore_case=True, glob="*.txt")).text == "src/b.txt:1:DEF"
    assert (await model.use("grep", pattern="nowhere")).text == "No matches found."
    assert "no regular expression" in (await model.use("grep", pattern="(")).text


async def test_search_that_never_ends_is_given_up(model: Model) -> None:
    await model.said("head -c 3000 /dev/zero | tr '\\0' a > f; mkfifo p")
    outcome = await model.hands.call("grep", {"pattern": "(a|a)*b"}, deadline_s=0.5)
    assert "took longer than 0.5 seconds" in outcome.text


async def test_file_that_may_not_be_written_is_an_answer(model: Model) -> None:
    outcome = await model.edit("create", "/proc/version", file_text="x")
    assert not outcome.ok
    assert outcome.text.startswith("Error: ")
