"""The program that looks through objects as `git cat-file --batch` writes them, and says what it found.

It runs in a process of its own, which a kill ends and which has ceilings on memory and processor: a text
made to keep a scanner busy costs that process, never the supervisor's loop. It is told what to look for
through a descriptor, so that no value stands on a command line or in an environment. The invariant: no
value that was found leaves it; a finding is a rule, a place and an HMAC. Started by `worker`.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ahocorasick_rs import BytesAhoCorasick

from orchestrator.secrets.engine import GUESSES, Engine, Hit, TooMuch
from orchestrator.secrets.packed import Budget, Hidden
from orchestrator.secrets.unpack import MAX_DEPTH, hidden_in

#: A text is looked through in pieces, each beginning in the one before: no secret is longer than that.
PIECE, OVERLAP = 4 << 20, 32 << 10
MAX_FINDINGS = 10_000
#: Bytes of a name that are shown.
SHOWN = 300
MASK = b"[secret]"
#: Letters and digits of a form that are told from chance, whatever stands between them: line ends, quotes,
#: commas, the marks of an escape.
MIN_BARE = 16
_MARKS = bytes(set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
#: Lines of a name: with its path, alone, up to its first dot, up to its last.
LINES = 4


@dataclass(frozen=True, slots=True)
class Found:
    """A finding with its value, which stays here."""

    rule: str
    #: file, name or commit.
    kind: str
    path: bytes
    line: int | None
    secret: bytes


class Held:
    """The values that the orchestrator itself holds, in all their forms."""

    def __init__(self, values: list[dict[str, Any]]) -> None:
        self._names, forms = [], []
        self._values = []
        for value in values:
            for form in value["forms"]:
                self._names.append(value["name"])
                self._values.append(base64.b64decode(value["value"]))
                forms.append(base64.b64decode(form))
        self.forms = forms
        self._automaton = BytesAhoCorasick(forms) if forms else None
        bare = [(len(left) >= MIN_BARE, left, at) for at, left in enumerate(map(_bare, forms))]
        self._bare_of = [at for long, _, at in bare if long]
        self._bare = BytesAhoCorasick([left for long, left, _ in bare if long]) if self._bare_of else None

    def hits(self, text: bytes) -> Iterator[Hit]:
        """Yield each held value once, where it first stands; then those whose letters and digits do."""
        seen = set()
        found = self._automaton.find_matches_as_indexes(text) if self._automaton is not None else []
        for number, start, _ in found:
            if self._names[number] not in seen:
                seen.add(self._names[number])
                yield Hit(f"held:{self._names[number]}", start, self._values[number])
        found = self._bare.find_matches_as_indexes(_bare(text)) if self._bare is not None else []
        for bare, start, _ in found:
            number = self._bare_of[bare]
            if self._names[number] not in seen:
                seen.add(self._names[number])
                yield Hit(f"held:{self._names[number]}", _with_marks(text, start), self._values[number])


@dataclass(frozen=True, slots=True)
class _Place:
    """What is being looked through: `file`, `name` or `commit`, its path or id, its whole content."""

    kind: str
    path: bytes
    content: bytes

    def named(self, at: int) -> bytes:
        """Return the path that is told: of names, the one whose lines the offset is in."""
        if self.kind != "name":
            return self.path
        return self.content.split(b"\n")[self.content.count(b"\n", 0, at) // LINES * LINES]


def _bare(text: bytes) -> bytes:
    """Return the letters and digits of the text."""
    return text.translate(None, _MARKS)


def _with_marks(text: bytes, at: int) -> int:
    """Return where the letter or digit of that number stands in the text."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_bare(text[: middle + 1])) > at else (middle + 1, high)
    return low


def _same(at: int) -> int:
    return at


def _through(outside: Callable[[int], int], hidden: Hidden) -> Callable[[int], int]:
    return lambda at: outside(hidden.outside(at))


