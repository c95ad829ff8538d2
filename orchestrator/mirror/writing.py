"""What is said to a Valkey: how a batch of events, and the whole anew, are written.

The invariant: entries are written before the events that tell of them are published, and the marker moves in
one step with what was published, so who comes back knows what was not. All of it blocks (see `link`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.events import Recorded
from orchestrator.journal.encoding import wire
from orchestrator.mirror.link import PIECE_BYTES, PIECE_COMMANDS, Command, Link
from orchestrator.mirror.trouble import MirrorTrouble, nonsense
from orchestrator.mirror.view import EVENTS, MARKER, NEW_QUEUE, QUEUE, WRITER, Entry, Place

#: How long a journal is the writer after its last sign of life.
LEASE_MS = 10_000
#: Keys that one step of a scan looks at.
SCAN = 1000


@dataclass(frozen=True, slots=True)
class Marker:
    """Which journal is mirrored, by the id of its first event, and the last event that was published."""

    journal: str
    seq: int

    def __str__(self) -> str:
        return f"{self.journal} {self.seq}"

    @property
    def lease(self) -> Command:
        """What says that its writer lives."""
        return ("SET", WRITER, self.journal, "PX", LEASE_MS)

    @property
    def signs(self) -> list[Command]:
        """What leaves it there, and says that its writer lives."""
        return [("SET", MARKER, str(self)), self.lease]


def claim(link: Link, journal: str) -> int | None:
    """Become the writer; return the last event of this journal that was published, as far as is known there.

    Raises `MirrorTrouble` while another journal's orchestrator writes there.
    """
    _, writer, marker = link.do(
        [("SET", WRITER, journal, "NX", "PX", LEASE_MS), ("GET", WRITER), ("GET", MARKER)]
    )
    if isinstance(writer, bytes) and writer != journal.encode():
        raise MirrorTrouble(
            "another orchestrator mirrors its journal there: give each a database of its own", passing=False
        )
    name, _, seq = (
        marker.decode(errors="replace").partition(" ") if isinstance(marker, bytes) else ("", "", "")
    )
    return int(seq) if name == journal and seq.isascii() and seq.isdigit() and len(seq) < 18 else None


def write_entries(link: Link, marker: Marker, entries: Iterable[Entry], places: Iterable[Place] = ()) -> bool:
    """Write entries and places, and say that the writer lives; return whether the queue is one."""
    done = True
    for piece in pieces([*map(_put, entries), *map(_stand, places), marker.lease]):
        done = None not in link.transact(piece) and done
    return done


def beat(link: Link, marker: Marker) -> bool:
    """Say that the writer lives; return whether the marker was as it was left."""
    return _was(link.transact([("GET", MARKER), *marker.signs])[0], marker)


def publish(link: Link, marker: Marker, events: Sequence[Recorded]) -> bool:
    """Publish the events that follow the marker, in order; return whether the marker was as it was left."""
    if not _heard(link):
        after = replace(marker, seq=events[-1].seq)
        return _was(link.transact([("GET", MARKER), *after.signs])[0], marker)
    whole = True
    for piece in pieces(("PUBLISH", EVENTS, wire(recorded)) for recorded in events):
        after = replace(marker, seq=marker.seq + len(piece))
        whole = _was(link.transact([("GET", MARKER), *piece, *after.signs])[0], marker) and whole
        marker = after
    return whole


def publish_gap(link: Link, marker: Marker, until: int) -> Marker:
    """Publish that the events after the marker, up to this one, are not published; return the next marker."""
    after = replace(marker, seq=until)
    message = f'{{"gap":{{"from":{marker.seq + 1},"to":{until}}}}}'
    link.transact([("PUBLISH", EVENTS, message), *after.signs])
    return after


def begin_queue(link: Link) -> None:
    """Have an empty queue to fill, beside the one in place."""
    link.do([("UNLINK", NEW_QUEUE)])


def extend_queue(link: Link, places: Iterable[Place]) -> None:
    """Add places to it."""
    for piece in pieces(("ZADD", NEW_QUEUE, place.score or 0, place.task_id) for place in places):
        link.do(piece)


def adopt_queue(link: Link, filled: bool) -> None:
    """Put it in the place of the old one, whatever that was."""
    link.do([("RENAME", NEW_QUEUE, QUEUE) if filled else ("UNLINK", QUEUE)])


def scan(link: Link, cursor: int, prefix: str) -> tuple[int, list[str]]:
    """Return the cursor of the next step, 0 at the end, and some of the keys that begin so."""
    [reply] = link.do([("SCAN", cursor, "MATCH", prefix + "*", "COUNT", SCAN)])
    match reply:
        case [bytes() as after, list() as keys] if after.isdigit() and len(after) <= 20:
            names = [key.decode(errors="surrogateescape") for key in keys if isinstance(key, bytes)]
            return int(after), [name for name in names if name.startswith(prefix)]
    raise nonsense("no answer to SCAN")


def remove(link: Link, keys: Iterable[str]) -> None:
    """Remove keys."""
    for piece in pieces([("UNLINK", key.encode(errors="surrogateescape")) for key in keys]):
        link.do(piece)


def pieces(commands: Iterable[Command]) -> Iterator[list[Command]]:
    """Yield the commands in pieces that a server answers in a moment."""
    piece, size = list[Command](), 0
    for command in commands:
        length = sum(len(word) if isinstance(word, str | bytes) else 8 for word in command)
        if piece and (size + length > PIECE_BYTES or len(piece) >= PIECE_COMMANDS):
            yield piece
            piece, size = [], 0
        piece.append(command)
        size += length
    if piece:
        yield piece


def _put(entry: Entry) -> Command:
    if entry.value is None:
        return ("UNLINK", entry.key)
    if entry.expires_ms is None:
        return ("SET", entry.key, entry.value)
    return ("SET", entry.key, entry.value, "PXAT", entry.expires_ms)


def _stand(place: Place) -> Command:
    return (
        ("ZREM", QUEUE, place.task_id) if place.score is None else ("ZADD", QUEUE, place.score, place.task_id)
    )


def _was(found: object, marker: Marker) -> bool:
    return found == str(marker).encode()


def _heard(link: Link) -> bool:
    """Return whether anybody may listen, here or at a replica; where that is not told, as if somebody did.

    Who subscribes after this was asked misses nothing: what it is asked for was committed before.
    """
    channel, patterns, role = link.ask([("PUBSUB", "NUMSUB", EVENTS), ("PUBSUB", "NUMPAT"), ("ROLE",)])
    match channel, patterns, role:
        case [_, 0], 0, [b"master", _, []]:
            return False
    return True
