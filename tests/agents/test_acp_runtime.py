"""The runtime `acp` against an agent of our own that does well, badly, or nothing at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from orchestrator.agents import companion
from orchestrator.agents.acp import client
from orchestrator.agents.acp.runtime import AcpRuntime
from orchestrator.agents.base import Prompt, TurnResult
from orchestrator.agents.lines import MAX_LINE_BYTES
from orchestrator.agents.registry import make_runtimes
from orchestrator.agents.steering import message_prompt
from orchestrator.core import events as e
from orchestrator.core.liveness import PROTOCOL
from orchestrator.core.model import Usage
from orchestrator.core.spec import TaskSpec
from orchestrator.errors import AgentError, BudgetExceeded, FieldRefused
from tests.agents.conftest import Letterbox, Log, OpenSession, spec_of
from tests.kit.processes import fresh_mark, marked
from tests.kit.until import seen

AGENT = Path(__file__).with_name("acp_agent.py")
PASSWD = Path("/etc/passwd")
PREFACE = client.INTERRUPTED

Play = Callable[..., Awaitable[list[TurnResult]]]

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(reachable_path: Path, open_session: OpenSession) -> Path:
    """Return the worktree, with the agent's program in it."""
    shutil.copy(AGENT, reachable_path / "workspace/.agent.py")
    return reachable_path / "workspace"


@pytest.fixture
def play(open_session: OpenSession, workspace: Path) -> Play:
    """Return a function that has the agent answer prompts, in a mode of its own."""

    async def answered(
        mode: str, *prompts: str, allow: bool = True, first: int = 1, **options: object
    ) -> list[TurnResult]:
        session = open_session(spec_of("python3", ".agent.py", mode, **options))
        async with AcpRuntime(allow=allow).open(session) as turns:
            return [
                await turns.turn(Prompt(text, number))
                for number, text in enumerate(prompts or ("please",), start=first)
            ]

    return answered


async def test_agent_works_by_its_own_hands_and_by_those_it_is_lent(
    play: Play, log: Log, workspace: Path
) -> None:
    [result] = await play("work")
    assert (result.ok, result.stop_reason, result.exit, result.metered) == (True, "end_turn", None, False), (
        "\n".join(line for _, line in log.lines)
    )
    assert (workspace / "own.txt").read_text() == "own\n"
    assert (workspace / "sub/file.txt").read_text() == "one\ntwo\nthree\n"
    said = result.text
    assert said.startswith("read 'two\\n'; terminal 3 'me in /")
    assert said.endswith("; prompts 1\n")
    assert log.of("stdout")[-1] + "\n" == said[-len(log.of("stdout")[-1]) - 1 :]
    assert log.started == 1
    told = log.of("system")
    assert told[:2] == ["tool edit: write own.txt", "plan, completed: all"]
    assert [line.partition(":")[0] for line in told[2:]] == [
        "fs/write_text_file",
        "fs/read_text_file",
        "terminal/create",
    ]
    assert [event.usage.tool_calls for event in log.events if isinstance(event, e.AgentUsage)] == [1]
    assert result.usage == Usage(cost_usd=0.25)


async def test_next_prompt_goes_on_in_the_same_session(play: Play, log: Log) -> None:
    first, second = await play("prompt", "one", "two")
    assert (first.text, second.text) == ("one", "two")
    assert [line for line in log.of("stdout") if "replayed" in line] == []
    [third] = await play("prompt", "three", first=3)  # another life of the same agent
    assert third.text == "three"


async def test_cut_prompt_is_asked_again_in_the_same_session(play: Play) -> None:
    [cut] = await play("crash", "do it")
    assert (cut.ok, str(cut.exit)) == (False, "exit status 9")
    [again] = await play("crash", "do it")
    assert (again.ok, again.text) == (True, PREFACE + "do it")


async def test_what_people_say_is_told_once_no_tool_is_at_work(
    open_session: OpenSession, workspace: Path, letters: Letterbox, log: Log
) -> None:
    session = letters.on(open_session(spec_of("python3", ".agent.py", "steered")))
    async with AcpRuntime().open(session) as turns, trio.open_nursery() as nursery:

        async def work() -> None:
            results.append(await turns.turn(Prompt("please", 1)))

        results: list[TurnResult] = []
        nursery.start_soon(work)
        await log.wait_for("tool read: look")
        letters.put("mind the gap")
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not (workspace / "stopped").exists()
        (workspace / "go").touch()
    assert (results[0].ok, results[0].stop_reason, results[0].text) == (True, "end_turn", "I see")
    assert (workspace / "stopped").read_text() == "completed"
    assert (
        (workspace / "told").read_text().startswith(client.STEERED + "# Message 1, from ann\n\nmind the gap")
    )
    assert letters.told == [1]


