"""A git server that misbehaves, on a port of its own: mute, slow, full of garbage, or gone in mid-pack.

It speaks HTTP as far as each manner goes. A mirror reaches it through a gateway of the test's, as the product
asks for TLS and this has none: what git does with such a far side is the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-%s\r\n\r\n"
COMMIT = b"1" * 40

Manner = Callable[[trio.SocketStream], Awaitable[None]]


def packet(text: bytes) -> bytes:
    """Return a line of git's protocol."""
    return b"%04x%s" % (len(text) + 4, text)


ADVERTISEMENT = (
    packet(b"# service=git-upload-pack\n")
    + b"0000"
    + packet(COMMIT + b" HEAD\0side-band-64k ofs-delta symref=HEAD:refs/heads/main\n")
    + packet(COMMIT + b" refs/heads/main\n")
    + b"0000"
)


async def mute(stream: trio.SocketStream) -> None:
    """Accept, and never say a word."""
    while await stream.receive_some():
        continue


async def drips(stream: trio.SocketStream) -> None:
    """Answer with an endless body, a byte at a time."""
    await stream.receive_some()
    await stream.send_all(HEAD % b"advertisement")
    while True:
        with trio.move_on_after(0.05):
            await trio.sleep_forever()
        await stream.send_all(b"0")


async def garbage(stream: trio.SocketStream) -> None:
    """Answer with what is no git and no text."""
    await stream.receive_some()
    await stream.send_all(HEAD % b"advertisement" + bytes(range(256)) * 64)


async def endless(stream: trio.SocketStream) -> None:
    """Answer with references for ever, as fast as they are taken."""
    await stream.receive_some()
    await stream.send_all(HEAD % b"advertisement" + packet(b"# service=git-upload-pack\n") + b"0000")
    number = 0
    while True:
        number += 1
        await stream.send_all(b"".join(packet(COMMIT + b" refs/x/%d-%d\n" % (number, n)) for n in range(500)))


async def elsewhere(stream: trio.SocketStream) -> None:
    """Send whoever asks to the metadata address of a cloud."""
    await stream.receive_some()
    to = b"http://169.254.169.254/latest/meta-data/info/refs?service=git-upload-pack"
    await stream.send_all(b"HTTP/1.1 302 Found\r\nLocation: " + to + b"\r\nContent-Length: 0\r\n\r\n")


async def mid_pack(stream: trio.SocketStream) -> None:
    """Advertise a branch, begin its pack, and hang up."""
    asked = bytes(await stream.receive_some())
    if asked.startswith(b"GET"):
        await stream.send_all(HEAD % b"advertisement" + ADVERTISEMENT)
    else:
        pack = b"PACK\0\0\0\2\0\0\0\7" + b"\x9d\x0fx\x9c" + b"\x55" * 200
        await stream.send_all(HEAD % b"result" + packet(b"NAK\n") + packet(b"\1" + pack))


async def run(manner: Manner, *, task_status: trio.TaskStatus[int]) -> None:
    """Serve until cancelled; the port is told when it is open."""

    async def once(stream: trio.SocketStream) -> None:
        try:
            await manner(stream)
        except trio.BrokenResourceError:
            return

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(once, listeners)
