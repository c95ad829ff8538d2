"""One connection to a Valkey, by the blocking client of redis-py: the only importer of it.

The invariant: whatever the server does, a question is answered within `ANSWER_S`, by at most `MOST_BYTES`, or
raises `MirrorTrouble` and nothing else; after that the link is of no use. It is never tried again here:
redis-py would block for seconds. Every function of this module blocks: `thread` calls them, one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.mirror.address import Address
from orchestrator.mirror.trouble import MirrorTrouble, nonsense, printable, refusal

if TYPE_CHECKING:
    import socket

#: Seconds for a connection, and for the answers to one call: together with `valkey.LONGEST_PAUSE_S` less than
#: the two seconds after which a Valkey that is back must be equal again.
CONNECT_S = 1.0
ANSWER_S = 1.0
#: Seconds for all that is said in one go.
CALL_S = 4.0
#: Of the answers to one call; nothing that is asked for here is as long.
MOST_BYTES = 4 * 1024 * 1024
#: Bytes and commands that are sent in one piece.
PIECE_BYTES = 256 * 1024
PIECE_COMMANDS = 500

Command = tuple[str | bytes | int, ...]
#: What is answered: bytes, numbers, lists of these, None, or an error of redis-py.
Reply = Any


class _Bounded:
    """A socket that ends with its patience, and takes no more than its ration."""

    def __init__(self, wrapped: socket.socket) -> None:
        self._wrapped = wrapped
        self.renew(time.monotonic() + CALL_S)

    def renew(self, latest: float) -> None:
        """Begin a new question, to be answered by `latest` of the monotonic clock."""
        self._deadline, self._ration = min(latest, time.monotonic() + ANSWER_S), MOST_BYTES

    def recv(self, size: int) -> bytes:
        """Receive; raises `TimeoutError`, or `OverflowError` beyond the ration."""
        self._await()
        received = self._wrapped.recv(size)
        self._ration -= len(received)
        return received

    def recv_into(self, buffer: bytearray) -> int:
        """Receive, as `recv` does."""
        self._await()
        received = self._wrapped.recv_into(buffer)
        self._ration -= received
        return received

    def _await(self) -> None:
        if self._ration < 0:
            raise OverflowError(f"an answer of more than {MOST_BYTES} bytes")
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._wrapped.settimeout(left_s)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a socket has
        return getattr(self._wrapped, name)


class Link:
    """A connection that is open, until something goes wrong with it."""

    def __init__(self, connection: Any, address: Address) -> None:  # noqa: ANN401 - a half typed library's
        self._connection, self._address = connection, address
        self._open = True
        self.begin()

    def begin(self) -> None:
        """Begin something that may take `CALL_S` in all, however many questions it has."""
        self._latest = time.monotonic() + CALL_S

    def ask(self, commands: Sequence[Command]) -> list[Reply]:
        """Send the commands and return their answers, errors among them."""
        if not self._open:
            raise MirrorTrouble("the connection is closed", passing=True)
        try:
            self._connection._sock.renew(self._latest)  # noqa: SLF001 - ours
            packed = self._connection.pack_commands(commands)
            self._connection.send_packed_command(packed, check_health=False)
            return [self._answer() for _ in commands]
        except Exception as error:
            self.close()
            raise _told(error, self._address) from None

    def do(self, commands: Sequence[Command]) -> list[Reply]:
        """Send the commands and return their answers; raises the first refusal among them.

        What is asked of a key of another type is answered with None.
        """
        return [self._granted(reply) for reply in self.ask(commands)]

    def transact(self, commands: Sequence[Command]) -> list[Reply]:
        """Have the commands done at one moment, and return their answers, as `do` does."""
        *queued, done = self.ask([("MULTI",), *commands, ("EXEC",)])
        for reply in queued:
            self._granted(reply)
        if not isinstance(self._granted(done), list) or len(done) != len(commands):
            self.close()
            raise nonsense("no answers to a transaction")
        return [self._granted(reply) for reply in done]

    def close(self) -> None:
        """Let the connection go."""
        self._open = False
        self._connection.disconnect()

    def _granted(self, reply: Reply) -> Reply:
        if not isinstance(reply, Exception):
            return reply
        if "WRONGTYPE" in str(reply):
            return None
        self.close()
        raise _told(reply, self._address)

    def _answer(self) -> Reply:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - it is there by now

        try:
            return self._connection.read_response(disconnect_on_error=False)
        except ResponseError as error:
            return error


def open_link(address: Address) -> Link:
    """Connect and log in; raises `MirrorTrouble`."""
    # It takes a quarter of a second to import, which only who has a Valkey pays, in this thread.
    from redis.backoff import NoBackoff  # noqa: PLC0415 - as above
    from redis.connection import Connection, SSLConnection  # noqa: PLC0415 - as above
    from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415 - as above
    from redis.retry import Retry  # noqa: PLC0415 - as above

    kind = SSLConnection if address.tls else Connection

    class Bounded(kind):  # type: ignore[misc, valid-type]
        """A connection whose socket is bounded from the first answer on."""

        def _connect(self) -> Any:  # noqa: ANN401 - redis-py's own
            return _Bounded(super()._connect())

    try:
        connection: Any = Bounded(
            host=address.host,
            port=address.port,
            db=address.database,
            username=address.user,
            password=address.password.get_secret_value() if address.password else None,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        connection.connect()
    except Exception as error:
        raise _told(error, address) from None
    return Link(connection, address)


def _told(error: Exception, address: Address) -> MirrorTrouble:
    """Return in our words what went wrong."""
    from redis import exceptions as r  # noqa: PLC0415 - as above

    match error:
        case MirrorTrouble():
            return error
        case r.RedisError(status_code=str()) | r.ResponseError() | r.AuthenticationError():
            return refusal(error, address)
        case r.TimeoutError() | TimeoutError():
            return MirrorTrouble(f"no answer within {ANSWER_S:g} s", passing=True)
        case r.ConnectionError() | OSError():
            return _away(address.hidden(printable(str(error))))
        case _:
            return nonsense(address.hidden(printable(f"{type(error).__name__}: {error}"))[:120])


def _away(said: str) -> MirrorTrouble:
    """Return the trouble of a connection that cannot be made, or has ended."""
    if "CERTIFICATE_VERIFY_FAILED" in said:
        fix = "its certificate is not trusted here (a CA of your own: SSL_CERT_FILE)"
        return MirrorTrouble(fix, passing=False)
    if "SSL" in said:
        return MirrorTrouble("it does not speak TLS as we do: is VALKEY_URL right?", passing=False)
    if "refused" in said:
        return MirrorTrouble("nobody listens there: is it running, and is VALKEY_URL right?", passing=True)
    if "closed by server" in said or "reset" in said or "Broken pipe" in said:
        return MirrorTrouble("it closed the connection", passing=True)
    if "max number of clients" in said:
        return MirrorTrouble("it has as many clients as it may have", passing=True)
    return MirrorTrouble(f"it cannot be reached: {said[:160]}", passing=True)
