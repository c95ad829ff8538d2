"""Egress: an agent reaches what is listed, through a proxy that judges every host and every answer."""

from __future__ import annotations

import hashlib
import shutil
import socket
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pip
import pytest
import trio

from orchestrator.agents.egress import Egress, Subject, open_egress
from orchestrator.agents.outlet import open_outlet, proxy_environment
from orchestrator.core.egress import ALLOWANCE, Allowance, Rules
from orchestrator.core.events import EgressAllowed, EgressRefused
from sandbox.base import Backend, Directory, Spec
from sandbox.clock import RunningClock
from tests.agents.conftest import Log, OpenSession, spec_of, take_turn
from tests.agents.doors import Knocker
from tests.kit.until import seen


@dataclass
class Site:
    """A web site of ours on the loopback, and what it was asked."""

    port: int
    files: dict[str, bytes]
    asked: list[bytes]
    opened: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer requests by hand, one a connection; `echo` answers with what comes until the end."""
        self.opened += 1
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                chunk = await stream.receive_some(65536)
                if not chunk:
                    return
                head += chunk
                if head.startswith(b"echo"):
                    await self._echo(stream, head)
                    return
            self.asked.append(head)
            path = head.split(b" ")[1].decode()
            body = self.files.get(path)
            if path.startswith("/to/"):
                location = path.removeprefix("/to/").encode()
                await stream.send_all(
                    b"HTTP/1.1 302 Found\r\nlocation: " + location + b"\r\ncontent-length: 0\r\n\r\n"
                )
            elif body is None:
                await stream.send_all(b"HTTP/1.1 404 no\r\ncontent-length: 0\r\n\r\n")
            else:
                kind = b"text/html" if body.startswith(b"<") else b"application/octet-stream"
                top = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
                await stream.send_all(top + (b"" if head.startswith(b"HEAD") else body))

    async def _echo(self, stream: trio.SocketStream, heard: bytes) -> None:
        while chunk := await stream.receive_some(65536):
            heard += chunk
        await stream.send_all(heard + b" until the end")


@asynccontextmanager
async def open_site(files: dict[str, bytes] | None = None) -> AsyncIterator[Site]:
    """Serve while the block lasts."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    site = Site(listener.socket.getsockname()[1], files or {"/": b"<p>hello"}, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, site.serve, [listener])
        yield site
        nursery.cancel_scope.cancel()


class Resolver(trio.abc.HostnameResolver):
    """Answers as the test says, and differently each time where it says so."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: object, port: object, *rest: int) -> list[tuple[object, ...]]:  # type: ignore[override]
        """Answer."""
        name = host.decode() if isinstance(host, bytes) else str(host)
        self.asked.append(name)
        answers = self.names.get(name)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        """Refuse."""
        raise socket.gaierror(socket.EAI_NONAME, "no name is asked for")


@dataclass(frozen=True)
class Proxy:
    """An open egress proxy, its port, and what it told."""

    egress: Egress
    port: int
    log: Log

    @asynccontextmanager
    async def knock(self) -> AsyncIterator[Knocker]:
        """Connect."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Knocker(stream)

    async def say(self, words: bytes) -> bytes:
        """Say words on a connection of their own, and return the beginning of the answer."""
        async with self.knock() as knocker:
            await knocker.say(words)
            return bytes(await knocker.stream.receive_some(65536))

    async def connect(self, authority: str) -> bytes:
        """Ask for a tunnel."""
        return await self.say(b"CONNECT %b HTTP/1.1\r\nhost: x\r\n\r\n" % authority.encode())

    async def get(self, url: str, method: str = "GET") -> bytes:
        """Ask for a page."""
        async with self.knock() as knocker:
            words = (
                f"{method} {url} HTTP/1.1\r\nhost: x\r\nproxy-authorization: p\r\nconnection: close\r\n\r\n"
            )
            await knocker.say(words.encode())
            return await knocker.rest()

    def refused(self) -> list[str]:
        """Return the hosts that were refused, by the journal."""
        return [event.host for event in self.log.events if isinstance(event, EgressRefused)]

    def allowed(self) -> list[str]:
        """Return the places that were reached, by the journal."""
        return [f"{event.host}:{event.port}" for event in self.log.events if isinstance(event, EgressAllowed)]


def subject_of(log: Log) -> Subject:
    log.begin(spec_of("true"), "agent-1")
    return Subject("T-1", "agent-1", log.record, log.output, RunningClock())


