"""The runtime `command`: prompt, environment, output, exit status; and nothing left, however it ends."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest
import trio

from orchestrator.agents.base import MAX_TEXT, Prompt
from orchestrator.agents.lines import MAX_LOG_LINES
from orchestrator.agents.program import open_prompt_file, prompt_files
from orchestrator.agents.registry import make_runtimes
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError, FieldRefused, RuntimeUnknown
from sandbox.base import MIB, Backend
from tests.agents.conftest import Log, OpenSession, spec_of, take_turn


def shell(script: str, **options: object) -> TaskSpec:
    return spec_of("sh", "-c", script, **options)


async def test_exit_status_zero_is_a_good_turn(open_session: OpenSession, log: Log) -> None:
    result = await take_turn(open_session(shell("echo hi; echo there >&2")))
    assert (result.ok, result.stop_reason) == (True, "exit")
    assert result.exit is not None
    assert result.exit.code == 0
    assert result.text == "hi\n"
    assert result.duration_ms > 0
    assert log.of("stdout") == ["hi"]
    assert log.of("stderr") == ["there"]
    assert log.started == 1


@pytest.mark.parametrize(
    ("script", "reason", "how"),
    [
        ("exit 3", "exit", "exit status 3"),
        ("kill -9 $$", "signal", "signal 9"),
        ("kill -TERM $$", "signal", "signal 15"),
    ],
)
async def test_any_other_end_is_a_bad_turn(
    open_session: OpenSession, script: str, reason: str, how: str
) -> None:
    result = await take_turn(open_session(shell(script)))
    assert (result.ok, result.stop_reason, str(result.exit)) == (False, reason, how)


async def test_prompt_comes_by_file_and_on_standard_input(open_session: OpenSession, log: Log) -> None:
    await take_turn(open_session(shell('cat; echo --; cat "$ORCHESTRATOR_PROMPT_FILE"')), "one\ntwo\n")
    assert log.of("stdout") == ["one", "two", "--", "one", "two"]


async def test_prompt_file_cannot_be_written_and_is_gone_after(
    open_session: OpenSession, backend: Backend
) -> None:
    session = open_session(shell('echo x >> "$ORCHESTRATOR_PROMPT_FILE"'))
    result = await take_turn(session)
    assert not result.ok or (os.getuid() != 0 and not backend.namespaced)  # our own user owns it there
    assert list(session.scratch.iterdir()) == []


async def test_prompt_file_of_an_earlier_life_is_replaced(open_session: OpenSession, log: Log) -> None:
    session = open_session(shell('cat "$ORCHESTRATOR_PROMPT_FILE"'))
    (session.scratch / "agent-1.prompt-1.md").symlink_to("/etc/passwd")
    await take_turn(session, "new\n")
    assert log.of("stdout") == ["new"]


async def test_environment_tells_whom_the_program_works_for(open_session: OpenSession, log: Log) -> None:
    spec = shell("env | grep -e ^ORCHESTRATOR_ -e ^X= | sort; pwd", env={"X": "1 $HOME"})
    await take_turn(open_session(spec, resumed=True), number=3)
    *lines, workspace = log.of("stdout")
    told = dict(line.split("=", 1) for line in lines)
    prompt_file = told.pop("ORCHESTRATOR_PROMPT_FILE")
    assert prompt_file.endswith(".md")
    assert told == {
        "ORCHESTRATOR_AGENT_ID": "agent-1",
        "ORCHESTRATOR_TASK_ID": "T-1",
        "ORCHESTRATOR_ATTEMPT": "2",
        "ORCHESTRATOR_ROLE": "worker",
        "ORCHESTRATOR_TURN": "3",
        "ORCHESTRATOR_BRANCH": "agent/T-1",
        "ORCHESTRATOR_BASE_COMMIT": "b" * 40,
        "ORCHESTRATOR_WORKSPACE": workspace,
        "ORCHESTRATOR_RESUMED": "1",
        "X": "1 $HOME",
    }


async def test_arguments_arrive_as_they_were_given(open_session: OpenSession, log: Log) -> None:
    words = ("printf", "<%s>\\n", "", "a b", "$HOME", "*", "'\"", "--", "-x", "é\n")
    await take_turn(open_session(spec_of(*words)))
    assert "\n".join(log.of("stdout")) == "<>\n<a b>\n<$HOME>\n<*>\n<'\">\n<-->\n<-x>\n<é\n>"


@pytest.mark.parametrize("size", [256 * 1024])
async def test_program_that_never_reads_a_large_prompt_ends_its_turn(
    open_session: OpenSession, size: int
) -> None:
    for script in ("true", "head -c 10 >/dev/null", "exec <&-; true"):
        assert (await take_turn(open_session(shell(script)), "x" * size)).ok


async def test_large_prompt_arrives_whole(open_session: OpenSession, log: Log) -> None:
    await take_turn(open_session(shell("wc -c; wc -c < $ORCHESTRATOR_PROMPT_FILE")), "é" * 100_000)
    assert [int(line) for line in log.of("stdout")] == [200_000, 200_000]


async def test_program_that_does_not_exist_is_named_with_where_it_was_sought(
    open_session: OpenSession,
) -> None:
    with pytest.raises(
        AgentError, match=r"no program 'no-such-agent' in the sandbox: PATH is what SANDBOX_PATH"
    ):
        await take_turn(open_session(spec_of("no-such-agent")))
    with pytest.raises(AgentError, match=r"'./agent\.sh'.*PATH is /usr/bin \(options\.env\)"):
        await take_turn(open_session(spec_of("./agent.sh", env={"PATH": "/usr/bin"})))


async def test_later_turn_runs_the_program_again_and_is_announced_once(
    open_session: OpenSession, log: Log
) -> None:
    session = open_session(shell("echo $ORCHESTRATOR_TURN >> turns; cat turns"))
    async with make_runtimes().find("command").open(session) as turns:
        await turns.turn(Prompt("one", 1))
        await turns.turn(Prompt("two", 2))
    assert log.of("stdout") == ["1", "1", "2"]
    assert log.started == 1


async def test_text_of_a_turn_is_its_end_and_harmless(open_session: OpenSession) -> None:
    result = await take_turn(open_session(shell(r"seq 100000; printf '\033]0;x\007\001\342\200\256end'")))
    assert len(result.text) <= MAX_TEXT
    assert result.text.endswith("100000\n\\x01\\u202eend")
    assert re.match(r"\d{5}\n", result.text)


@pytest.mark.slow
async def test_flood_is_logged_up_to_a_mark_and_costs_no_memory(open_session: OpenSession, log: Log) -> None:
    await take_turn(open_session(shell("true")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log_lines = log.lines

    class Counting(list[tuple[str, str]]):
        """Keeps no line, so that what is measured is ours."""

        count = 0

        def append(self, entry: tuple[str, str]) -> None:
            self.count += 1
            if entry[0] == "system":
                log_lines.append(entry)

    counting = log.lines = Counting()
    result = await take_turn(open_session(shell("yes | head -c 300000000; echo done")))
    assert result.ok
    assert result.text.endswith("y\ndone\n")
    assert counting.count == MAX_LOG_LINES + 1
    assert [stream for stream, _ in log_lines] == ["system"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * MIB / 1024


async def test_descendant_that_holds_the_pipes_does_not_hold_the_turn(
    open_session: OpenSession, log: Log
) -> None:
    script = (
        "(trap '' TERM HUP; setsid sleep 1000 &) ; (setsid sh -c 'while :; do echo x; done' &) ; echo end"
    )
    with trio.fail_after(20):
        result = await take_turn(open_session(shell(script)))
    assert result.ok
    assert "end" in log.of("stdout")


async def test_cancelled_turn_leaves_no_process_and_its_prompt_to_who_tidies_up(
    open_session: OpenSession, log: Log
) -> None:
    session = open_session(shell("setsid sleep 1000 & echo up; exec sleep 1000"))
    with trio.fail_after(30):
        async with trio.open_nursery() as turns:
            turns.start_soon(take_turn, session)
            await log.wait_for("up")
            turns.cancel_scope.cancel()
    assert list(session.scratch.iterdir()) == prompt_files(session.scratch, session.agent_id) != []


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when the run has come to its nth step."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps", [range(1, 12), range(12, 24), range(24, 60, 3)], ids=["early", "middle", "late"]
)
async def test_turn_cancelled_at_any_step_leaves_nothing(open_session: OpenSession, steps: range) -> None:
    session = open_session(
        shell("cat >/dev/null; echo a; setsid sleep 1000 & echo b; cat f 2>/dev/null; sleep 0.01")
    )
    for step in steps:
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await take_turn(session)
            finally:
                trio.lowlevel.remove_instrument(instrument)
        assert list(session.scratch.iterdir()) == prompt_files(session.scratch, session.agent_id)


async def test_error_of_the_log_ends_the_turn_as_it_is(open_session: OpenSession, log: Log) -> None:
    async def broken(stream: str, line: str) -> None:
        raise AgentError(f"{stream} {line}")

    log.output = broken  # type: ignore[method-assign]
    with pytest.raises(AgentError, match=r"^stdout x$"):
        await take_turn(open_session(shell("echo x; sleep 1000")))


def test_task_without_a_command_is_refused_naming_the_field() -> None:
    spec = TaskSpec.model_validate({"taskId": "T", "context": {"repository": "https://example.org/r"}})
    assert make_runtimes().default_name(spec) == "command"
    with pytest.raises(FieldRefused) as refused:
        make_runtimes().find("command").check(spec)
    assert (refused.value.field, refused.value.status) == ("options.command", 422)
    make_runtimes().find("command").check(spec_of("true"))


def test_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RuntimeUnknown, match=r"'magic' is no runtime .*known: acp, command, terminal\)"):
        make_runtimes().find("magic")
    assert make_runtimes().default_name(spec_of("x", runtime="acp")) == "acp"
    assert make_runtimes().find("command").name == "command"


def test_prompt_file_is_for_the_sandboxs_user_alone(tmp_path: Path, backend: Backend) -> None:
    class Where:
        agent_id, scratch = "a", tmp_path

    where = Where()
    where.backend = backend  # type: ignore[attr-defined]
    with open_prompt_file(where, Prompt("x", 1)) as (path, _):  # type: ignore[arg-type]
        found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid) == (0o400, backend.user.uid)
