"""Listens on 127.0.0.1 in the network that it was started in, and hands the sockets over: a program.

Arguments: the descriptor of the socket to hand them over by, and the ports. It waits for nobody. Whether
the loopback is up is seen from how it refuses, before anybody listens. Run by `sandbox.inlet`, by a Python
without site packages, so it keeps to modules that are quick to import.
"""

from __future__ import annotations

import _socket
import errno
import sys

BACKLOG = 64


def listen(port: int) -> _socket.socket:
    """Return a socket that listens where programs inside will reach it."""
    made = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    made.bind(("127.0.0.1", port))
    knock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    if (answer := knock.connect_ex(("127.0.0.1", port))) != errno.ECONNREFUSED:
        raise SystemExit(f"the loopback does not answer: {errno.errorcode.get(answer, answer)}")
    made.listen(BACKLOG)
    return made


channel = _socket.socket(fileno=int(sys.argv[1]))
made = [listen(int(number)) for number in sys.argv[2:]]
rights = b"".join(one.fileno().to_bytes(4, sys.byteorder) for one in made)
channel.sendmsg([b"made"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
