"""What kept us from a model's provider, in one line that names the host and what to mend.

A failed connection comes as a chain of exceptions, of which a client library shows the outermost; what is
worth telling is at its root. The invariant: a certificate that is not trusted is told apart from what passes
by itself. Callers: both ways to a provider, `upstream` and `claude.sdk`.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from orchestrator.core.trouble import ProviderFailure, Trouble

PROVIDER_URL = "https://api.anthropic.com"
#: Causes that are looked at, of one failure.
_MOST = 20


def place_of(url: str) -> tuple[str, int]:
    """Return the host and the port that a provider's address names."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def unreachable(url: str, error: BaseException) -> ProviderFailure:
    """Return what a connection that was not made, or broke, means."""
    host, port = place_of(url)
    roots = list(_chain(error))
    for root in roots:
        if isinstance(root, ssl.SSLCertVerificationError):
            why = f"the certificate of {host} is not trusted ({root.verify_message})"
            return ProviderFailure(Trouble.UNTRUSTED, f"{why}: SSL_CERT_FILE names who is")
    for root in roots:
        if isinstance(root, ssl.SSLError):
            return ProviderFailure(Trouble.NETWORK, f"{host}:{port} does not speak TLS: {root!s:.200}")
        if isinstance(root, socket.gaierror):
            return ProviderFailure(Trouble.NETWORK, f"the name {host} has no address: {root.strerror}")
        if isinstance(root, OSError) and root.errno:
            why = os.strerror(root.errno)
            return ProviderFailure(Trouble.NETWORK, f"no connection to {host}:{port}: {why}")
    if any("Timeout" in type(each).__name__ for each in roots):
        return ProviderFailure(Trouble.NETWORK, f"{host}:{port} does not answer")
    said = f"{type(roots[-1]).__name__}: {roots[-1]!s:.300}"
    return ProviderFailure(Trouble.NETWORK, f"{host}:{port}: {said}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what led to it, the members of groups too."""
    found: list[BaseException | None] = [error]
    for _ in range(_MOST):
        if not found:
            return
        each = found.pop(0)
        if each is not None:
            yield each
            found += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
            found.append(each.__cause__ or each.__context__)
