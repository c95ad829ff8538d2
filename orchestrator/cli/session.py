"""Every command's way to the supervisor: the common options, the connection, and one call of Trio.

The invariant: the unix socket of the state directory is taken where it exists, else the TCP address with
the token of the environment or of the state directory; what was said on the command line wins over both.
Called by every command that talks to a supervisor.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import click

from orchestrator.cli.failure import UNREACHABLE, USAGE, Failed
from orchestrator.cli.output import Output
from orchestrator.cli.patience import patience

if TYPE_CHECKING:
    from orchestrator.client import Client, Unreachable
    from orchestrator.config import Settings

T = TypeVar("T")

MAX_TOKEN_BYTES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a supervisor is, and what opens its door."""

    url: str
    socket: Path | None
    token: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """One command's output and its way to the supervisor."""

    output: Output
    url: str | None
    token_file: Path | None
    home: Path | None

    def address(self) -> Address:
        """Return where the supervisor should be; raises `Failed` for a token file that cannot be read."""
        from orchestrator.config import read_settings  # noqa: PLC0415 - pydantic, which `--help` need not pay

        settings = read_settings()
        if self.home is not None:
            settings = dataclasses.replace(settings, home=self.home.absolute())
        if self.url is None and self.token_file is None and settings.socket_path.is_socket():
            return Address("http://localhost", settings.socket_path, None)
        if self.url is not None:
            _judge_url(self.url)
        url = self.url or f"http://{_reachable(settings.host)}:{settings.port}"
        return Address(url.rstrip("/"), None, _token(settings, self.token_file))

    def open(self) -> AbstractAsyncContextManager[Client]:
        """Return a connection, to be used with `async with`."""
        from orchestrator.client import open_client  # noqa: PLC0415 - h11, which `--help` need not pay

        address = self.address()
        return open_client(address.url, socket=address.socket, token=address.token)

    def run(self, ask: Callable[[Client], Awaitable[T]], *, doing: str = "") -> T:
        """Connect, ask, and return the answer; `doing` is what a person reads who waits for it."""
        from orchestrator.cli.interruption import run_interruptible  # noqa: PLC0415 - as above
        from orchestrator.client import Unreachable  # noqa: PLC0415 - as above

        async def connected() -> T:
            async with self.open() as client:
                return await ask(client)

        with patience(doing):
            try:
                return run_interruptible(connected)
            except Unreachable as error:
                raise self._unreachable(error) from None

    def _unreachable(self, error: Unreachable) -> Failed:
        address = self.address()
        why = "nothing listens there" if error.nobody_listens else error.detail
        if address.socket is not None:
            fix = (
                "start it with `orchestrator serve`; if it is down, this socket is a leftover of its last run"
            )
        else:
            fix = "start it with `orchestrator serve`, or name another: --url, ORCHESTRATOR_PORT, --home"
        detail = f"cannot reach a supervisor at {address.socket or address.url}: {why}"
        return Failed(detail, code="unreachable", fix=fix, exit_status=UNREACHABLE)


def _judge_url(url: str) -> None:
    """Raise `Failed` for what can be no supervisor's address, whether one runs or not."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        detail = f"--url {url}: must be http://HOST:PORT or https://HOST:PORT"
        raise Failed(detail, code="usage", exit_status=USAGE)


def _reachable(host: str) -> str:
    """Return the host to connect to where a supervisor listens on this one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - these are listened on, not by us
    return f"[{host}]" if ":" in host else host


def _token(settings: Settings, file: Path | None) -> str | None:
    if file is None and settings.api_key is not None:
        return settings.api_key.get_secret_value()
    path = file or settings.token_path
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if file is None:
            return None  # no supervisor has run here; that it cannot be reached says more
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Failed(
            f"the token file {file} cannot be read: {reason}", code="usage", exit_status=USAGE
        ) from None


def supervised(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options that every one has, and a `Session` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
    @click.option("--url", metavar="URL", help="The supervisor's address, instead of the local socket.")
    @click.option("--token-file", type=click.Path(path_type=Path), help="Where the token is kept.")
    @click.option("--home", type=click.Path(path_type=Path), help="The supervisor's state directory.")
    @functools.wraps(command)
    def wrapped(
        *, as_json: bool, url: str | None, token_file: Path | None, home: Path | None, **arguments: object
    ) -> T:
        return command(Session(Output(as_json=as_json), url, token_file, home), **arguments)

    return wrapped
