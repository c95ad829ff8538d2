"""Listeners and shutdown: bounded in time whatever clients do, and nothing of others is removed."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest
import trio
import trio.testing

from orchestrator.api.server import KEEPALIVE_IDLE_S, open_listeners
from orchestrator.client import Unreachable
from orchestrator.client_http import Address, open_answer
from orchestrator.core import events as e
from orchestrator.errors import SettingsError
from tests.kit.served import TOKEN, read_answer, serve_api

AUTH = f"Authorization: Bearer {TOKEN}"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize(("path", "more"), [("/events?after=0", ""), ("/ws?after=0", UPGRADE)])
async def test_client_that_stopped_reading_does_not_hold_up_the_shutdown(
    tmp_path: Path, path: str, more: str, *, unix: bool
) -> None:
    async with serve_api(tmp_path, grace_s=0.3) as served:
        for _ in range(40):
            await served.store.record(
                *(e.SystemDegraded(part="x", detail="y" * 20_000) for _ in range(20))
            )  # more than all buffers of the kernel hold
        stream = (
            await trio.open_unix_socket(str(served.socket))
            if unix
            else await trio.open_tcp_stream("127.0.0.1", served.port)
        )
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{AUTH}\r\n{more}\r\n".encode())
            await stream.receive_some(100)
            await trio.testing.wait_all_tasks_blocked(0.2)
            served.shutdown.set()
            with trio.fail_after(5):
                await served.stopped.wait()


async def test_streams_are_told_to_end_before_the_server_goes(tmp_path: Path) -> None:
    async with serve_api(tmp_path, grace_s=10) as served:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        address = Address(served.url, None, headers)
        async with served.open_client() as client, client.open_socket() as websocket:
            answer = await open_answer(address, "/events", {})
            await answer.read_some()
            served.shutdown.set()
            with pytest.raises(Unreachable, match="1001"):
                await anext(websocket)
            while await answer.read_some():  # to its end: a whole answer, not one cut off
                pass
            answer.close_nowait()
        with trio.fail_after(5):
            await served.stopped.wait()


async def test_idle_connections_are_closed_at_once(tmp_path: Path) -> None:
    async with serve_api(tmp_path, grace_s=30) as served, served.open_raw() as stream:
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await read_answer(stream)).status == 200
        served.shutdown.set()
        with trio.fail_after(5):
            await served.stopped.wait()


async def test_an_answer_comes_in_one_piece(tmp_path: Path) -> None:
    async with serve_api(tmp_path) as served, served.open_raw() as stream:
        for path, method in (("/health", "GET"), ("/nowhere", "GET"), ("/health", "HEAD")):
            before = data_segments(stream)
            await stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{AUTH}\r\n\r\n".encode())
            if method == "HEAD":
                assert b"content-length" in await stream.receive_some()
            else:
                assert (await read_answer(stream)).body
            assert data_segments(stream) == before + 1


def data_segments(stream: trio.SocketStream) -> int:
    """Return how many TCP segments with data have come: `tcpi_data_segs_in` of Linux's `tcp_info`."""
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int(struct.unpack_from("I", info, 152)[0])


async def test_nobody_can_connect_after_the_shutdown(tmp_path: Path) -> None:
    async with serve_api(tmp_path) as served:
        served.shutdown.set()
        await served.stopped.wait()
        with pytest.raises(OSError, match=r"refused|all attempts"):
            await trio.open_tcp_stream("127.0.0.1", served.port)


async def test_agent_cut_by_one_client_leaving_is_not_noticed_by_others(tmp_path: Path) -> None:
    async with serve_api(tmp_path) as served:
        for _ in range(10):
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            await stream.send_all(f"GET /ws HTTP/1.1\r\nHost: localhost\r\n{AUTH}\r\n{UPGRADE}\r\n".encode())
            await stream.receive_some(100)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.socket.close()
        await served.store.record(e.SystemDegraded(part="x", detail="y"))
        assert json.loads((await served.ask("GET", "/queue/stats")).body)["active"] == 0


def test_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "o.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    listeners = open_listeners("127.0.0.1", 0, path)
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(SettingsError, match="another orchestrator listens"):
            open_listeners("127.0.0.1", 0, path)
        assert path.is_socket()
    finally:
        for listener in listeners:
            listener.close()


def test_machine_that_went_without_a_word_is_missed() -> None:
    (listener,) = open_listeners("127.0.0.1", 0, None)
    with listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S


def test_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.sock"
    path.write_text("precious")
    with pytest.raises(SettingsError, match="is no socket"):
        open_listeners("127.0.0.1", 0, path)
    assert path.read_text() == "precious"


def test_taken_port_is_one_line_that_names_it(tmp_path: Path) -> None:
    (first,) = open_listeners("127.0.0.1", 0, None)
    with first:
        port = first.getsockname()[1]
        with pytest.raises(
            SettingsError, match=f"127.0.0.1:{port}: Address already in use .*ORCHESTRATOR_PORT"
        ):
            open_listeners("127.0.0.1", port, tmp_path / "o.sock")
    assert not (tmp_path / "o.sock").exists()


def test_unknown_host_is_a_setting_error() -> None:
    with pytest.raises(SettingsError, match="has no address"):
        open_listeners("no-such-host.invalid", 0, None)
