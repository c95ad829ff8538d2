"""A Messages API whose model follows a script: a program of its own, and what tests hold of it.

    with scripted_api() as api:
        prompt = "Please. " + script({"do": {"run": "echo hi > a.txt"}}, {"say": "done"}, agent="a-1")
        ... run a client with api.env() and that prompt ...
        assert [request.how for request in api.messages()] == ["served", "served"]

`tests.kit.messages.script` says what scripts and steps are, `tools` what a step can do, `faults` what can go
wrong, `server` what can be set for the whole API, `record` what is logged. By hand:
`python -m tests.kit.messages_api --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import trio

from tests.kit.measured import unmeasured
from tests.kit.messages import record
from tests.kit.messages.certificate import make_certificate
from tests.kit.messages.connection import tls_of
from tests.kit.messages.record import Request
from tests.kit.messages.script import script
from tests.kit.messages.server import Api

__all__ = ["Request", "ScriptedApi", "make_certificate", "script", "scripted_api"]

ROOT = Path(__file__).resolve().parents[2]
KEY = "dummy"
READY_S = 30.0
STOP_S = 10.0
LINE_BYTES = 65536
BACKLOG = 512


class ScriptedApi:
    """The process of one API, its address, and its log."""

    def __init__(
        self, directory: Path, *, unix: Path | None = None, tls: bool = False, **settings: object
    ) -> None:
        self.log = directory / "requests.jsonl"
        self.said = directory / "messages_api.log"
        self.settings = settings
        self.socket = unix
        self.port = 0
        self.ca: Path | None = None
        self._certificate: Path | None = None
        if tls:
            self._certificate, self.ca = make_certificate(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: list[Request] | None = None

    # --- the process ---------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the process, again on the same port, and wait until it listens."""
        place = ["--unix", str(self.socket)] if self.socket else ["--port", str(self.port)]
        tls = ["--tls", str(self._certificate)] if self._certificate else []
        with self.said.open("ab") as said:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.kit.messages_api",
                    *place,
                    *tls,
                    "--log",
                    str(self.log),
                    "--held",
                ],
                cwd=ROOT,
                env=unmeasured(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        try:
            self.port = int(self._tell(self.settings)["port"])
        except BaseException:
            self.kill()
            raise
        return self

    def change(self, **settings: object) -> None:
        """Change settings from now on; None takes one back."""
        self.settings = {**self.settings, **settings}
        self._tell(settings)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, while it runs."""
        assert self._process is not None
        return self._process

    def _tell(self, settings: Mapping[str, object]) -> dict[str, Any]:
        to, back = self.process.stdin, self.process.stdout
        assert to is not None
        assert back is not None
        with suppress(BrokenPipeError):
            to.write(json.dumps(settings).encode() + b"\n")
            to.flush()
        ready, _, _ = select.select([back], [], [], READY_S)
        line = back.readline() if ready else b""
        assert line, f"the scripted API does not answer: {self.said.read_text(errors='replace')[-3000:]}"
        return dict(json.loads(line))

    def stop(self) -> None:
        """Stop the process: what it was answering ends as "the API was stopped"."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a crash would: connections are reset or closed, the log has no word of it."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the scripted API did not stop within {STOP_S} s") from None
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()

    # --- where it is ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL for clients; with a unix socket it only says what goes into the Host header."""
        if self.socket:
            return "http://llm.local"
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self.port}"

    def env(self, key: str = KEY) -> dict[str, str]:
        """Return the environment by which Claude Code and the SDK find it."""
        there = {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": key}
        if self.socket:
            there["ANTHROPIC_UNIX_SOCKET"] = str(self.socket)
        if self.ca:
            there |= {"NODE_EXTRA_CA_CERTS": str(self.ca), "SSL_CERT_FILE": str(self.ca)}
        return there

    # --- what it saw ---------------------------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """Return all requests so far, as they arrived; after the end of `scripted_api`, too."""
        if self._requests is not None:
            return self._requests
        return record.read(self.log.read_text().splitlines(keepends=True)) if self.log.exists() else []

    def messages(self, agent: str | None = None) -> list[Request]:
        """Return the requests for messages so far, of one agent or of all."""
        return [
            request
            for request in self.requests()
            if request.method == "POST"
            and request.path.partition("?")[0] == "/v1/messages"
            and agent in {None, request.agent}
        ]

    def arrivals(self, agent: str | None = None) -> list[float]:
        """Return when the requests for messages arrived, in seconds of the monotonic clock."""
        return [request.arrived_s for request in self.messages(agent)]

    def most_at_once(self) -> int:
        """Return how many requests for messages were in flight at once, at most."""
        return max((request.in_flight for request in self.messages()), default=0)

    def remember(self) -> None:
        """Keep what the log says, which will be removed."""
        self._requests = self.requests()


@contextmanager
def scripted_api(
    *, unix: Path | None = None, tls: bool = False, port: int = 0, **settings: object
) -> Iterator[ScriptedApi]:
    """Run an API on an ephemeral port of 127.0.0.1, or on a unix socket; see `server` for the settings."""
    with tempfile.TemporaryDirectory(prefix="messages-") as directory:
        api = ScriptedApi(Path(directory), unix=unix, tls=tls, **settings)
        api.port = port
        try:
            yield api.start()
        finally:
            api.stop()
            api.remember()


# --- the program -------------------------------------------------------------------------------------------


async def _listen(place: argparse.Namespace) -> list[trio.SocketListener]:
    if not place.unix:
        return list(await trio.open_tcp_listeners(place.port, host="127.0.0.1", backlog=BACKLOG))
    with suppress(FileNotFoundError):
        place.unix.unlink()
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(str(place.unix))
    place.unix.chmod(0o666)  # agents may run as another user
    listener.listen(BACKLOG)
    return [trio.SocketListener(listener)]


def _say(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _obey(api: Api, descriptor: int, answer: Mapping[str, object]) -> None:
    """Change settings, line by line as whoever started the program writes them, until that one has gone."""
    rest = b""
    async with trio.lowlevel.FdStream(os.dup(descriptor)) as stream:
        while data := await stream.receive_some(LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                api.change(json.loads(line))
                _say(answer)


async def _serve(place: argparse.Namespace, log: record.RequestLog) -> None:
    listeners = await _listen(place)
    name = listeners[0].socket.getsockname()
    answer = {"port": 0 if place.unix else name[1], "listening": str(place.unix or f"127.0.0.1:{name[1]}")}
    served: list[trio.abc.Listener[Any]] = list(listeners)
    if place.tls:
        served = [trio.SSLListener(listener, tls_of(place.tls)) for listener in listeners]
    api = Api(json.loads(place.settings.read_text()) if place.settings else {}, log)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def until_told() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            async def until_left() -> None:
                await _obey(api, sys.stdin.fileno(), answer)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_told)
            nursery.start_soon(trio.serve_listeners, api.serve, served)
            if place.held:
                nursery.start_soon(until_left)
            else:
                _say(answer)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or, with --held, the end of the input; print the port as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kit.messages_api", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; 0, the default: any that is free")
    parser.add_argument("--unix", type=Path, help="listen on this unix socket instead")
    parser.add_argument("--tls", metavar="PEM", help="speak TLS with this key and certificate chain")
    parser.add_argument("--settings", type=Path, metavar="JSON", help="see tests/kit/messages/server.py")
    parser.add_argument("--log", type=Path, default=Path("/dev/stderr"), help="where the request log goes")
    parser.add_argument(
        "--held",
        action="store_true",
        help="take settings from the input, one JSON line each; leave at its end",
    )
    place = parser.parse_args(arguments)
    log = record.RequestLog(place.log)
    try:
        trio.run(_serve, place, log)
    finally:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
