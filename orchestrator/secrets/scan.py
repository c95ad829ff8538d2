"""The scan of all that would leave quarantine: held values first, then what the rules take for a secret.

It runs in a process of its own, because an expression over hostile bytes must neither hold the
loop nor outlive a kill: leaving the block ends it. The invariant: whatever goes wrong, too much, too slow, a
broken stream, a dead process, nothing leaves; and a finding never holds the value. Caller: `judging`.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Protocol

import trio

from orchestrator.errors import RepositoryError
from orchestrator.secrets.held import HeldValue
from orchestrator.secrets.ruleset import read_rules
from orchestrator.secrets.worker import Worker, open_worker
from sandbox.base import MIB, SandboxLaunchFailed

log = logging.getLogger(__name__)

#: Seconds that a process gets to be ready for a scan before scans start their own.
PREPARE_S = 10.0
#: Scans at once, whatever number of agents have something to be scanned; each has one process at a time.
MAX_PROCESSES = 2
#: Processes that one look is given, where each before was ended by somebody else.
MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one scan looks through; what is beyond blocks."""

    objects: int = 100_000
    bytes: int = 768 * MIB
    #: Bytes that come out of what is packed or encoded.
    unpacked: int = 128 * MIB
    #: By the wall and by the processor.
    seconds: int = 60


class SecretScanFailed(RepositoryError):
    """The scan for secrets could not be carried out, so nothing leaves."""

    status = 500


class Stream(Protocol):
    """Objects to be read from a descriptor, and whether they were all."""

    @property
    def fd(self) -> int:
        """Where they are read from."""
        ...

    async def finish(self) -> None:
        """Raise where they were not all."""
        ...


#: Opens the objects that `git rev-list --objects` lists for its arguments.
Opener = Callable[..., AbstractAsyncContextManager[Stream]]


