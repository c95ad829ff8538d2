"""The scan of all that would leave quarantine: held values first, then what the rules take for a secret.

Runs in a process of its own for each scan, because an expression over hostile bytes must neither hold the
loop nor outlive a kill: leaving the block ends it. The invariant: whatever goes wrong, too much, too slow, a
broken stream, a dead process, nothing leaves; and a finding never holds the value. Caller: `judging`.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import trio

from orchestrator.errors import RepositoryError
from orchestrator.secrets.held import HeldValue
from orchestrator.secrets.ruleset import read_rules
from sandbox.base import MIB, Exit, SandboxLaunchFailed
from sandbox.process import DEVNULL, open_child

#: How long one scan may take, by the wall and by the processor.
SCAN_S = 60.0
MAX_OBJECTS, MAX_BYTES = 100_000, 768 * MIB
#: Processes at once, whatever number of agents have something to be scanned.
MAX_PROCESSES = 2
_MEMORY = 4096 * MIB
_MAX_ANSWER = 16 * MIB
_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
_BOUNDS = (
    *("setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--"),
    *("prlimit", f"--as={_MEMORY}", f"--cpu={int(SCAN_S)}", "--core=0", "--nofile=64", "--"),
)
_BOOT = (
    "import sys\n"
    "sys.path[:0] = sys.argv[2:]\n"
    "from orchestrator.secrets.inside import main\n"
    "main(int(sys.argv[1]))\n"
)


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

    def __init__(self, held: Collection[HeldValue] = (), key: bytes = b"") -> None:
        self._held = [
            {
                "name": each.name,
                "value": base64.b64encode(each.value).decode(),
                "forms": [base64.b64encode(form).decode() for form in sorted(each.forms)],
            }
            for each in held
        ]
        self._key = base64.b64encode(key or secrets.token_bytes(32)).decode()
        self._rules: str | None = None
        self._places = trio.CapacityLimiter(MAX_PROCESSES)

    async def scan(self, objects: Opener, *, base: str, tip: str, extent: Extent = Extent.ALL) -> Report:
        """Look through every object that the tip has beyond the base; what the base has is no finding.

        Raises `SecretScanFailed` where it could not be begun; what the content did to it is in the report.
        """
        if self._rules is None:
            self._rules = json.dumps(await trio.to_thread.run_sync(read_rules))
        rules = self._rules if extent is Extent.ALL else "null"
        try:
            with trio.fail_after(SCAN_S):
                found, trouble = await self._look(objects, (tip, f"^{base}", "--"), rules, None)
                if found and not trouble:
                    found = await self._without_known(objects, base, rules, found)
        except trio.TooSlowError:
            return Report((), f"the scan for secrets did not end within {SCAN_S:g} s")
        return Report(tuple(found), trouble)

    async def _without_known(
        self, objects: Opener, base: str, rules: str, found: list[Finding]
    ) -> list[Finding]:
        """Return what the base does not have: first its files of the same names are asked, then all of it."""
        paths = sorted({each.path for each in found if each.kind == "file"})[:1000]
        for places in ((paths,) if paths else ()) + ((),):
            wanted = sorted({each.rule for each in found})
            known, trouble = await self._look(objects, ("--no-walk", base, "--", *places), rules, wanted)
            if trouble:
                return found
            had = {(each.rule, each.hmac) for each in known}
            found = [each for each in found if (each.rule, each.hmac) not in had]
            if not found:
                break
        return found

    async def _look(
        self, objects: Opener, revisions: Sequence[str], rules: str, only: Sequence[str] | None
    ) -> tuple[list[Finding], str]:
        """Let a process look through the objects; return what it found, and what was too much for it."""
        words = {
            "only": only,
            "held": self._held,
            "key": self._key,
            "bounds": {"objects": MAX_OBJECTS, "bytes": MAX_BYTES},
        }
        order = f'{json.dumps(words)[:-1]}, "rules": {rules}}}'.encode()
        async with self._places, objects(*revisions) as stream:
            answer, ended = await _run(order, stream.fd)
            if not answer:
                return (
                    [],
                    f"the scan for secrets ended with {ended}: something in the change was too much for it",
                )
            try:
                said = json.loads(answer)
                found = [Finding(**each) for each in said["findings"]]
                trouble: str = said["too_much"] or ""
            except (ValueError, TypeError, KeyError):
                raise SecretScanFailed("the scan for secrets gave no answer that can be read") from None
            if not trouble:
                await stream.finish()
        return found, trouble


async def _run(order: bytes, objects: int) -> tuple[bytes, Exit]:
    """Run the program on the objects; return its answer (nothing where it failed), and how it ended."""
    fd = _order_file(order)
    try:
        argv = (*_BOUNDS, sys.executable, "-I", "-S", "-c", _BOOT, str(fd), *_import_paths())
        answer = bytearray()
        async with open_child(argv, env=_ENV, stdin=objects, stderr=DEVNULL, pass_fds=(fd,)) as child:
            while len(answer) <= _MAX_ANSWER and (piece := await child.stdout.receive_some()):
                answer += piece
            ended = await child.wait()
            child.release_nowait()
    except SandboxLaunchFailed as error:
        raise SecretScanFailed(f"the scan for secrets cannot be started: {error}") from error
    finally:
        os.close(fd)
    return bytes(answer) if ended.ok else b"", ended


def _order_file(order: bytes) -> int:
    """Return a descriptor from which the order is read: on no disk, no command line, in no environment."""
    fd = os.memfd_create("order", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(order)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _import_paths() -> tuple[str, ...]:
    """Return the directories from which the program's modules are imported: it looks into no others."""
    origins = [spec.origin for name in ("orchestrator", "re2", "ahocorasick_rs") if (spec := find_spec(name))]
    return tuple(dict.fromkeys(str(Path(origin).parent.parent) for origin in origins if origin))
