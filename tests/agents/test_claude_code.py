"""The runtime `claude-code`: the real program by both ways to the door, and one that says what tests want."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from pydantic import SecretStr

from orchestrator.agents import claude_code
from orchestrator.agents.base import Answer, Meter, Prompt, Request, Session, TurnResult
from orchestrator.agents.claude_cli import ClaudeCli
from orchestrator.agents.claude_code import INTERRUPTED, LOST, ClaudeCodeRuntime
from orchestrator.agents.models import ModelAccess
from orchestrator.agents.upstream import Upstream
from orchestrator.core.events import AgentTurn, AgentUsage
from orchestrator.core.liveness import PROTOCOL
from orchestrator.core.model import Usage
from orchestrator.errors import AgentError, BudgetExceeded, FieldRefused, ProviderRefused
from sandbox.base import Backend, Limits
from tests.agents.conftest import Letterbox, Log, OpenSession, spec_of, work_of
from tests.kit.claude_code import claude_binary
from tests.kit.messages_api import ScriptedApi, script, scripted_api
from tests.kit.processes import fresh_mark, marked
from tests.kit.until import seen

MODEL = "claude-opus-5-5"
KEY = "sk-of-the-account"
NOWHERE = "http://127.0.0.1:9"

needs_time = pytest.mark.slow


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    """Return an API that takes no key but ours."""
    with scripted_api(keys=[KEY], keep_bodies=True) as running:
        yield running


@pytest.fixture
def session(open_session: OpenSession) -> Session:
    """Return a session that has enough for the real program."""
    return replace(open_session(spec_of("unused")), limits=Limits(memory_mb=4096))


def runtime_of(url: str, program: Path | None = None, **more: object) -> ClaudeCodeRuntime:
    return ClaudeCodeRuntime(
        ClaudeCli(program or claude_binary()),
        ModelAccess(Upstream(url, SecretStr(KEY)), MODEL),
        **more,  # type: ignore[arg-type]
    )


async def answer(runtime: ClaudeCodeRuntime, session: Session, *prompts: str) -> list[TurnResult]:
    async with runtime.open(session) as turns:
        return [await turns.turn(Prompt(text, number)) for number, text in enumerate(prompts, start=1)]


# --- the real one ------------------------------------------------------------------------------------------


@needs_time
@pytest.mark.usefixtures("containers")  # made before a test's surroundings are photographed
@pytest.mark.parametrize("backend", ["bubblewrap", "process", "podman"], indirect=True)
@pytest.mark.parametrize("way", ["socket", "port"])
async def test_it_works_in_the_sandbox_and_knows_the_first_prompt_at_the_second(
    api: ScriptedApi, session: Session, log: Log, way: str
) -> None:
    steps = [{"say": "I begin.", "do": {"run": "env > env.txt; echo one > a.txt"}}, {"say": "done so far"}]
    further = {"if": "FURTHER", "steps": [{"do": {"run": "echo two >> a.txt"}}, {"say": "all done"}]}
    first, second = await answer(
        runtime_of(api.url, way=way), session, script(*steps, branches=[further]), "FURTHER, please"
    )
    assert (first.ok, first.text, second.ok, second.text) == (True, "done so far", True, "all done")
    assert (first.metered, first.exit, log.started) == (True, None, 1)
    assert (work_of(session) / "a.txt").read_text() == "one\ntwo\n"
    assert KEY not in (work_of(session) / "env.txt").read_text()
    asked = api.messages()
    assert [(request.how, request.key, request.model) for request in asked] == [("served", KEY, MODEL)] * 4
    assert "done so far" in json.dumps(asked[2].body["messages"])
    turns = [event for event in log.events if isinstance(event, AgentTurn)]
    assert [turn.prompt for turn in turns] == [1, 1, 2, 2]
    spent = [event.usage for event in log.events if isinstance(event, AgentUsage)]
    assert sum(usage.tool_calls for usage in spent) == 2
    assert first.usage.plus(second.usage).tokens == sum(usage.tokens for usage in spent) > 0
    assert 'env > env.txt; echo one > a.txt"}' in "".join(log.of("stdout"))
    assert "all done" in log.of("stdout")
    assert not [line for line in log.of("system") if "counts" in line]


@needs_time
async def test_who_was_cut_in_the_middle_of_a_call_goes_on_in_the_same_session(
    api: ScriptedApi, session: Session, log: Log
) -> None:
    mark = fresh_mark("held")
    prompt = script(
        {"do": {"run": "echo once >> a.txt"}},
        {"do": {"run": f"sh -c ': {mark}; sleep 1000; :'"}},
        branches=[
            {"if": "were interrupted", "steps": [{"do": {"run": "echo then >> a.txt"}}, {"say": "finished"}]}
        ],
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, runtime_of(api.url), session, prompt)
        await seen(lambda: marked(mark), "the second call runs")
        nursery.cancel_scope.cancel()
    assert not marked(mark)
    (result,) = await answer(runtime_of(api.url), replace(session, resumed=True), prompt)
    assert (result.ok, result.text) == (True, "finished")
    assert (work_of(session) / "a.txt").read_text() == "once\nthen\n"
    assert [request.step for request in api.messages()] == [0, 1, 0, 1]
    known = json.dumps(api.messages()[2].body["messages"])
    assert "echo once" in known
    assert INTERRUPTED.strip() in known


@needs_time
async def test_what_is_said_meanwhile_is_told_beside_the_next_results(
    api: ScriptedApi, session: Session, letters: Letterbox, log: Log
) -> None:
    mark = fresh_mark("told")
    run = f": {mark}; while ! test -e go; do perl -e 'sleep 1'; done"
    minded = {"if": "from ann", "steps": [{"do": {"run": "echo minded > a"}}, {"say": "well"}]}
    async with trio.open_nursery() as nursery:
        prompt = script({"do": {"run": run}}, {"say": "nobody said anything"}, branches=[minded])
        nursery.start_soon(answer, runtime_of(api.url), letters.on(session), prompt)
        await seen(lambda: marked(mark), "the first call runs")
        letters.put("mind the gap")
        await seen(lambda: any("command_lifecycle" in line for line in log.of("stdout")), "it was read")
        (work_of(session) / "go").touch()
    assert (work_of(session) / "a").read_text() == "minded\n"
    assert letters.told == [1]
    assert len(api.messages()) == 3
    assert "from ann\\n\\nmind the gap" in json.dumps(api.messages()[1].body["messages"])
    assert len(letters.calls()) == 2


@needs_time
async def test_a_repository_that_wants_questions_asked_gets_no_for_an_answer(
    api: ScriptedApi, session: Session, log: Log
) -> None:
    settings = work_of(session) / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"permissions": {"ask": ["Bash"], "deny": ["Write"]}}))
    (result,) = await answer(
        runtime_of(api.url),
        session,
        script({"do": {"run": "touch made"}}, {"do": {"tool": "Write", "input": {}}}, {"say": "well"}),
    )
    assert (result.ok, result.text) == (True, "well")
    assert not (work_of(session) / "made").exists()
    assert "Claude Code was not allowed to use Bash" in log.of("system")


@needs_time
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"status": 401}, "provider refuses.*login.*401"),
        ({"status": 404, "message": "model: no such model"}, "provider refuses.*model.*no such model"),
    ],
)
async def test_what_the_provider_refuses_for_good_is_one_line_and_soon(
    api: ScriptedApi, session: Session, fault: dict[str, object], told: str
) -> None:
    api.change(fault=fault)
    began = trio.current_time()
    with pytest.raises(ProviderRefused, match=told) as caught:
        await answer(runtime_of(api.url), session, script({"say": "never"}))
    assert "\n" not in caught.value.detail
    assert len(api.messages()) == 1
    assert trio.current_time() - began < claude_code.END_S


@needs_time
async def test_a_stream_that_is_cut_is_asked_for_again(api: ScriptedApi, session: Session) -> None:
    fault = {"kind": "cut", "after": 4, "times": 1}
    (result,) = await answer(runtime_of(api.url), session, script({"say": "x" * 300, "fault": fault}))
    assert (result.ok, result.text) == (True, "x" * 300)


class Purse:
    """A meter that lets so many requests, or tools, pass."""

    def __init__(self, inner: Meter, *, requests: int = 99, tools: int = 99) -> None:
        self.inner, self.requests, self.tools = inner, requests, tools

    async def ask(self, request: Request, ask: Callable[[], object], *, prompt: int) -> Answer:
        """See `Meter`."""
        if not self.requests:
            raise BudgetExceeded("the budget allows no more turns")
        self.requests -= 1
        return await self.inner.ask(request, ask, prompt=prompt)  # type: ignore[arg-type]

    async def check_tools(self, calls: int) -> None:
        """See `Meter`."""

    async def count_tools(self, calls: int, content: str | None = None) -> None:
        """See `Meter`."""
        self.tools -= calls
        if self.tools < 0:
            raise BudgetExceeded("the budget allows no more tools")


@needs_time
async def test_a_spent_budget_ends_it_at_the_door(api: ScriptedApi, session: Session) -> None:
    purse = Purse(session.meter, requests=3)
    steps = [{"do": {"run": f"echo {n} >> a.txt"}} for n in range(9)]
    with pytest.raises(BudgetExceeded, match="no more turns"):
        await answer(runtime_of(api.url), replace(session, meter=purse), script(*steps))
    assert len(api.messages()) == 3
    assert (work_of(session) / "a.txt").read_text() == "0\n1\n2\n"


# --- one that says what a test wants -----------------------------------------------------------------------

MakeProgram = Callable[..., Path]
OK = json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": "fine", "usage": {}})


@pytest.fixture
def make_program(reachable_path: Path) -> MakeProgram:
    """Return a function that makes a program which reads its prompt and then does this."""

    def make(does: str, version: str = "2.1.400") -> Path:
        path = reachable_path / "claude"
        path.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version} (Claude Code)" && exit\n'
            f"read -r prompt\n{does}\n"
        )
        path.chmod(0o755)
        return path

    return make


def says(*lines: object) -> str:
    """Return shell text that writes these lines."""
    told = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return f"cat <<'END'\n{told}\nEND\n"


async def test_unknown_lines_are_events_and_garbage_is_logged(
    session: Session, log: Log, make_program: MakeProgram
) -> None:
    program = make_program(
        says(
            {"type": "from_the_future", "subtype": "x", "n": [1]},
            "this is no JSON",
            {
                "type": "assistant",
                "message": {"content": [{"type": "text", "text": "a\nb"}, 7, {"type": "new"}]},
            },
            {"type": "assistant", "message": None},
            {
                "type": "user",
                "message": {"content": [{"type": "tool_result", "is_error": True, "content": "no"}]},
            },
            {"type": "stream_event", "event": {}},
            OK,
        )
    )
    (result,) = await answer(runtime_of(NOWHERE, program), session, "x")
    assert (result.ok, result.text) == (True, "fine")
    assert log.of("stdout") == [
        '[from_the_future/x] {"n": [1]}',
        "[no JSON] this is no JSON",
        "a",
        "b",
        "[failed] no",
    ]


async def test_calls_are_noted_by_what_came_of_them_and_lines_are_signs(
    session: Session, letters: Letterbox, make_program: MakeProgram
) -> None:
    def call(number: int, command: object) -> dict[str, object]:
        used = {"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {"command": command}}
        return {"type": "assistant", "message": {"content": [used]}}

    def came(number: int, text: str) -> dict[str, object]:
        came = {"type": "tool_result", "tool_use_id": f"t{number}", "content": text}
        return {"type": "user", "message": {"content": [came]}}

    told = [call(1, "make"), came(1, "no"), call(2, "make"), came(2, "no"), call(3, "make"), came(3, "yes")]
    program = make_program(says(*told, came(9, "of no call"), {"type": "keep_alive"}, OK))
    (result,) = await answer(runtime_of(NOWHERE, program), letters.on(session), "x")
    assert result.ok
    first, again, other = letters.calls()
    assert first == again != other
    assert len([sign for sign in letters.signs if sign is PROTOCOL]) == len(told) + 2


async def test_what_comes_too_late_for_an_answer_gets_one_of_its_own(
    session: Session, letters: Letterbox, make_program: MakeProgram
) -> None:
    replay = '{"type": "user", "isReplay": true, "uuid": "\'"$name"\'", "message": {"content": "x"}}'
    program = make_program(
        'read -r message; name=${message##*uuid}; name=${name#???*\\"}; name=${name%??}\n'
        + says({"type": "result", "is_error": False, "result": "first", "usage": {"input_tokens": 2}})
        + f"echo '{replay}'; while read -r more; do :; done\n"
        + says({"type": "result", "is_error": False, "result": "second", "usage": {"input_tokens": 3}})
    )
    letters.put("mind the gap")
    (result,) = await answer(runtime_of(NOWHERE, program), letters.on(session), "x")
    assert (result.ok, result.text, letters.told) == (True, "second", [1])


async def test_a_message_that_the_program_ends_without_is_left(
    session: Session, letters: Letterbox, make_program: MakeProgram
) -> None:
    replay = {"type": "user", "isReplay": True, "uuid": "forged", "message": {"content": "x"}}
    program = make_program("read -r message; " + says(replay, OK) + "cat")
    letters.put("mind the gap")
    (result,) = await answer(runtime_of(NOWHERE, program), letters.on(session), "x")
    assert (result.ok, letters.told) == (True, [])


async def test_a_line_of_twelve_megabytes_passes(session: Session, make_program: MakeProgram) -> None:
    begin, end = '{"type":"assistant","message":{"content":[{"type":"text","text":"', '"}]}}'
    long = f"printf '%s' '{begin}'; head -c 12582912 /dev/zero | tr '\\0' x; echo '{end}'\n"
    done = json.dumps({"type": "result", "is_error": False})
    (result,) = await answer(runtime_of(NOWHERE, make_program(long + says(done))), session, "x")
    assert (result.ok, set(result.text)) == (True, {"x"})


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (
            says({"type": "result", "subtype": "success", "is_error": True, "result": "API Error:\n 529"}),
            "an error: API Error: 529",
        ),
        (says({"type": "result", "subtype": "error_max_turns"}), "an error: error_max_turns"),
        (says({"type": "result", "is_error": "no", "errors": ["a", "b"]}), "an error: a; b"),
        ("echo 'out of luck' >&2; exit 3", "exit status 3: out of luck"),
        ("kill -9 $$", "(signal 9|exit status 137)"),
        ("exit 0", "exit status 0"),
    ],
)
async def test_a_bad_end_is_told_by_what_was_said(
    session: Session, make_program: MakeProgram, does: str, reason: str
) -> None:
    (result,) = await answer(runtime_of(NOWHERE, make_program(does)), session, "x")
    assert not result.ok
    assert re.fullmatch(reason, result.stop_reason), result.stop_reason


async def test_a_program_that_stays_after_its_result_is_ended(
    session: Session, make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_code, "END_S", 0.05)
    mark = fresh_mark("stays")
    (result,) = await answer(
        runtime_of(NOWHERE, make_program(says(OK) + f"sh -c ': {mark}; sleep 1000; :'")), session, "x"
    )
    assert (result.ok, result.text) == (True, "fine")
    assert not marked(mark)


async def test_too_many_tools_end_it(session: Session, make_program: MakeProgram) -> None:
    mark = fresh_mark("tools")
    used = {"type": "user", "message": {"content": [{"type": "tool_result"}] * 3}}
    program = make_program(says(used) + f"sh -c ': {mark}; sleep 1000; :'")
    with pytest.raises(BudgetExceeded, match="no more tools"):
        await answer(runtime_of(NOWHERE, program), replace(session, meter=Purse(session.meter, tools=2)), "x")
    assert not marked(mark)


async def test_a_count_beyond_the_doors_is_told(
    session: Session, log: Log, make_program: MakeProgram
) -> None:
    program = make_program(says({"type": "result", "is_error": False, "usage": {"input_tokens": 7}}))
    (result,) = await answer(runtime_of(NOWHERE, program), session, "x")
    assert (result.ok, result.usage) == (True, Usage())
    assert "Claude Code counts 7 tokens, the door 0, which holds" in log.of("system")


TELL = (
    'echo "$@" | grep -o -- "--\\(resume\\|session-id\\) .*" >> starts; printf "%s\\n" "$prompt" >> prompts\n'
)
KEPT = 'case "$*" in *--resume*) ;; *) touch "$CLAUDE_CONFIG_DIR/kept";; esac\n'


async def test_a_session_that_is_lost_is_begun_anew_and_that_is_said(
    session: Session, make_program: MakeProgram
) -> None:
    program = make_program(TELL + KEPT + 'case "$*" in *--resume*) echo none >&2; exit 1;; esac\n' + says(OK))
    first = await answer(runtime_of(NOWHERE, program), session, "do it")
    second = await answer(runtime_of(NOWHERE, program), replace(session, resumed=True), "do it")
    assert [result.ok for result in first + second] == [True, True]
    starts = [line.split()[:2] for line in (work_of(session) / "starts").read_text().splitlines()]
    ours = starts[0][1]
    assert starts == [["--session-id", ours], ["--resume", ours], ["--session-id", ours]]
    prompts = [json.loads(line) for line in (work_of(session) / "prompts").read_text().splitlines()]
    assert [prompt["message"]["content"] for prompt in prompts] == [
        "do it",
        INTERRUPTED + "do it",
        LOST + "do it",
    ]


async def test_a_session_that_can_be_neither_resumed_nor_begun_is_replaced(
    session: Session, make_program: MakeProgram
) -> None:
    program = make_program(
        TELL + KEPT + "[ $(wc -l < starts) -gt 1 ] && [ $(wc -l < starts) -lt 4 ] && exit 1\n" + says(OK)
    )
    await answer(runtime_of(NOWHERE, program), session, "x")
    (result,) = await answer(runtime_of(NOWHERE, program), replace(session, resumed=True), "x")
    assert result.ok
    starts = [line.split()[:2] for line in (work_of(session) / "starts").read_text().splitlines()]
    assert [flag for flag, _ in starts] == ["--session-id", "--resume", "--session-id", "--session-id"]
    assert starts[3][1] not in {starts[0][1], starts[2][1]}


async def test_a_worktree_that_is_new_has_no_session_to_resume(
    session: Session, make_program: MakeProgram
) -> None:
    program = make_program(TELL + says(OK))
    await answer(runtime_of(NOWHERE, program), replace(session, resumed=True), "x")
    assert (work_of(session) / "starts").read_text().startswith("--session-id")
    assert json.loads((work_of(session) / "prompts").read_text())["message"]["content"] == "x"


async def test_nothing_that_a_task_sets_leads_past_the_door(
    open_session: OpenSession, make_program: MakeProgram, backend: Backend
) -> None:
    program = make_program('env > env.txt; echo "$@" > args.txt\n' + says(OK))
    theirs = {
        "ANTHROPIC_BASE_URL": "http://x",
        "ANTHROPIC_AUTH_TOKEN": "t",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "MINE": "1",
    }
    session = open_session(spec_of("unused", env=theirs, model="claude-haiku-5-5"))
    (result,) = await answer(runtime_of(NOWHERE, program), session, "x")
    assert result.ok
    env = dict(
        line.split("=", 1) for line in (work_of(session) / "env.txt").read_text().splitlines() if "=" in line
    )
    assert (env["MINE"], env["ANTHROPIC_API_KEY"]) == ("1", "none")
    assert {"ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK"}.isdisjoint(env)
    port = "http://127.0.0.1:8098"
    assert env["ANTHROPIC_BASE_URL"] == (port if backend.namespaced else "http://llm.local")
    assert ("ANTHROPIC_UNIX_SOCKET" in env) is not backend.namespaced
    assert {env[name] for name in env if name.endswith("_MODEL")} == {"claude-haiku-5-5"}
    arguments = (work_of(session) / "args.txt").read_text()
    assert "--permission-prompts none" in arguments
    assert "--model claude-haiku-5-5" in arguments


async def test_an_older_version_is_not_told_what_it_does_not_know(
    session: Session, make_program: MakeProgram
) -> None:
    program = make_program('echo "$@" > args.txt\n' + says(OK), version="2.1.200")
    await answer(runtime_of(NOWHERE, program), session, "x")
    assert "--permission-prompts" not in (work_of(session) / "args.txt").read_text()


async def test_what_is_missing_is_told_when_the_task_comes_in_and_when_it_begins(session: Session) -> None:
    missing = runtime_of(NOWHERE, Path("/nowhere/claude"))
    no_key = ClaudeCodeRuntime(ClaudeCli(claude_binary()), ModelAccess(Upstream(NOWHERE), MODEL))
    for runtime, told in ((missing, "CLAUDE_CODE_PATH"), (no_key, "needs a key: set CLAUDE_API_KEY")):
        assert not runtime.found()
        with pytest.raises(FieldRefused, match=told):
            runtime.check(session.spec)
        with pytest.raises(AgentError, match=told):
            await answer(runtime, session, "x")
    assert runtime_of(NOWHERE).found()
    runtime_of(NOWHERE).check(session.spec)