class Extent(Enum):
    """How much is looked for."""

    #: The values that we hold ourselves: never left out.
    HELD = "held"
    #: Those, and whatever looks like a secret.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret that was found: its rule and place, and an HMAC by which it is known again."""

    rule: str
    #: file, name or commit.
    kind: str
    #: The file's path, or the commit's id.
    path: str
    line: int | None
    hmac: str

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.kind == "commit":
            return f"the message or author of commit {self.path}"
        if self.kind == "name":
            return f"the name {self.path}"
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a scan came to; where there was more than it looks through, `trouble` says of what."""

    findings: tuple[Finding, ...]
    trouble: str = ""

    @property
    def clean(self) -> bool:
        """Whether what was scanned may leave."""
        return not self.findings and not self.trouble


class Scanner:
    """Scans with the values that we hold and the key of this installation."""

    def __init__(
        self, held: Collection[HeldValue] = (), key: bytes = b"", bounds: Bounds | None = None
    ) -> None:
        self._bounds = bounds or Bounds()
        self._held = tuple(held)
        self._key = base64.b64encode(key or secrets.token_bytes(32)).decode()
        self._rules = ""
        self._places = trio.CapacityLimiter(MAX_PROCESSES)
        self._warm: Worker | None = None
        self._wanted = trio.Event()
        #: Set while no process is on its way to be the one that is ready.
        self._settled = trio.Event()
        self._settled.set()

    async def run(self) -> None:
        """Keep one process ready from when a scan is expected, which saves each scan its start."""
        while True:
            await self._wanted.wait()
            self._wanted, self._settled = trio.Event(), trio.Event()
            try:
                async with open_worker() as worker:
                    if await self._prepare(worker):
                        self._warm = worker
                        self._settled.set()
                        await worker.wait()
                    else:
                        log.warning("no process got ready for the scan for secrets within %s s", PREPARE_S)
            except SandboxLaunchFailed as error:  # the next scan fails with the same words
                log.warning("no process can be kept ready for the scan for secrets: %s", error)
            finally:
                self._warm = None
                self._settled.set()

    def expect(self) -> None:
        """Let a process get ready, because there will be something to scan before long."""
        if self._warm is None and self._settled.is_set():
            self._wanted.set()

    @property
    def ready(self) -> bool:
        """Whether a process waits for the next scan."""
        return self._warm is not None and self._warm.idle

    async def scan(
        self,
        objects: Opener,
        *,
        base: str,
        tip: str,
        extent: Extent = Extent.ALL,
        own: Collection[HeldValue] = (),
    ) -> Report:
        """Look through every object that the tip has beyond the base; what the base has is no finding.

        `own` are values that are held for this one alone. Raises `SecretScanFailed` where it could not be
        begun; what the content did to it is in the report.
        """
        await self._read_rules()
        held = [_told(each) for each in (*self._held, *own)]
        order = {"extent": extent.value, "held": held, "key": self._key, "bounds": asdict(self._bounds)}
        found: list[Finding] = []
        trouble = f"the scan for secrets did not end within {self._bounds.seconds} s"
        async with self._places:  # whoever waits for its turn has all of its time yet
            with trio.move_on_after(self._bounds.seconds):
                found, trouble = await self._look(objects, (tip, f"^{base}", "--"), {**order, "only": None})
                if found and not trouble:
                    # Where this takes too long, what was found stands.
                    found = await self._without_known(objects, base, order, found)
        return Report(tuple(found), trouble)

    async def _without_known(
        self, objects: Opener, base: str, order: Mapping[str, object], found: list[Finding]
    ) -> list[Finding]:
        """Return what the base does not have: first its files of the same names are asked, then all of it."""
        paths = sorted({each.path for each in found if each.kind == "file"})[:1000]
        for places in ((paths,) if paths else ()) + ((),):
            wanted = {**order, "only": sorted({each.rule for each in found})}
            known, trouble = await self._look(objects, ("--no-walk", base, "--", *places), wanted)
            if trouble:
                return found
            had = {(each.rule, each.hmac) for each in known}
            found = [each for each in found if (each.rule, each.hmac) not in had]
            if not found:
                break
        return found

    async def _look(
        self, objects: Opener, revisions: Sequence[str], order: Mapping[str, object]
    ) -> tuple[list[Finding], str]:
        """Let a process look through the objects; return what it found, and what was too much for it."""
        for _ in range(MAX_TRIES):
            async with objects(*revisions) as stream:
                answer = await self._ask(json.dumps(order), stream.fd)
                if answer is None:
                    continue
                if not answer:
                    return [], "something in the change was too much for the process that looks for secrets"
                found, trouble = _read(answer)
                if not trouble:
                    await stream.finish()
                return found, trouble
        return [], f"the process that looks for secrets was ended from outside, {MAX_TRIES} times"

    async def _ask(self, order: str, objects: int) -> bytes | None:
        """Let the process that is ready carry the order out; where it is busy, or there is none, another."""
        await self._settled.wait()
        if self._warm is not None and self.ready:
            return await self._tell(self._warm, order, objects)
        try:
            async with open_worker() as worker:
                return await self._tell(worker, order, objects)
        except SandboxLaunchFailed as error:
            raise SecretScanFailed(f"the scan for secrets cannot be started: {error}") from error
        finally:
            self.expect()

    async def _read_rules(self) -> None:
        if not self._rules:
            self._rules = json.dumps(await trio.to_thread.run_sync(read_rules))

    async def _prepare(self, worker: Worker) -> bool:
        """Let a process make all that a scan needs of the rules, and return whether it has."""
        order = json.dumps({"prepare": True, "bounds": asdict(self._bounds)})
        with trio.move_on_after(PREPARE_S):
            await self._read_rules()
            return bool(await self._tell(worker, order, None))
        return False

    async def _tell(self, worker: Worker, order: str, objects: int | None) -> bytes | None:
        rules = f', "rules": {self._rules}' if worker.fresh else ""
        return await worker.ask(f"{order[:-1]}{rules}}}".encode(), objects)


def _told(held: HeldValue) -> dict[str, object]:
    """Return a value as the process is told it."""
    forms = [base64.b64encode(form).decode() for form in sorted(held.forms)]
    return {"name": held.name, "value": base64.b64encode(held.value).decode(), "forms": forms}


def _read(answer: bytes) -> tuple[list[Finding], str]:
    try:
        said = json.loads(answer)
        return [Finding(**each) for each in said["findings"]], said["too_much"] or ""
    except (ValueError, TypeError, KeyError):
        raise SecretScanFailed("the scan for secrets gave no answer that can be read") from None
