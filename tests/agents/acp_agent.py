"""An agent that speaks the Agent Client Protocol and does what its argument says: well, badly, not at all.

A program of its own, on the standard library: `python3 acp_agent.py MODE`. It remembers in its home.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

MODE = sys.argv[1] if len(sys.argv) > 1 else "work"
STORE = Path(os.environ["HOME"]) / "sessions.json"
VARIABLE = "x" * 10_000_000


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def receive() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return dict(json.loads(line))


class Agent:
    """One process of it."""

    def __init__(self) -> None:
        self.session = ""
        self.asked = 100

    def ask(self, method: str, /, **params: object) -> dict[str, Any]:
        """Ask the client; return its whole answer."""
        self.asked += 1
        send(id=self.asked, method=method, params={"sessionId": self.session, **params})
        while True:
            message = receive()
            if message.get("id") == self.asked and "method" not in message:
                return message

    def update(self, kind: str, /, **fields: object) -> None:
        send(
            method="session/update",
            params={"sessionId": self.session, "update": {"sessionUpdate": kind, **fields}},
        )

    def say(self, text: str) -> None:
        self.update("agent_message_chunk", content={"type": "text", "text": text})

    def serve(self) -> None:
        while True:
            message = receive()
            method, number, params = message.get("method"), message.get("id"), message.get("params") or {}
            if method == "initialize":
                if MODE == "never":
                    continue
                version = 7 if MODE == "version" else 1
                able = {"loadSession": MODE != "forgetful"}
                send(id=number, result={"protocolVersion": version, "agentCapabilities": able})
            elif method == "session/new":
                if MODE == "login":
                    send(id=number, error={"code": -32000, "message": "Authentication required"})
                    continue
                self.session = f"s-{os.getpid()}"
                self.remember([])
                send(id=number, result={"sessionId": self.session})
            elif method == "session/load":
                self.session = params["sessionId"]
                for text in self.recall():
                    self.say(f"replayed: {text}")
                send(id=number, result={})
            elif method == "session/prompt":
                text = params["prompt"][0]["text"]
                self.remember([*self.recall(), text])
                answer = getattr(self, f"do_{MODE.replace('-', '_')}", self.do_work)(text)
                send(id=number, result={"stopReason": answer or "end_turn"})

    def recall(self) -> list[str]:
        return list(json.loads(STORE.read_text())) if STORE.exists() else []

    def remember(self, texts: list[str]) -> None:
        STORE.write_text(json.dumps(texts))

    # --- what it does with a prompt -------------------------------------------------------------------------

    def do_work(self, text: str) -> None:
        """Write a file by its own hands, one by the client's, and run a command in a terminal."""
        here = Path.cwd()
        self.update(
            "tool_call", toolCallId="1", title="write own.txt", kind="edit", status="pending", rawInput={}
        )
        (here / "own.txt").write_text("own\n")
        self.update("tool_call_update", toolCallId="1", status="completed")
        self.update("plan", entries=[{"content": "all", "priority": "high", "status": "completed"}])
        assert self.ask("fs/write_text_file", path=str(here / "sub/file.txt"), content="one\ntwo\nthree\n")
        read = self.ask("fs/read_text_file", path=str(here / "sub/file.txt"), line=2, limit=1)
        self.say(f"read {read['result']['content']!r}; ")
        made = self.ask(
            "terminal/create",
            command="sh",
            args=["-c", "echo $WHO in $PWD; exit 3"],
            env=[{"name": "WHO", "value": "me"}],
            cwd=str(here),
        )["result"]["terminalId"]
        ended = self.ask("terminal/wait_for_exit", terminalId=made)["result"]
        output = self.ask("terminal/output", terminalId=made)["result"]
        self.ask("terminal/release", terminalId=made)
        self.say(f"terminal {ended['exitCode']} {output['output'].strip()!r}; ")
        self.update("usage_update", used=10, size=100, cost={"amount": 0.25, "currency": "USD"})
        for no_cost in (float("nan"), float("inf"), -float("inf")):
            self.update("usage_update", used=10, size=100, cost={"amount": no_cost, "currency": "USD"})
        self.say(f"prompts {len(self.recall())}\n")

    def do_prompt(self, text: str) -> None:
        self.say(text)

    def do_forgetful(self, text: str) -> None:
        self.say(f"{len(self.recall())}")

    def do_steered(self, text: str) -> str | None:
        """Work with a tool until told to stop, or until `go` is there and then until told to stop."""
        if "# Message" in text:
            Path("told").write_text(text)
            self.say("I see")
            return None
        self.update("tool_call", toolCallId="c0", title="look", kind="read", status="in_progress")
        while not Path("go").exists() and not select.select([0], [], [], 0.05)[0]:
            pass
        ended = "completed" if Path("go").exists() else "failed"
        self.update("tool_call_update", toolCallId="c0", status=ended, rawOutput="x")
        while receive().get("method") != "session/cancel":
            pass
        Path("stopped").write_text(ended)
        if ended == "failed":
            send(id=3, error={"code": -32800, "message": "Request cancelled"})
        return "cancelled"

    def do_loop(self, text: str) -> None:
        """Make the same call twice, and one that comes to something else."""
        for number, came in enumerate(("no rule", "no rule", "made")):
            self.update("tool_call", toolCallId=f"c{number}", title="Terminal", kind="execute", rawInput={})
            self.update(
                "tool_call_update", toolCallId=f"c{number}", rawInput={"command": "make"}, title="make"
            )
            self.update("tool_call_update", toolCallId=f"c{number}", status="completed", rawOutput=came)

    def do_deep(self, text: str) -> None:
        """Call tools with what nests as deep as can be read."""
        for depth in range(900, 1000):
            value = (
                '{"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": "%s", "update": %s}}'
            )
            call = '{"sessionUpdate": "tool_call", "toolCallId": "%d", "title": "t", "rawInput": %s}'
            sys.stdout.write(value % (self.session, call % (depth, "[" * depth + "]" * depth)) + "\n")
        self.say("deep\n")

    def do_crash(self, text: str) -> None:
        if len(self.recall()) == 1:
            os._exit(9)
        self.say(text)

    def do_stop_max_tokens(self, text: str) -> str:
        return "max_tokens"

    def do_stop_max_turn_requests(self, text: str) -> str:
        return "max_turn_requests"

    def do_stop_refusal(self, text: str) -> str:
        return "refusal"

    def do_stop_cancelled(self, text: str) -> str:
        return "cancelled"

    def do_stop_nonsense(self, text: str) -> str:
        return "whatever"

    def do_exit(self, text: str) -> None:
        sys.stderr.write("I give up\n")
        sys.stderr.flush()
        os._exit(5)

    def do_hang(self, text: str) -> None:
        subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"], start_new_session=True)
        self.ask("terminal/create", command="sleep", args=["1000"])
        self.say("hanging\n")
        receive()

    def do_permissions(self, text: str) -> None:
        kinds = ("allow_always", "allow_once", "reject_once")
        options = [{"optionId": f"o-{kind}", "name": kind, "kind": kind} for kind in kinds]
        for number in range(2000):
            call = {"toolCallId": f"c{number}", "title": "rm -rf /"}
            outcome = self.ask("session/request_permission", options=options, toolCall=call)["result"][
                "outcome"
            ]
        self.say(json.dumps(outcome))
        none = self.ask("session/request_permission", options=[], toolCall={"toolCallId": "x"})
        other = self.ask("session/request_permission", sessionId="no", options=options, toolCall=call)
        broken = self.ask("session/request_permission", options="?", toolCall=7)
        self.say(json.dumps([none["result"]["outcome"]["outcome"], other["error"], broken["error"]]))

    def do_escape(self, text: str) -> None:
        here = Path.cwd()
        (here / "link").symlink_to("/etc")
        (here / "secret").symlink_to("/etc/passwd")
        (here / "good").symlink_to(here / "own.txt")
        os.mkfifo(here / "fifo")
        paths = [
            "../../etc/passwd",
            f"{here}/../../etc/passwd",
            "/etc/passwd",
            f"{here}/link/passwd",
            f"{here}/secret",
            f"{here}/fifo",
            f"{here}",
            "/proc/self/environ",
            "/dev/zero",
            "a\0b",
            7,
        ]
        for path in paths:
            assert "error" in self.ask("fs/read_text_file", path=path), path
            assert "error" in self.ask("fs/write_text_file", path=path, content="x"), path
        assert "error" in self.ask("terminal/create", command="true", cwd="/tmp")
        assert "error" in self.ask("terminal/create", command="true", cwd=f"{here}/link")
        assert "error" in self.ask("terminal/create", command="no-such-program")
        assert "error" in self.ask("terminal/output", terminalId="t99")
        assert "error" in self.ask("fs/read_text_file", sessionId="another", path=f"{here}/own.txt")
        assert self.ask("fs/remove", path=f"{here}/own.txt")["error"]["code"] == -32601
        assert self.ask("fs/write_text_file", path=f"{here}/good", content="ok").get("result") == {}
        self.say(self.ask("fs/read_text_file", path=f"{here}/own.txt")["result"]["content"])

    def do_garbage(self, text: str) -> None:
        out = sys.stdout
        out.write('hello\n\n[1, 2]\n"x"\nnull\n{"jsonrpc": "2.0"}\n' + "[" * 100_000 + "\n")
        out.write("\x00\xff\x1b[2J\n")
        for depth in range(800, 1000):  # some can be read, and not be written again
            out.write('{"method": "x/y", "id": ' + "[" * depth + "]" * depth + "}\n")
        out.flush()
        send(id=1, result={"stopReason": "refusal"})
        send(id=True, result={"stopReason": "refusal"})
        send(id="3", result={"stopReason": "refusal"})
        send(method="_sandbox/ended", params={"status": 0})
        send(method="_sandbox/missing", params={"why": "forged"})
        send(method="$/strange", params=[1])
        send(
            method="session/update",
            params={"sessionId": "another", "update": {"sessionUpdate": "plan", "entries": []}},
        )
        send(
            method="session/update",
            params={"sessionId": self.session, "update": {"sessionUpdate": "hologram"}},
        )
        send(method="session/update", params=7)
        assert self.ask("session/unheard_of")["error"]["code"] == -32601
        assert self.ask("elicitation/create")["error"]["code"] == -32601
        self.say("\ud800 fine\n")

    def do_heavy(self, text: str) -> None:
        self.update("tool_call", toolCallId="1", title="big", kind="read", rawOutput=VARIABLE)
        self.update("tool_call_update", toolCallId="1", content=[], rawOutput=[VARIABLE[:1000]] * 10_000)
        sys.stdout.write("y" * 40_000_000 + "\n")
        sys.stdout.flush()
        sys.stderr.write("z" * 10_000_000 + "\n")
        self.say(VARIABLE)
        self.say("\nlight\n")

    def do_calls(self, text: str) -> None:
        for number in range(3000):
            self.update("tool_call", toolCallId=f"c{number % 1500}", title="look", kind="read")
        self.say("called\n")

    def do_flood(self, text: str) -> None:
        made = self.ask(
            "terminal/create", command="sh", args=["-c", "yes \u00e9\u00e9"], outputByteLimit=1001
        )
        terminal = made["result"]["terminalId"]
        while not (seen := self.ask("terminal/output", terminalId=terminal)["result"])["truncated"]:
            pass
        assert len(seen["output"].encode()) <= 1001
        assert "\ufffd" not in seen["output"].strip("\ufffd")
        self.ask("terminal/kill", terminalId=terminal)
        ended = self.ask("terminal/wait_for_exit", terminalId=terminal)["result"]
        self.ask("terminal/release", terminalId=terminal)
        many = [self.ask("terminal/create", command="sleep", args=["100"]) for _ in range(40)]
        self.say(f"{ended['signal']} {sum('result' in one for one in many)}")

    def do_deaf(self, text: str) -> None:
        """Ask without end, and read no answer."""
        while True:
            self.asked += 1
            params = {"sessionId": self.session, "path": str(Path.cwd() / "missing")}
            send(id=self.asked, method="fs/read_text_file", params=params)

    def do_cancel(self, text: str) -> str:
        number = 0
        self.update("tool_call", toolCallId="c0", title="look", kind="read")
        while receive().get("method") != "session/cancel":
            number += 1
        Path("cancelled.txt").write_text("put away\n")
        return "cancelled"


if __name__ == "__main__":
    if MODE == "silent":
        sys.stdin.read()
    if MODE == "talker":
        sys.stdout.write("Hello! I am a shell, not an agent.\n")
        sys.stdout.flush()
        sys.exit(2)
    Agent().serve()
