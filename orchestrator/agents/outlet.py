"""A backend whose sandboxes have a way outside: the egress proxy, on the sandbox's own loopback.

Runtimes and gates are given it for a backend and never know. The invariant: what is inside can reach the
proxy and nothing else, so that what it reaches is what the rules name. (In the tier of plain processes the
network is the host's: there the proxy is an offer, and nothing is enforced.) Caller: `supervise.run`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from orchestrator.agents.egress import Egress, Subject, open_egress
from orchestrator.core.egress import Rules
from sandbox.base import Backend, Sandbox, SandboxError, Spec
from sandbox.ports import LOOPBACK, Ports
from sandbox.wrapped import Wrapped

_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_NO_PROXY_NAMES = ("NO_PROXY", "no_proxy")
#: What programs inside mean by their own machine.
_OWN = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class _Lent(Ports):
    """Ports that a runtime reserved, and with them the proxy's."""

    whole: Ports | None = None


class Outlet(Wrapped):
    """See the module; made by `open_outlet`."""

    def __init__(self, inner: Backend, egress: Egress) -> None:
        super().__init__(inner)
        self._egress = egress

    @property
    def unanswered(self) -> int:
        """How often a host that may be reached did not answer."""
        return self._egress.unanswered

    @contextmanager
    def reserve_ports(self, count: int) -> Iterator[Ports]:
        """See `Backend`."""
        with self._inner.reserve_ports(count + 1) as whole:
            yield _Lent(whole.numbers[:count], whole.held[:count], whole)

    @asynccontextmanager
    async def open(self, spec: Spec) -> AsyncIterator[Sandbox]:
        """Start the command in a sandbox whose environment names the proxy; the task's own variables win."""
        with ExitStack() as ours:
            whole = spec.listen.whole if isinstance(spec.listen, _Lent) else None
            if whole is None:
                if spec.listen is not None:
                    raise SandboxError("the ports were not reserved by the backend that opens the sandbox")
                whole = ours.enter_context(self._inner.reserve_ports(1))
            *doors, port = whole.numbers
            env = {**proxy_environment(port, self._egress.rules, doors), **spec.env}
            async with self._inner.open(replace(spec, listen=whole, env=env)) as sandbox:
                *asked, own = sandbox.listeners
                sandbox.listeners = tuple(asked)
                self._egress.listen_nowait(own)
                yield sandbox


def proxy_environment(port: int, rules: Rules, doors: Iterable[int] = ()) -> Mapping[str, str]:
    """Return the variables by which programs find the proxy.

    What they mean by their own machine does not go through it, unless the operator lists just that: then of
    the loopback only the `doors` do not, ports at which we ourselves are reached.
    """
    hosts = [host for host in _OWN if host not in rules.loopback]
    if LOOPBACK not in hosts:
        hosts += [f"{LOOPBACK}:{door}" for door in doors]
    own = ",".join(hosts)
    found = dict.fromkeys(_PROXY_NAMES, f"http://{LOOPBACK}:{port}")
    return found | (dict.fromkeys(_NO_PROXY_NAMES, own) if own else {})


@asynccontextmanager
async def open_outlet(backend: Backend, rules: Rules, subject: Subject) -> AsyncIterator[Backend]:
    """Return a backend by which one agent reaches what the rules name; without rules, the backend itself."""
    if not rules.entries:
        yield backend
        return
    async with open_egress(subject, rules) as egress:
        yield Outlet(backend, egress)