async def test_a_nudge_is_told_at_once(
    open_session: OpenSession, workspace: Path, letters: Letterbox, log: Log
) -> None:
    session = letters.on(open_session(spec_of("python3", ".agent.py", "steered")))
    async with AcpRuntime().open(session) as turns, trio.open_nursery() as nursery:
        nursery.start_soon(turns.turn, Prompt("please", 1))
        await log.wait_for("tool read: look")
        letters.put("get going", sender=None)
    assert (workspace / "stopped").read_text() == "failed"
    assert letters.told == [1]


async def test_what_waits_is_told_with_the_prompt_and_a_prompt_of_messages_is_no_cut_one(
    open_session: OpenSession, workspace: Path, letters: Letterbox
) -> None:
    session = letters.on(open_session(spec_of("python3", ".agent.py", "prompt")))
    letters.put("mind the gap")
    async with AcpRuntime().open(session) as turns:
        first = await turns.turn(Prompt("please", 1))
        assert (first.text, letters.told) == ("please\n\n" + message_prompt(letters.said), [1])
        letters.put("again")
        assert (await turns.turn(Prompt("a message", 1, message=2))).text == "a message"
        assert letters.told == [1, 2]


async def test_calls_are_known_again_by_what_came_of_them(
    open_session: OpenSession, workspace: Path, letters: Letterbox
) -> None:
    session = letters.on(open_session(spec_of("python3", ".agent.py", "loop")))
    async with AcpRuntime().open(session) as turns:
        await turns.turn(Prompt("please", 1))
    first, again, other = letters.calls()
    assert first == again != other
    assert PROTOCOL in letters.signs


async def test_agent_that_forgets_gets_a_new_session(play: Play) -> None:
    first, second = await play("forgetful", "one", "two")
    assert (first.text, second.text) == ("1", "1")


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("stop-max-tokens", "the agent was cut off by the length of its answer"),
        ("stop-max-turn-requests", "the agent asked its model as often as it allows itself"),
        ("stop-refusal", "the agent refused to go on"),
        ("stop-cancelled", "the agent says that it was cancelled"),
        ("stop-nonsense", "the agent's answer is no PromptResponse"),
        ("login", "the agent wants somebody to log in, .*options.env.*Authentication required"),
        ("version", "the agent speaks version 7 of the Agent Client Protocol"),
    ],
)
async def test_what_is_no_success_is_told_in_one_line(play: Play, mode: str, why: str) -> None:
    with pytest.raises(AgentError, match=why):
        await play(mode)


async def test_end_of_the_program_is_a_bad_turn(play: Play, log: Log) -> None:
    [result] = await play("exit")
    assert (result.ok, result.stop_reason, str(result.exit)) == (False, "exit", "exit status 5")
    assert log.of("stderr") == ["I give up"]
    with pytest.raises(AgentError, match=r"exit status 2.*, before it had a session"):
        await play("talker")
    assert "no message: Hello! I am a shell, not an agent." in log.of("system")