@asynccontextmanager
async def open_proxy(log: Log, *entries: str, allowance: Allowance = ALLOWANCE) -> AsyncIterator[Proxy]:
    """Open a proxy with a listener on the loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, open_egress(subject_of(log), Rules.of(entries, allowance)) as egress:
        egress.listen_nowait(listener)
        yield Proxy(egress, listener.socket.getsockname()[1], log)


async def test_tunnel_passes_bytes_and_ends_of_both_sides(log: Log) -> None:
    async with (
        open_site() as site,
        open_proxy(log, f"127.0.0.1:{site.port}") as proxy,
        proxy.knock() as knocker,
    ):
        await knocker.say(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nhost: x\r\n\r\necho, and " % site.port)
        head = await knocker.stream.receive_some(65536)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"close" not in head
        await knocker.say(b"more")
        await knocker.stream.send_eof()
        assert await knocker.rest() == b"echo, and more until the end"
    assert proxy.allowed() == [f"127.0.0.1:{site.port}"]
    assert proxy.refused() == []


async def test_plain_http_goes_to_the_host_that_was_judged_with_a_head_of_ours(log: Log) -> None:
    async with open_site() as site, open_proxy(log, f"127.0.0.1:{site.port}") as proxy:
        for _ in range(2):
            answer = await proxy.get(f"http://127.0.0.1:{site.port}/")
            assert answer.endswith(b"<p>hello"), answer
        head = await proxy.get(f"http://127.0.0.1:{site.port}/?a=b", "HEAD")
        assert head.startswith(b"HTTP/1.1 404 ")
    assert b"host: 127.0.0.1:%d" % site.port in site.asked[0].lower()
    assert b"proxy" not in site.asked[0].lower()
    assert site.asked[2].startswith(b"HEAD /?a=b HTTP/1.1\r\n")
    assert proxy.allowed() == [f"127.0.0.1:{site.port}"], "one event a host"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:{other}",
        "127.1:{port}",
        "2130706433:{port}",
        "0x7f000001:{port}",
        "0177.0.0.1:{port}",
        "[::ffff:127.0.0.1]:{port}",
        "127.0.0.1.:{port}",
        "user@127.0.0.1:{port}",
        "127.0.0.1:{port}@evil.example",
        "localhost:{port}",
        "evil.example:{port}",
        "xn--pyp-7na.org:443",
        "169.254.169.254:80",
        "[fe80::1%25lo]:{port}",
        "127.0.0.1",
        "127.0.0.1:{port}/x",
        "127.0.0.1:0",
    ],
)
async def test_every_other_host_and_form_is_refused_with_an_event(log: Log, host: str) -> None:
    async with open_site() as site, open_proxy(log, f"127.0.0.1:{site.port}") as proxy:
        named = host.format(port=site.port, other=site.port % 60000 + 1)
        answers = [await proxy.connect(named), await proxy.connect(named)]
        if "/" not in named:
            answers.append(await proxy.get(f"http://{named}/"))
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 403 "}, answers
    assert (site.opened, proxy.allowed()) == (0, [])
    assert 1 <= len(proxy.refused()) <= 2, "one event a host, where both forms name the same"


@pytest.mark.parametrize(
    "words",
    [
        b"POST http://{}/ HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx",
        b"PUT http://{}/ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: {}\r\n\r\n",
        b"GET https://{}/ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET ftp://{}/ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_every_other_request_is_refused(log: Log, words: bytes) -> None:
    async with open_site() as site, open_proxy(log, f"127.0.0.1:{site.port}") as proxy:
        answer = await proxy.say(words.replace(b"{}", b"127.0.0.1:%d" % site.port))
    assert answer.startswith(b"HTTP/1.1 403 "), answer
    assert (site.opened, len(proxy.refused())) == (0, 1)


@pytest.mark.parametrize(
    "words",
    [
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
        b"GET http://x/ HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "a body", "huge headers"],
)
async def test_rude_client_is_told_so(log: Log, words: bytes) -> None:
    async with open_proxy(log, "x.example") as proxy:
        assert (await proxy.say(words))[:10] == b"HTTP/1.1 4"


async def test_redirect_is_a_request_of_its_own_and_judged_again(log: Log) -> None:
    async with open_site() as site, open_site() as inner, open_proxy(log, f"127.0.0.1:{site.port}") as proxy:
        elsewhere = f"http://127.0.0.1:{inner.port}/"
        answer = await proxy.get(f"http://127.0.0.1:{site.port}/to/{elsewhere}")
        assert f"location: {elsewhere}".encode() in answer.lower()
        assert (await proxy.get(elsewhere)).startswith(b"HTTP/1.1 403 ")
    assert inner.opened == 0


async def test_names_are_resolved_once_and_every_answer_is_judged(log: Log) -> None:
    resolver = Resolver(
        rebinding_example=[["127.0.0.1"], ["1.1.1.1"]],
        mixed_example=[["1.1.1.1", "10.0.0.1"]],
        mapped_example=[["::ffff:127.0.0.1"]],
        metadata_example=[["169.254.169.254"]],
        listed_example=[["127.0.0.1"]],
        meta_listed_example=[["169.254.169.254"]],
    )
    trio.socket.set_custom_hostname_resolver(resolver)
    async with open_site() as site:
        entries = ["*.example", f"listed.example:{site.port}", f"meta.listed.example:{site.port}"]
        async with open_proxy(log, *entries) as proxy:
            for name in ("rebinding", "mixed", "mapped", "metadata", "unknown"):
                assert (await proxy.connect(f"{name}.example:80")).startswith(b"HTTP/1.1 403 ")
            assert (await proxy.connect(f"meta.listed.example:{site.port}")).startswith(b"HTTP/1.1 403 ")
            assert (await proxy.connect(f"listed.example:{site.port}")).startswith(b"HTTP/1.1 200 ")
    assert len(resolver.asked) == 7
    assert proxy.allowed() == [f"listed.example:{site.port}"]
    details = {event.host: event.detail for event in log.events if isinstance(event, EgressRefused)}
    assert details["mixed.example"] == "is at 10.0.0.1, which is not public"
    assert "cannot be resolved" in details["unknown.example"]


async def test_host_that_does_not_answer_is_told_so(log: Log) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        async with open_proxy(log, place) as proxy:
            assert (await proxy.connect(place)).startswith(b"HTTP/1.1 502 ")
            assert (await proxy.get(f"http://{place}/")).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("allowance", "setting"),
    [
        (Allowance(up_mb=0.001), "SANDBOX_EGRESS_UP_MB"),
        (Allowance(down_mb=0.001), "SANDBOX_EGRESS_DOWN_MB"),
    ],
)
async def test_bytes_have_an_allowance_both_ways(log: Log, allowance: Allowance, setting: str) -> None:
    files = {"/": b"x" * 100_000}
    async with (
        open_site(files) as site,
        open_proxy(log, f"127.0.0.1:{site.port}", allowance=allowance) as proxy,
    ):
        async with proxy.knock() as knocker:
            await knocker.say(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nhost: x\r\n\r\n" % site.port)
            await knocker.stream.receive_some(65536)
            await knocker.say(b"GET / HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n")
            assert len(await knocker.rest()) < 2000
        await seen(proxy.refused, "the cut is told")
        assert (await proxy.connect(f"127.0.0.1:{site.port}")).startswith(b"HTTP/1.1 403 ")
    (refused,) = (event for event in log.events if isinstance(event, EgressRefused))
    assert refused.detail.startswith("is cut off")
    assert setting in refused.detail


async def test_a_plain_answer_beyond_the_allowance_is_cut_with_an_event(log: Log) -> None:
    async with (
        open_site({"/": b"x" * 100_000}) as site,
        open_proxy(log, f"127.0.0.1:{site.port}", allowance=Allowance(down_mb=0.01)) as proxy,
    ):
        url = f"http://127.0.0.1:{site.port}/"
        assert len(await proxy.get(url)) < 100_000
        assert proxy.refused() == ["127.0.0.1"]
        assert (await proxy.get(url)).startswith(b"HTTP/1.1 403 ")
    assert len(proxy.refused()) == 1


async def test_crowd_of_hosts_is_told_of_up_to_a_number(log: Log) -> None:
    async with open_proxy(log, "x.example") as proxy:
        for number in range(220):
            assert (await proxy.connect(f"h{number}.example:443")).startswith(b"HTTP/1.1 403 ")
    assert len(proxy.refused()) == 200


# --- from inside a sandbox ---------------------------------------------------------------------------------

KNOCK = """
import os, socket, urllib.request
names = sorted(name for name in os.environ if "proxy" in name.lower())
print(*names)
def reach(url):
    try: return urllib.request.urlopen(url, timeout=20).read().decode()
    except OSError as error: return type(error).__name__ + " " + str(error)