class Search:
    """Looks through one object after another, and remembers what it found."""

    def __init__(self, order: dict[str, Any], engine: Engine | None) -> None:
        self._engine = engine
        self._held = Held(order["held"])
        self._key = base64.b64decode(order["key"])
        self._budget = Budget(order["bounds"]["unpacked"])
        self._found: dict[tuple[str, str, bytes, bytes], Found] = {}

    def look(self, kind: str, content: bytes, path: bytes, oid: str) -> None:
        """Look through an object; raises `TooMuch`."""
        if kind == "commit":
            self._search(_Place("commit", oid[:12].encode(), content), content)
        elif kind == "tree":
            text = _names(content, path)
            self._search(_Place("name", path, text), text)
        elif kind == "blob":
            for hit in self._engine.name_hits(path) if self._engine is not None else ():
                self._note(_Place("name", path, path), 0, hit)
            self._search(_Place("file", path, content), content)

    def report(self) -> list[dict[str, Any]]:
        """Return what was found, without the values, also where one stands in a name."""
        values = {found.secret for found in self._found.values()} | set(self._held.forms)
        for found in self._found.values():
            name = found.path.rpartition(b"/")[2]
            if found.kind == "name" and not any(value in found.path for value in values):
                values.add(name)  # it stands there encoded
        told = self._told()
        hidden = sorted(filter(None, values), key=len, reverse=True)
        return [
            {
                "rule": found.rule,
                "kind": found.kind,
                "path": _shown(found.path, hidden),
                "line": found.line,
                "hmac": hmac.digest(self._key, found.secret, "sha256").hex()[:32],
            }
            for found in self._found.values()
            if found.rule not in GUESSES or (found.kind, found.path, found.secret) not in told
        ]

    def _told(self) -> set[tuple[str, bytes, bytes]]:
        """Return where which values are named by a precise rule, so that nobody need guess at them."""
        return {
            (each.kind, each.path, each.secret) for each in self._found.values() if each.rule not in GUESSES
        }

    def _search(
        self, place: _Place, text: bytes, outside: Callable[[int], int] = _same, depth: int = 0
    ) -> None:
        """Look through a text and what it hides; `outside` tells where in the object an offset comes from."""
        for start in range(0, max(len(text), 1), PIECE):
            for hit in self._hits(text[start : start + PIECE + OVERLAP], place.path):
                self._note(place, outside(start + hit.start), hit)
        if depth < MAX_DEPTH:
            for hidden in hidden_in(text, self._budget):
                self._search(place, hidden.text, _through(outside, hidden), depth + 1)

    def _hits(self, text: bytes, path: bytes) -> Iterator[Hit]:
        yield from self._held.hits(text)
        if self._engine is not None:
            yield from self._engine.hits(text, path)

    def _note(self, place: _Place, at: int, hit: Hit) -> None:
        path = place.named(at)
        key = (hit.rule, place.kind, path, hit.secret)
        if key in self._found:
            return
        if len(self._found) >= MAX_FINDINGS:
            raise TooMuch(f"more than {MAX_FINDINGS} findings")
        line = None if place.kind == "name" else place.content.count(b"\n", 0, at) + 1
        self._found[key] = Found(hit.rule, place.kind, path, line, hit.secret)


def _names(content: bytes, path: bytes) -> bytes:
    """Return the names in a tree as a text: each whole, with its path, and without what follows a dot."""
    lines: list[bytes] = []
    position = 0
    while position < len(content):
        end = content.index(b"\0", position)
        name = content[position:end].partition(b" ")[2]
        lines += (
            b"/".join(filter(None, (path, name))),
            name,
            name.partition(b".")[0],
            name.rpartition(b".")[0],
        )
        position = end + 21
    return b"\n".join(lines)


def _shown(path: bytes, values: list[bytes]) -> str:
    for value in values:
        path = path.replace(value, MASK)
    return path.decode(errors="backslashreplace")[:SHOWN]


def read_objects(stream: BinaryIO, bounds: dict[str, int]) -> Iterator[tuple[str, bytes, bytes, str]]:
    """Yield the objects of the stream: type, content, path, id; raises `TooMuch`, or `ValueError`."""
    count, size = 0, 0
    while line := stream.readline(1 << 16):
        oid, kind, length, *rest = line.rstrip(b"\n").split(b" ", 3)
        count, size = count + 1, size + int(length)
        if count > bounds["objects"]:
            raise TooMuch(f"more than {bounds['objects']} objects")
        if size > bounds["bytes"]:
            raise TooMuch(f"more than {bounds['bytes']} bytes")
        content = stream.read(int(length))
        if len(content) != int(length) or stream.read(1) != b"\n":
            raise ValueError("the objects end in the middle of one")
        yield kind.decode(), content, rest[0] if rest else b"", oid.decode()


class Server:
    """Carries out one order after another."""

    def __init__(self) -> None:
        self._rules: dict[str, Any] = {}
        self._engine: Engine | None = None

    def carry_out(self, order: dict[str, Any], objects: BinaryIO) -> dict[str, Any]:
        """Look through the objects, and return the answer."""
        if "rules" in order:  # told once
            self._rules = order["rules"]
            self._engine = Engine(self._rules)
        if "prepare" in order and self._engine is not None:
            self._engine.prepare()
            return {}
        engine = self._engine if order["only"] is None else Engine(self._rules, order["only"])
        search = Search(order, engine if order["extent"] == "all" else None)
        answer: dict[str, Any] = {"objects": 0, "bytes": 0, "too_much": None}
        try:
            for kind, content, path, oid in read_objects(objects, order["bounds"]):
                answer["objects"] += 1
                answer["bytes"] += len(content)
                search.look(kind, content, path, oid)
        except TooMuch as error:
            answer["too_much"] = str(error)
        return answer | {"findings": search.report()}


def serve() -> None:
    """Carry out the orders that come over the socket at descriptor 0, until it is closed."""
    server = Server()
    with socket.socket(fileno=0) as channel:
        while True:
            _, fds, _, _ = socket.recv_fds(channel, 1, 2)
            if len(fds) != 2:
                return
            with os.fdopen(fds[0], "rb") as file, os.fdopen(fds[1], "rb") as objects:
                order = json.loads(file.read())
                _bound_processor(order["bounds"]["seconds"])
                answer = json.dumps(server.carry_out(order, objects)).encode()
            channel.sendall(len(answer).to_bytes(8) + answer)


def _bound_processor(seconds: int) -> None:
    """Let the kernel end this process where one order takes longer than that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, most))