@pytest.mark.parametrize("mode", ["never", "silent"])
async def test_who_never_answers_is_told_of(play: Play, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HANDSHAKE_S", 2.0)
    with pytest.raises(AgentError, match="did not answer initialize within 2 s: does it speak"):
        await play(mode)


async def test_missing_program_is_named(open_session: OpenSession) -> None:
    session = open_session(spec_of("no-such-agent"))
    async with AcpRuntime().open(session) as turns:
        with pytest.raises(AgentError, match=r"the program 'no-such-agent' cannot be started .*SANDBOX_PATH"):
            await turns.turn(Prompt("x", 1))
    session = open_session(spec_of("no-such-agent", env={"PATH": "/nowhere"}))
    async with AcpRuntime().open(session) as turns:
        with pytest.raises(AgentError, match="there is no python3 in the sandbox"):
            await turns.turn(Prompt("x", 1))


@pytest.mark.parametrize(
    ("allow", "chosen"), [(True, "o-allow_once"), (False, "o-reject_once")], ids=["allow", "deny"]
)
async def test_storm_of_permissions_is_answered_by_policy(
    play: Play, log: Log, allow: bool, chosen: str
) -> None:
    [result] = await play("permissions", allow=allow)
    outcome, _, rest = result.text.partition("}")
    assert json.loads(outcome + "}") == {"outcome": "selected", "optionId": chosen}
    none, other, broken = json.loads(rest)
    assert (none, other["code"], broken["code"]) == ("cancelled", -32602, -32602)
    assert len([line for line in log.of("system") if line.startswith("permission ")]) == 2001


async def test_paths_lead_nowhere_but_into_the_worktree(play: Play, log: Log, workspace: Path) -> None:
    passwd = PASSWD.read_text()  # noqa: ASYNC240
    [result] = await play("escape")
    assert (result.ok, result.text) == (True, "ok")
    assert PASSWD.read_text() == passwd  # noqa: ASYNC240
    assert any("outside of the worktree" in line for line in log.of("system"))


async def test_garbage_and_forgeries_have_no_effect(play: Play, log: Log) -> None:
    [result] = await play("garbage")
    assert (result.ok, result.stop_reason, result.text) == (True, "end_turn", "? fine\n")
    told = log.of("system")
    assert "no message: hello" in told
    assert "the agent answered what it was not asked" in told
    assert "the agent tells of a session that is not ours" in told
    assert "the agent tells what nobody knows: $/strange" in told
    assert "the agent tells what nobody knows: session/update hologram" in told
    assert "the agent asks for what is not offered: elicitation/create" in told
    assert any("speaks in the name of its sandbox" in line for line in told)


async def test_heavy_messages_are_made_light(play: Play, log: Log) -> None:
    [result] = await play("heavy")
    assert (result.ok, result.text) == (True, "light\n")
    assert all(len(line) <= MAX_LINE_BYTES + 100 for _, line in log.lines)
    assert any("bytes was thrown away" in line for line in log.of("system"))


async def test_tool_calls_are_counted_once_and_not_each_by_a_commit_of_its_own(play: Play, log: Log) -> None:
    await play("calls")
    counts = [event.usage.tool_calls for event in log.events if isinstance(event, e.AgentUsage)]
    assert sum(counts) == 1500
    assert len(counts) < 1000


async def test_calls_of_what_nests_as_deep_as_can_be_read_harm_nobody(play: Play) -> None:
    [result] = await play("deep")
    assert (result.ok, result.text) == (True, "deep\n")


async def test_terminals_are_bounded(play: Play) -> None:
    [result] = await play("flood")
    assert result.text == "SIGKILL 32"


async def test_agent_that_reads_no_answers_harms_itself_alone(
    play: Play, open_session: OpenSession, workspace: Path
) -> None:
    with trio.move_on_after(4) as scope:
        await play("deaf")
    assert scope.cancelled_caught


async def test_budget_ends_it_after_it_was_told_to_stop(play: Play, log: Log, workspace: Path) -> None:
    record = log.record

    async def full(*events: e.Event) -> None:
        await record(*events)
        raise BudgetExceeded("the budget allows 0 tool calls")

    log.record = full  # type: ignore[method-assign]
    with pytest.raises(BudgetExceeded, match="0 tool calls"):
        await play("cancel")
    assert (workspace / "cancelled.txt").read_text() == "put away\n"


async def test_kill_in_the_middle_leaves_nothing(play: Play, log: Log) -> None:
    mark = fresh_mark("acp")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: play("hang", env={"MARK": mark}))
        await log.wait_for("hanging")
        await seen(lambda: len(marked(mark)) >= 4, "the agent, its companion and what they started")
        nursery.cancel_scope.cancel()
    assert marked(mark) == []


async def test_subverted_companion_is_no_more_than_an_agent(
    open_session: OpenSession, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = {"method": "_sandbox/ready", "params": {"kept": {"session": "x" * 5000, "prompt": []}}}
    begin = f"import sys\nprint({json.dumps(json.dumps(ready))}, flush=True)\n"
    flood = begin + "while 1: sys.stdout.write('z' * 65536)"
    monkeypatch.setattr(companion, "BOOT", flood)
    monkeypatch.setattr(client, "HANDSHAKE_S", 2.0)
    async with AcpRuntime().open(open_session(spec_of("true"))) as turns:
        with pytest.raises(AgentError, match="did not answer initialize"):
            await turns.turn(Prompt("x", 1))


def test_task_names_the_program(open_session: OpenSession) -> None:
    spec = TaskSpec.model_validate({"taskId": "T", "context": {"repository": "https://example.org/r.git"}})
    with pytest.raises(FieldRefused, match=r'needs the agent\'s program .*"claude-agent-acp"'):
        make_runtimes().find("acp").check(spec)


@pytest.mark.parametrize("command", [("echo", "hello"), ("sh", "-c", "echo why >&2; exit 3")])
async def test_a_program_that_is_no_such_agent_is_told_with_the_fix(
    open_session: OpenSession, workspace: Path, command: tuple[str, ...]
) -> None:
    with pytest.raises(AgentError, match=r"options\.command has to be an agent of the Agent Client Protocol"):
        async with AcpRuntime().open(open_session(spec_of(*command))) as turns:
            await turns.turn(Prompt("please", 1))
