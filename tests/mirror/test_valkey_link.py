"""A server that refuses, lies, drips or never ends is one clear line, without our password."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from orchestrator.mirror.address import Address
from orchestrator.mirror.link import Link, open_link
from orchestrator.mirror.trouble import MirrorTrouble
from orchestrator.mirror.writing import Marker, begin_queue, claim, scan, write_entries
from tests.kit.valkey import Valkey, running_valkey

PASSWORD = "a-password-of-ours"
MARKER = Marker("journal", 1)


def url(port: int, scheme: str = "valkey", user: str = f":{PASSWORD}") -> Address:
    address = Address.of(SecretStr(f"{scheme}://{user}@localhost:{port}/0"))
    assert address is not None
    return address


def refused(act: Callable[[], object]) -> MirrorTrouble:
    """Return the trouble that this meets, without a word that nobody may read."""
    with pytest.raises(MirrorTrouble) as caught:
        act()
    assert PASSWORD not in str(caught.value)
    assert len(caught.value.detail) < 300
    assert caught.value.detail.isprintable()
    return caught.value


@contextmanager
def opened(address: Address) -> Iterator[Link]:
    with closing(open_link(address)) as link:
        yield link


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey"), "--requirepass", PASSWORD) as valkey:
        valkey.client.connection_pool.connection_kwargs["password"] = PASSWORD
        yield valkey


def test_each_refusal_says_what_would_help(valkey: Valkey) -> None:
    right, wrong = url(valkey.port), url(valkey.port, user=f":{PASSWORD}2")
    assert "refuses the user or the password" in refused(lambda: open_link(wrong)).detail
    with opened(url(valkey.port, user="")) as link:
        assert "asks for a password" in refused(lambda: claim(link, "journal")).detail
    valkey.client.config_set("maxmemory", 1)
    with opened(right) as link:
        trouble = refused(lambda: write_entries(link, MARKER, []))
        assert ("no memory left" in trouble.detail, trouble.passing) == (True, False)
    valkey.client.config_set("maxmemory", 0)
    valkey.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with opened(right) as link:
        assert "is a replica" in refused(lambda: write_entries(link, MARKER, [])).detail
    valkey.client.execute_command("REPLICAOF", "NO", "ONE")
    valkey.client.execute_command("ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "+ping", "+select")
    with opened(url(valkey.port, user=f"weak:{PASSWORD}")) as link:
        assert "may not do" in refused(lambda: begin_queue(link)).detail
    with opened(right) as link:  # and with the right to it, all is well
        assert claim(link, "journal") is None
        assert write_entries(link, MARKER, [])
    valkey.client.connection_pool.disconnect()


def test_tls_is_checked_and_spoken(valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def pass_on(connection: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", valkey.port))
        with far, context.wrap_socket(connection, server_side=True) as near:
            while asked := near.recv(65536):
                far.sendall(asked)
                near.sendall(far.recv(65536))

    with serving(pass_on) as port:
        assert "not trusted" in refused(lambda: open_link(url(port, "valkeys"))).detail
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with opened(url(port, "valkeys")) as link:
            assert link.do([("PING",)]) == [b"PONG"]


@contextmanager
def serving(manner: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve one connection after the other in this manner; return the port."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                with closing(listener.accept()[0]) as connection, suppress(OSError):
                    manner(connection)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def says(reply: bytes) -> Callable[[socket.socket], None]:
    """Return the manner of logging in well, and then answering everything with this."""

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"+OK\r\n")
        while connection.recv(65536):
            connection.sendall(reply)

    return speak


def endless(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"+OK\r\n")
    connection.recv(65536)
    connection.sendall(b"$2000000000\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def drips(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"+OK\r\n*3\r\n")
    with suppress(TimeoutError):
        while True:
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                if not connection.recv(65536):
                    return
            connection.sendall(b"+")


LIARS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "garbage": (says(b"\0\xff" * 40 + b"\r\n"), "no Valkey"),
    "http": (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no Valkey"),
    "nested": (says(b"*1\r\n" * 100_000), "no Valkey"),
    "wrong shape": (says(b":1\r\n:1\r\n"), "no answer to SCAN"),
    "no array": (says(b"*-5\r\n"), "no answer to SCAN"),
    "too much": (endless, "more than"),
    "drips": (drips, "no answer within"),
    "hangs up": (lambda connection: None, "closed the connection"),
    "moved": (says(b"-MOVED 1 10.0.0.1:1\r\n"), "part of a cluster"),
    "loading": (says(b"-LOADING wait\r\n"), "loading"),
    "echoes us": (says(f"-ERR bad {PASSWORD} \x1b[31m\x07\r\n".encode()), "it refuses"),
}


@pytest.mark.parametrize(("manner", "said"), LIARS.values(), ids=LIARS)
def test_a_server_that_lies_is_one_line(manner: Callable[[socket.socket], None], said: str) -> None:
    def ask(port: int) -> None:
        with opened(url(port)) as link:
            scan(link, 0, "orchestrator:task:")

    with serving(manner) as port:
        assert said in refused(lambda: ask(port)).detail


def test_nobody_there_and_no_such_host_are_told_apart() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    assert "nobody listens" in refused(lambda: open_link(url(port))).detail
    nowhere = Address.of(SecretStr(f"valkey://:{PASSWORD}@no-such-host.invalid"))
    assert nowhere is not None
    assert "cannot be reached" in refused(lambda: open_link(nowhere)).detail


def test_an_address_shows_no_user_and_no_password() -> None:
    address = Address.of(SecretStr(f"rediss://somebody:{PASSWORD}@[::1]:7000/3"))
    assert address is not None
    assert str(address) == "valkeys://[::1]:7000/3"
    assert PASSWORD not in repr(address)
    assert (address.user, address.database, address.in_the_open) == ("somebody", 3, False)
