"""What a step does, in the words of the tools that the request offers.

An ACTION is one of

    {"run": "shell command"}
    {"read": "path"}
    {"write": "path", "text": "..."}
    {"edit": "path", "old": "...", "new": "..."}
    {"tool": "name", "input": {...}}         a tool by its own name, offered or not

and any of them may hold `"malformed": "text"`, which is then streamed instead of the input's JSON. The
same script so drives Claude Code (Bash, Read, Write, Edit), Anthropic's own tools (bash,
str_replace_based_edit_tool) and tools with other names whose schema has properties that say what they are.
Where only a shell is offered, it does everything. A request that offers no tools at all gets none called.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from typing import Any

from tests.kit.messages.script import BadScriptError

Action = Mapping[str, Any]
Call = tuple[str, dict[str, Any]]

#: Names of tools, best first, for what an action does; and what the properties of their input may be called.
NAMES = {
    "run": ("Bash", "bash", "shell", "run_shell", "run_command", "run", "execute", "exec"),
    "read": ("Read", "read_file", "read", "view", "view_file", "open_file"),
    "write": ("Write", "write_file", "write", "create_file", "create"),
    "edit": ("Edit", "edit_file", "edit", "str_replace", "replace"),
}
PROPERTIES = {
    "command": ("command", "cmd", "script"),
    "path": ("file_path", "path", "filename", "file"),
    "text": ("content", "file_text", "text", "contents"),
    "old": ("old_string", "old_str", "old"),
    "new": ("new_string", "new_str", "new"),
}
TEXT_EDITOR = re.compile(r"str_replace_(based_edit_tool|editor)")
WORKING_DIRECTORY = re.compile(r"(?:[Ww]orking directory|CWD|cwd)(?: is)?: *(/[^\s<]*)")

REPLACE = (
    "import sys; p, o, n = sys.argv[1:]; t = open(p).read(); "
    "assert t.count(o) == 1; open(p, 'w').write(t.replace(o, n))"
)


def calls_of(step: Mapping[str, Any], request: Mapping[str, Any]) -> list[tuple[Call, str | None]]:
    """Return the tool calls of a step, each with the malformed text to stream instead, if any."""
    actions = step.get("do") or []
    actions = [actions] if isinstance(actions, Mapping) else actions
    return [(_call(action, request), action.get("malformed")) for action in actions]


def _call(action: Action, request: Mapping[str, Any]) -> Call:
    if "tool" in action:
        return action["tool"], dict(action.get("input") or {})
    offered = {str(tool.get("name")): tool for tool in request.get("tools") or ()}
    kind = next((kind for kind in NAMES if kind in action), None)
    if kind is None:
        raise BadScriptError(
            f"an action runs, reads, writes, edits or names a tool, not {dict(action)!r:.200}"
        )
    wanted = _wanted(kind, action, request if "Write" in offered or "Read" in offered else {})
    found = _by_name(kind, wanted, offered) or _by_text_editor(kind, wanted, offered)
    if found is None and kind != "run":
        found = _by_name("run", {"command": _as_shell(kind, wanted)}, offered)
    if found is None:
        raise BadScriptError(f"no tool of {sorted(offered)} can {kind}")
    return found


def _wanted(kind: str, action: Action, request: Mapping[str, Any]) -> dict[str, str]:
    """Return the action's values by our names; paths absolute where the client tells where it works."""
    if kind == "run":
        return {"command": action["run"]}
    path = str(action[kind])
    told = WORKING_DIRECTORY.search(
        str(request.get("system") or "") + str((request.get("messages") or [""])[0])
    )
    if told and not path.startswith("/"):
        path = f"{told[1].split(chr(92))[0].rstrip('/')}/{path}"
    return {"path": path} | {name: action[name] for name in ("text", "old", "new") if name in action}


def _by_name(kind: str, wanted: Mapping[str, str], offered: Mapping[str, Any]) -> Call | None:
    """Fill in the first tool whose name fits and whose schema has a property for every value."""
    for name in NAMES[kind]:
        if name not in offered:
            continue
        schema = (offered[name].get("input_schema") or {}).get("properties")
        if schema is None:  # one of Anthropic's own, whose schema the model knows
            schema = {"command": {}}
        filled = {
            next((name for name in PROPERTIES[value] if name in schema), ""): text
            for value, text in wanted.items()
        }
        if "" not in filled:
            return name, filled
    return None


def _by_text_editor(kind: str, wanted: Mapping[str, str], offered: Mapping[str, Any]) -> Call | None:
    name = next((name for name in offered if TEXT_EDITOR.fullmatch(name)), None)
    if name is None or kind == "run":
        return None
    command = {"read": "view", "write": "create", "edit": "str_replace"}[kind]
    ours = {"path": "path", "text": "file_text", "old": "old_str", "new": "new_str"}
    return name, {"command": command} | {ours[value]: text for value, text in wanted.items()}


def _as_shell(kind: str, wanted: Mapping[str, str]) -> str:
    path = shlex.quote(wanted["path"])
    if kind == "read":
        return f"cat {path}"
    if kind == "write":
        text = base64.b64encode(wanted["text"].encode()).decode()
        return f"mkdir -p $(dirname {path}) && echo {text} | base64 -d > {path}"
    return (
        f"python3 -c {shlex.quote(REPLACE)} {path} {shlex.quote(wanted['old'])} {shlex.quote(wanted['new'])}"
    )
