"""A disk that loses power: records what SQLite writes and syncs, and makes the files that a crash may leave.

What was synced is there. Of what was written since, each write may be there whole, in part (some of its
sectors) or not at all, in any combination: a disk reorders. Not modelled: lost directory entries, and
disks that lie.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from orchestrator.journal.database import configured

SECTOR = 512
_COUNTER = itertools.count()


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that were written to a file."""

    file: str
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file that was cut."""

    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file that was synced: all before it is safe."""

    file: str


@dataclass(frozen=True, slots=True)
class Delete:
    """A file that was removed; at once, as directory entries are not modelled."""

    file: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The moment when somebody was told that everything up to the sequence number is durable."""

    seq: int


Operation = Write | Truncate | Sync | Delete | Acknowledged


@dataclass
class Recording:
    """What happened to the files, in order, from a durable beginning."""

    beginning: dict[str, bytes] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def connector(self, synchronous: str) -> _Connector:
        """Return what opens a database on this disk."""
        return _Connector(self, synchronous)


class _Connector:
    def __init__(self, recording: Recording, synchronous: str) -> None:
        self._recording, self._synchronous = recording, synchronous
        self._vfs = _Disk(f"powerloss-{next(_COUNTER)}", recording)

    def __call__(self, path: Path) -> apsw.Connection:
        self._recording.beginning[path.name] = path.read_bytes()
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._vfs.vfs_name)
        configured(connection, self._synchronous)
        connection.execute("PRAGMA wal_autocheckpoint = 25")  # many checkpoints in a short run
        return connection


class _Disk(apsw.VFS):
    def __init__(self, name: str, recording: Recording) -> None:
        self.vfs_name, self._recording = name, recording
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _File(name, flags, Path(path).name, self._recording)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self._recording.operations.append(Delete(Path(filename).name))


class _File(apsw.VFSFile):
    def __init__(
        self, name: str | apsw.URIFilename | None, flags: list[int], file: str, recording: Recording
    ) -> None:
        self._file, self._recording = file, recording
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._recording.operations.append(Write(self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._recording.operations.append(Truncate(self._file, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._recording.operations.append(Sync(self._file))


def crashes(
    recording: Recording, chance: random.Random, count: int
) -> Iterator[tuple[dict[str, bytes], int]]:
    """Yield `count` random crashes: what the files hold then, and what was acknowledged by then."""
    moments = sorted(chance.randrange(1, len(recording.operations) + 1) for _ in range(count))
    durable = {name: bytearray(content) for name, content in recording.beginning.items()}
    pending: dict[str, list[Write | Truncate]] = {}
    acknowledged, at = 0, 0
    for moment in moments:
        for operation in recording.operations[at:moment]:
            match operation:
                case Acknowledged(seq):
                    acknowledged = seq
                case Sync(file):
                    for change in pending.pop(file, ()):
                        _apply(durable, change)
                case Delete(file):
                    pending.pop(file, None)
                    durable.pop(file, None)
                case change:
                    pending.setdefault(change.file, []).append(change)
        at = moment
        yield _left_over(durable, pending, chance), acknowledged


def _left_over(
    durable: dict[str, bytearray], pending: dict[str, list[Write | Truncate]], chance: random.Random
) -> dict[str, bytes]:
    found = {name: bytearray(content) for name, content in durable.items()}
    kept = chance.choice((0.0, 0.5, 0.9, 1.0))  # of a crash: nothing, some, most or all of it made it
    for change in itertools.chain.from_iterable(pending.values()):
        if chance.random() >= kept:
            continue
        if isinstance(change, Write) and chance.random() < 0.3:
            for start in range(0, len(change.content), SECTOR):
                if chance.random() < 0.5:
                    part = change.content[start : start + SECTOR]
                    _apply(found, Write(change.file, change.offset + start, part))
        else:
            _apply(found, change)
    return {name: bytes(content) for name, content in found.items()}


def _apply(files: dict[str, bytearray], change: Write | Truncate) -> None:
    content = files.setdefault(change.file, bytearray())
    if isinstance(change, Truncate):
        del content[change.size :]
        return
    if len(content) < change.offset:
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.content)] = change.content