print(reach("http://127.0.0.1:{port}/"))
print(reach("http://127.0.0.1:{other}/"))
try: socket.create_connection(("127.0.0.1", {port}), 5); print("connected")
except OSError: print("refused")
"""


async def test_program_inside_reaches_what_is_listed_through_the_proxy_alone(
    open_session: OpenSession, backend: Backend, log: Log
) -> None:
    async with open_site() as site, open_site() as other:
        command = ("python3", "-c", KNOCK.format(port=site.port, other=other.port))
        rules = Rules.of([f"127.0.0.1:{site.port}"])
        async with open_outlet(backend, rules, subject_of(log)) as outlet:
            for _ in range(2):
                result = await take_turn(open_session(spec_of(*command), on=outlet))
        names, listed, unlisted, direct = result.text.splitlines()
    assert names == "HTTPS_PROXY HTTP_PROXY NO_PROXY http_proxy https_proxy no_proxy"
    assert listed == "<p>hello"
    assert "403" in unlisted
    assert direct == ("refused" if backend.namespaced else "connected"), "without a sandbox it is an offer"
    assert [event.name for event in log.events if event.name.startswith("egress")] == [
        "egress.allowed",
        "egress.refused",
    ]
    assert other.opened == 0


async def test_without_a_list_there_is_no_proxy_and_no_way(
    open_session: OpenSession, backend: Backend, log: Log
) -> None:
    async with open_site() as site, open_outlet(backend, Rules(), subject_of(log)) as outlet:
        assert outlet is backend
        command = ("python3", "-c", KNOCK.format(port=site.port, other=site.port))
        names, listed, _, direct = (
            await take_turn(open_session(spec_of(*command), on=outlet))
        ).text.splitlines()
    assert names == ""
    if backend.namespaced:
        assert ("hello" in listed, direct) == (False, "refused")
        assert site.opened == 0


async def test_runtime_has_its_own_ports_beside_the_proxys(
    backend: Backend, log: Log, open_session: OpenSession
) -> None:
    session = open_session(spec_of("true"))
    script = (
        "import socket, os; own = socket.create_connection(('127.0.0.1', {}));"
        " print(own.recv(9).decode(), os.environ['http_proxy'])"
    )
    async with open_outlet(backend, Rules.of(["pypi"]), subject_of(log)) as outlet:
        with outlet.reserve_ports(1) as ports:
            assert len(ports.numbers) == 1
            command = ("python3", "-c", script.format(ports.numbers[0]))
            async with outlet.open(Spec("a-1", command, session.workspace, listen=ports)) as sandbox:
                (listener,) = sandbox.listeners
                async with await listener.accept() as stream:
                    await stream.send_all(b"told")
                said = bytes(await sandbox.stdout.receive_some(999)).decode().split()
    assert said[0] == "told"
    assert said[1] not in {"", f"http://127.0.0.1:{ports.numbers[0]}"}


def test_own_machine_is_reached_without_the_proxy_unless_it_is_listed() -> None:
    assert proxy_environment(9, Rules.of(["pypi"]))["NO_PROXY"] == "localhost,127.0.0.1,::1"
    assert proxy_environment(9, Rules.of(["127.0.0.1:80"]))["NO_PROXY"] == "localhost,::1"
    assert proxy_environment(9, Rules.of(["127.0.0.1:80"]), [7])["NO_PROXY"] == "localhost,::1,127.0.0.1:7"
    assert "NO_PROXY" not in proxy_environment(9, Rules.of(["127.0.0.1:80", "localhost:80", "[::1]:80"]))


def wheel(path: Path) -> bytes:
    """Return a wheel with one module."""
    name = "greeter_of_ours"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{name}.py", "def greet(): return 'hello from the registry'\n")
        made.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        made.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path.read_bytes()


@pytest.mark.slow
async def test_package_installs_from_a_registry_that_is_listed_and_from_no_other(
    open_session: OpenSession, backend: Backend, log: Log, tmp_path: Path
) -> None:
    file = "greeter_of_ours-1.0-py3-none-any.whl"
    content = wheel(tmp_path / file)
    digest = hashlib.sha256(content).hexdigest()
    index = f'<!doctype html><a href="/files/{file}#sha256={digest}">{file}</a>'.encode()
    files = {"/simple/greeter-of-ours/": index, f"/files/{file}": content}
    session = open_session(spec_of("true"))
    assert isinstance(session.workspace, Directory)
    tools = session.workspace.path / "tools"
    shutil.copytree(Path(pip.__file__).parent, tools / "pip")  # a host's own Python may have none
    install = (
        "PYTHONPATH=tools python3 -m pip --isolated --disable-pip-version-check install"
        " --no-cache-dir --retries 0 --timeout 20 -q"
    )
    async with open_site(files) as site, open_site(files) as other:
        script = (
            f"{install} --target a --index-url http://127.0.0.1:{site.port}/simple greeter-of-ours && "
            "PYTHONPATH=a python3 -c 'import greeter_of_ours as g; print(g.greet())'; "
            f"{install} --target b --index-url http://127.0.0.1:{other.port}/simple greeter-of-ours"
            " 2>/dev/null || echo refused"
        )
        async with open_outlet(backend, Rules.of([f"127.0.0.1:{site.port}"]), subject_of(log)) as outlet:
            with trio.fail_after(50):
                result = await take_turn(replace(session, spec=spec_of("sh", "-c", script), backend=outlet))
    assert result.text.splitlines() == ["hello from the registry", "refused"], log.lines
    assert (other.opened, site.opened > 0) == (0, True)
