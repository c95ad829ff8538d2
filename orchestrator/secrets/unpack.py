"""What a text hides: base64, hex, percent and other escapes, UTF-16, and compressed files, a few levels deep.

The invariant: the work is bounded by one `Budget` for all texts of a scan, however a file is made; what
would go beyond it raises `TooMuch`, and what cannot be unpacked is looked at as it is. Runs in `inside`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from binascii import a2b_base64
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.secrets.engine import Pattern, TooMuch, compiled

MIB = 1 << 20
#: How often something unpacked is unpacked again.
MAX_DEPTH = 3
#: Members of one archive.
MAX_MEMBERS = 5_000
#: Bytes of an encoded text below which there is no room for a secret.
MIN_RUN = 20
_ENCODED = compiled(r"[A-Za-z0-9+/_-]{20,}(?:\r?\n[ \t]{0,16}[A-Za-z0-9+/_-]{4,})*={0,2}")
_ESCAPED = compiled(r"[!-~]*(?:%[0-9A-Fa-f]{2}|\\x[0-9A-Fa-f]{2}|\\u00[0-9A-Fa-f]{2})[!-~]*")
_ESCAPE = compiled(r"(?:%|\\x|\\u00)([0-9A-Fa-f]{2})")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_HEX_RUN = compiled(r"[0-9A-Fa-f]{20,}")
#: Text in what was decoded; NUL is UTF-16's.
_TEXT = compiled(r"[ -~\t\r\n\f\x08\x1b\x00]{15,}")


@dataclass(slots=True)
class Budget:
    """How many bytes may come out of all that is unpacked in one scan."""

    left: int

    def take(self, count: int) -> None:
        """Account for bytes; raises `TooMuch` where there were too many."""
        self.left -= count
        if self.left < 0:
            raise TooMuch("more packed content than is unpacked in one scan")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A text found inside of another."""

    text: bytes
    #: Where its parts begin in it, ascending, and what they come from: offsets in the text around it.
    begins: tuple[int, ...] = (0,)
    origins: tuple[int, ...] = (0,)

    def outside(self, at: int) -> int:
        """Return the offset in the text around it that an offset in it comes from."""
        return self.origins[bisect_right(self.begins, at) - 1]


def hidden_in(data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield the texts hidden in the data, one level deep; raises `TooMuch`."""
    for magic, unpack in _FORMATS.items():
        if data.startswith(magic):
            yield from unpack(data, budget)
    if _is_wide(data):
        budget.take(len(data) // 2)
        yield Hidden(data.replace(b"\0", b""))
    for finder, decode in ((_ENCODED, _decoded), (_ESCAPED, _unescaped)):
        hidden, files = _collect(data, finder, decode, budget)
        if hidden.text:
            yield hidden
        yield from files


def _collect(
    data: bytes, finder: Pattern, decode: Callable[[bytes], Iterator[bytes]], budget: Budget
) -> tuple[Hidden, list[Hidden]]:
    """Return all decoded parts as one text, a line each, and those that are files of a known format."""
    parts: list[bytes] = []
    begins, origins, size = [], [], 0
    files = []
    for match in finder.finditer(data):
        for plain in decode(match.group()):
            budget.take(len(plain))
            if plain.startswith(_MAGIC):
                files.append(Hidden(plain, origins=(match.start(),)))
                continue
            begins.append(size)
            origins.append(match.start())
            parts.append(plain)
            size += len(plain) + 1
    return Hidden(b"\n".join(parts), tuple(begins), tuple(origins)), files


def _decoded(run: bytes) -> Iterator[bytes]:
    """Yield what a run of base64 or hex stands for, where that holds text or is a known file."""
    lines = run.split()
    for plain in [b"".join(lines), *(lines if len(lines) > 1 else ())]:
        digits = plain.rstrip(b"=")
        if len(digits) < MIN_RUN:
            continue
        for match in _HEX_RUN.finditer(digits):
            for begin in (0, 1):
                hexed = match.group()[begin:]
                yield from _kept(bytes.fromhex(hexed[: len(hexed) // 2 * 2].decode()))
        # A word may stand right before it, so that it begins at any of four places; no word is of one case.
        mixed = not digits.islower() and not digits.isupper()
        for begin in range(4) if mixed else (0,):
            usable = digits[begin : len(digits) - ((len(digits) - begin) % 4 == 1)].translate(_STANDARD)
            yield from _kept(a2b_base64(usable + b"=" * (-len(usable) % 4)))


def _kept(plain: bytes) -> Iterator[bytes]:
    """Yield the parts that are text, which chance does not make that long, or a known file."""
    if plain.startswith(_MAGIC):
        yield plain
    elif _TEXT.search(plain):
        yield b"\n".join(match.group() for match in _TEXT.finditer(plain)).replace(b"\0", b"")


def _unescaped(run: bytes) -> Iterator[bytes]:
    yield _ESCAPE.sub(lambda match: bytes([int(match.group(1), 16)]), run)


def _is_wide(data: bytes) -> bool:
    """Return whether half of the bytes are zero, as in UTF-16."""
    return len(data) >= MIN_RUN and 3 * len(data) <= 10 * data.count(0) <= 6 * len(data)


class Machine(Protocol):
    """What bz2, lzma and zlib have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What stands after its end."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most that many bytes."""
        ...


def _inflated(data: bytes, budget: Budget) -> Iterator[Hidden]:
    yield from _streamed(zlib.decompressobj(wbits=31), data, budget)


def _bunzipped(data: bytes, budget: Budget) -> Iterator[Hidden]:
    yield from _streamed(bz2.BZ2Decompressor(), data, budget)


def _unxzed(data: bytes, budget: Budget) -> Iterator[Hidden]:
    yield from _streamed(lzma.LZMADecompressor(memlimit=64 * MIB), data, budget)


def _streamed(machine: Machine, data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield what a stream unpacks to, as far as it does, and the known file after it."""
    out, fed = bytearray(), data
    try:
        while not machine.eof:
            piece = machine.decompress(fed, MIB)
            # zlib gives back what it has not taken yet; the others keep it.
            fed = getattr(machine, "unconsumed_tail", b"")
            if not piece and not fed:
                break
            budget.take(len(piece))
            out += piece
    except (zlib.error, OSError, lzma.LZMAError, EOFError):
        pass  # what came out until then is looked at
    if out:
        yield Hidden(bytes(out))
    if machine.eof and machine.unused_data.startswith(_MAGIC):
        yield Hidden(machine.unused_data)


def _unzipped(data: bytes, budget: Budget) -> Iterator[Hidden]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise TooMuch(f"an archive of more than {MAX_MEMBERS} files")
            yield Hidden("\n".join(member.filename for member in members).encode(errors="replace"))
            for member in members:
                yield from _member(archive, member, budget)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError):
        return


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> Iterator[Hidden]:
    out = bytearray()
    try:
        with archive.open(member) as stream:
            while piece := stream.read(MIB):
                budget.take(len(piece))
                out += piece
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError):
        pass  # encrypted, damaged, of a kind that is not known: what came out is looked at
    if out:
        yield Hidden(bytes(out))


_FORMATS: dict[bytes, Callable[[bytes, Budget], Iterator[Hidden]]] = {
    b"PK\x03\x04": _unzipped,
    b"\x1f\x8b": _inflated,
    b"BZh": _bunzipped,
    b"\xfd7zXZ\0": _unxzed,
}
_MAGIC = tuple(_FORMATS)
