"""What is compressed in a text: zip, gzip, bzip2, xz and zlib, wherever in it that begins.

So a program that unpacks itself is looked through like the archive behind it. The invariant: the work is
bounded by one `Budget` for all texts of a scan, however a file is made; what would go beyond it raises
`TooMuch`, and what cannot be unpacked is looked at as it is. Caller: `unpack`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.secrets.engine import TooMuch, compiled

MIB = 1 << 20
#: Members of one archive, and streams in one text.
MAX_MEMBERS = 5_000
#: Members of all archives in one text, one in another among them.
MAX_ENTRIES = 100_000
#: Bytes that unpacking may take: `xz -9` takes 65 MiB.
MAX_DICTIONARY = 128 * MIB
#: Archives in one text, one behind another.
MAX_ARCHIVES = 64
#: How much of a stream is fed at once, at first and later: most are short.
_FED, _MOST_FED = 4 << 10, 256 << 10
_STREAM = compiled(r"\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\x00")
_BEGINS = (b"\x1f\x8b\x08", b"1AY&SY", b"\xfd7zXZ\x00")
_ENTRY, _ENTRY_BYTES = b"PK\x03\x04", 30
_ARCHIVE_END, _END_BYTES = b"PK\x05\x06", 22
#: What `_entries` has already seen of an archive.
_SEEN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
#: What begins like this is no text.
MAGIC = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", *_ZLIB)


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


class Machine(Protocol):
    """What bz2, lzma and zlib have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was fed after its end."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most that many bytes."""
        ...


def packed_in(data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield what the data has compressed in it, one level deep; raises `TooMuch`."""
    if data.startswith(_ZLIB):
        yield Hidden(_streamed(zlib.decompressobj(), data, 0, budget)[0])
    if any(each in data for each in _BEGINS):  # which no text is; that is known in a twentieth of the time
        yield from _streams(data, budget)
    if _ARCHIVE_END in data:  # first, because that is quick to say where it is too much
        yield from _archives(data, budget)
    if _ENTRY in data:
        yield from _entries(data, budget)


def _streams(data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield what the streams unpack to that begin anywhere in the data.

    Those that stand one right after the other are one text, as the tools have it.
    """
    parts, kind, begin, at = list[bytes](), b"", 0, 0
    for count in range(MAX_MEMBERS + 1):
        match = _STREAM.search(data, at)
        if match is None:
            break
        if count == MAX_MEMBERS:
            raise TooMuch(f"more than {MAX_MEMBERS} compressed streams in one file")
        start, same = match.start(), match.group()[:2] == kind
        if not (same and start == at):
            if any(parts):
                yield Hidden(b"".join(parts), origins=(begin,))
            parts, kind, begin = [], match.group()[:2], start
        out, at = _streamed(_MACHINES[kind](), data, start, budget)
        parts.append(out)
    if any(parts):
        yield Hidden(b"".join(parts), origins=(begin,))


_MACHINES: dict[bytes, Callable[[], Machine]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7": lambda: lzma.LZMADecompressor(memlimit=MAX_DICTIONARY),
}


def _streamed(machine: Machine, data: bytes, start: int, budget: Budget) -> tuple[bytes, int]:
    """Return what the stream at `start` unpacks to, as far as it does, and where to look for the next."""
    out, at, size = bytearray(), start, _FED
    try:
        while not machine.eof and at < len(data):
            fed = data[at : at + size]
            at, size = at + len(fed), min(2 * size, _MOST_FED)
            for piece in _pieces(machine, fed):
                budget.take(len(piece))
                out += piece
    except lzma.LZMAError as error:
        if "limit" in str(error):
            raise TooMuch("a compressed file that takes too much memory to be unpacked") from None
        return bytes(out), start + 1
    except (zlib.error, OSError, EOFError):
        return bytes(out), start + 1  # what came out until then is looked at
    return bytes(out), at - len(machine.unused_data) if machine.eof else start + 1


def _pieces(machine: Machine, fed: bytes) -> Iterator[bytes]:
    """Yield all that comes out of what is fed."""
    while True:
        piece = machine.decompress(fed, MIB)
        yield piece
        # zlib gives back what it has not taken yet; the others keep it.
        fed = getattr(machine, "unconsumed_tail", b"")
        if machine.eof or (not fed and len(piece) < MIB):
            return


def _entries(data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield what the members of zip archives unpack to, by the header that each has before it.

    Whatever their directory says of them, or where there is none: programs that unpack go by either. Those
    that are only stored stand in the data as they are.
    """
    at = data.find(_ENTRY)
    for count in range(MAX_ENTRIES + 1):
        if at < 0:
            return
        if count == MAX_ENTRIES:
            raise TooMuch(f"more than {MAX_ENTRIES} packed files in one file")
        lengths = data[at + 26 : at + _ENTRY_BYTES]
        body = (
            at + _ENTRY_BYTES + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        )
        wbits = zlib.MAX_WBITS if data.startswith(_ZLIB, body) else -zlib.MAX_WBITS
        out, end = _streamed(zlib.decompressobj(wbits), data, body, budget)
        if out:
            yield Hidden(out, origins=(at,))
        at = data.find(_ENTRY, end if end > body + 1 else at + 1)


def _archives(data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield the names in the zip archives of the data, from the last to the first, and what is packed oddly.

    What is packed as usual is what `_entries` yields.
    """
    end = len(data)
    for count in range(MAX_ARCHIVES + 1):
        at = data.rfind(_ARCHIVE_END, 0, end)
        if at < 0:
            return
        if count == MAX_ARCHIVES:
            raise TooMuch(f"more than {MAX_ARCHIVES} archives in one file")
        comment = int.from_bytes(data[at + _END_BYTES - 2 : at + _END_BYTES], "little")
        end = at
        try:
            with zipfile.ZipFile(io.BytesIO(data[: at + _END_BYTES + comment])) as archive:
                members = archive.infolist()
                if len(members) > MAX_MEMBERS:
                    raise TooMuch(f"an archive of more than {MAX_MEMBERS} files")
                end = min([at, *(max(member.header_offset, 0) for member in members)])
                names = "\n".join(member.filename for member in members)
                yield Hidden(names.encode(errors="replace"), origins=(end,))
                for member in members:
                    if member.compress_type not in _SEEN:
                        yield from _member(archive, member, budget)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError):
            continue


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
