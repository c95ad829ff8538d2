"""What Claude Code tells of its work: into the agent's log, the count of tools, its pulse, and its result.

The invariant: no line is an error. Types that are not known are logged and passed over, what has another
shape than expected counts as a sign of life alone, and the log stays within bounds. Caller: `claude_code`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.agents.base import MAX_TEXT, Output
from orchestrator.agents.claude_dictation import Dictation
from orchestrator.agents.lines import TurnLog
from orchestrator.agents.stream_json import LineParser, Noise, Said
from orchestrator.core.liveness import PROTOCOL, Evidence, fingerprint, of_tool
from orchestrator.core.model import NO_USAGE, Usage
from orchestrator.core.text import cleaned, tail_of

#: Characters of a tool's input, of a result that failed, and of an event, in the log.
MAX_INPUT, MAX_COMPLAINT, MAX_EVENT = 2000, 500, 300
#: Calls that are remembered until their results come.
MAX_CALLS = 1000
#: Denied tools that are told one by one.
MAX_DENIED = 20
#: What is told by other lines already, or says nothing to people.
_SILENT = {"stream_event", "keep_alive", "control_response"}
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}


@dataclass(frozen=True, slots=True)
class Result:
    """How Claude Code says that a prompt was answered."""

    #: `subtype` says "success" of failures, too.
    is_error: bool
    text: str
    #: What it counted; what counts is what went through the door.
    usage: Usage
    #: What a refusal or an error was about, as far as it is told.
    why: str
    #: The tools that it was not allowed to use.
    denied: tuple[str, ...]


class Telling:
    """Takes what one run of the program writes."""

    def __init__(
        self,
        output: Output,
        count_tools: Callable[[int], Awaitable[None]],
        note: Callable[[Evidence], None],
        dictation: Dictation,
    ) -> None:
        """Take the log, the count of tools, where signs of life are noted, and what the program is told."""
        self._output = output
        self._count_tools = count_tools
        self._note = note
        self._dictation = dictation
        self._log = TurnLog(output)
        self._parser = LineParser()
        self._text = ""
        #: By its id, the name of each call that has no result yet, and the fingerprint of its input.
        self._calls: dict[str, tuple[str, str]] = {}
        #: What it counted, of all its results.
        self.usage = NO_USAGE
        #: The last result, once it has come.
        self.result: Result | None = None

    @property
    def text(self) -> str:
        """The end of what was said."""
        said = self.result.text if self.result is not None and self.result.text else self._text
        return tail_of(said.encode("utf-8", "replace"), MAX_TEXT)

    async def take(self, chunk: bytes) -> None:
        """Take a piece of the program's output; raises `BudgetExceeded` where it has used too many tools."""
        for line in self._parser.feed(chunk):
            await self._take(line)

    async def complain(self, chunk: bytes) -> None:
        """Take a piece of what the program writes on its standard error."""
        await self._log.add("stderr", chunk)

    async def finish(self) -> None:
        """Take what was left without an end."""
        for line in self._parser.finish():
            await self._take(line)
        await self._log.finish()

    async def _take(self, line: Said | Noise) -> None:
        if isinstance(line, Noise):
            await self._say(f"[{line.why}] {line.text}")
            return
        if line.kind != "keep_alive":
            self._note(PROTOCOL)
        match line.kind:
            case "assistant":
                await self._dictation.answered()
                await self._take_answer(line.data)
            case "user" if self._dictation.takes(line.data):
                self.result = None  # there will be another
            case "user":
                await self._take_results(line.data)
            case "result":
                await self._take_result(line.data)
            case kind if kind not in _SILENT:
                await self._say(_event(kind, line.data))

    async def _take_answer(self, data: Mapping[str, Any]) -> None:
        for block in _blocks(data):
            if block.get("type") == "text" and isinstance(block.get("text"), str):
                self._text = block["text"]
                await self._say(self._text)
            elif block.get("type") == "tool_use":
                name, given = str(block.get("name"))[:100], block.get("input")
                if len(self._calls) < MAX_CALLS:
                    self._calls[str(block.get("id"))[:100]] = (name, fingerprint(given))
                await self._say(f"[{name}] {_cut(_json(given), MAX_INPUT)}")

    async def _take_results(self, data: Mapping[str, Any]) -> None:
        results = [block for block in _blocks(data) if block.get("type") == "tool_result"]
        for block in results:
            call = self._calls.pop(str(block.get("tool_use_id"))[:100], None)
            if call is not None:
                self._note(of_tool(*call, _text_of(block.get("content"))))
            if block.get("is_error") is True:
                await self._say(f"[failed] {_cut(_text_of(block.get('content')), MAX_COMPLAINT)}")
        if results:
            await self._count_tools(len(results))

    async def _take_result(self, data: Mapping[str, Any]) -> None:
        self._dictation.end()
        self.result = result_of(data)
        if not self.result.is_error:
            await self._dictation.answered(last=True)
        self.usage = self.usage.plus(self.result.usage)
        for name in self.result.denied[:MAX_DENIED]:
            await self._output("system", f"Claude Code was not allowed to use {name}")

    async def _say(self, text: str) -> None:
        await self._log.add("stdout", text.encode("utf-8", "replace") + b"\n")


def result_of(data: Mapping[str, Any]) -> Result:
    """Return what a `result` line says; one that does not say that all is well is an error."""
    text, errors, denials = data.get("result"), data.get("errors"), data.get("permission_denials")
    text = text if isinstance(text, str) else ""
    told = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
    why = text or told or str(data.get("subtype"))
    denied = denials if isinstance(denials, list) else []
    names = [each.get("tool_name") for each in denied if isinstance(each, dict)]
    return Result(
        is_error=data.get("is_error") is not False,
        text=text,
        usage=_usage_of(data.get("usage")),
        why=_cut(why, MAX_COMPLAINT),
        denied=tuple(_cut(str(name), 100) for name in names),
    )


def _usage_of(counts: object) -> Usage:
    found = counts if isinstance(counts, dict) else {}
    numbers = {ours: found.get(theirs) for ours, theirs in _COUNTS.items()}
    return Usage(
        **{
            name: n
            for name, n in numbers.items()
            if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 40
        }
    )


def _blocks(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the blocks of a message, where it has any."""
    message = data.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield block


def _text_of(content: object) -> str:
    """Return a tool result's text, which comes bare or in blocks."""
    if isinstance(content, list):
        return " ".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return str(content)


def _event(kind: str, data: Mapping[str, Any]) -> str:
    """Return a line for an event that is only told."""
    subtype = data.get("subtype")
    name = f"{kind[:100]}/{subtype[:100]}" if isinstance(subtype, str) else kind[:100]
    if name == "system/init":
        version, model = str(data.get("claude_code_version"))[:50], str(data.get("model"))[:100]
        return f"[{name}] Claude Code {version}, model {model}"
    rest = {key: value for key, value in data.items() if key not in {"type", "subtype", "session_id", "uuid"}}
    return f"[{name}] {_cut(_json(rest), MAX_EVENT)}"


def _json(value: object) -> str:
    """Return what was JSON as it was; it was read where there was more room for what nests deep."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "[too deep]"


def _cut(text: str, most: int) -> str:
    one_line = " ".join(text[: 4 * most].split())
    return cleaned(one_line if len(one_line) <= most else f"{one_line[:most]} [cut]")
