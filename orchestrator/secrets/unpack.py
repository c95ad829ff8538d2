"""What a text hides: base64, hex, escapes, characters of two or four bytes, packed files, a few levels deep.

The invariant: the work is bounded by one `Budget` for all texts of a scan, however a file is made; what
would go beyond it raises `TooMuch`, and what cannot be unpacked is looked at as it is. Runs in `inside`.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from functools import lru_cache

from orchestrator.secrets.engine import Pattern, compiled
from orchestrator.secrets.packed import MAGIC, Budget, Hidden, packed_in

#: How often something unpacked is unpacked again.
MAX_DEPTH = 3
#: Bytes of an encoded text below which there is no room for a secret.
MIN_RUN = 20
#: A run, wrapped or not; one of shorter lines is three of them at least. A line may be quoted, or a comment.
_DIGIT = "[A-Za-z0-9+/_-]"
_WRAP = r"""["',\\ \t]{0,4}\r?\n[ \t"'#>*]{0,16}"""
_ENCODED = compiled(
    f"(?:{_DIGIT}{{20,}}|{_DIGIT}{{4,19}}(?:{_WRAP}{_DIGIT}{{4,19}}){{2,}})"
    f"(?:{_WRAP}{_DIGIT}{{4,}})*(?:{_WRAP}{_DIGIT}{{1,3}})?={{0,2}}"
)
_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_SPACED = bytes(byte if byte in _DIGITS else 32 for byte in range(256))
#: One byte: in percent, in hex as many languages have it, in octal, in HTML.
_ONE = (
    r"%([0-9A-Fa-f]{2})|\\x([0-9A-Fa-f]{2})|\\u00([0-9A-Fa-f]{2})|\\u\{0{0,4}([0-9A-Fa-f]{2})\}"
    r"|\\U000000([0-9A-Fa-f]{2})|&#[xX]0{0,2}([0-9A-Fa-f]{2});|\\([0-3][0-7]{2})|&#0{0,2}([0-9]{2,3});"
)
_BASES = (16, 16, 16, 16, 16, 16, 8, 10)
#: Python's own, which cannot run away over it and takes a twentieth of RE2's time to replace millions.
_ESCAPE = re.compile(_ONE.encode())
_ESCAPED = compiled(f"[!-~]*(?:{_ONE})[!-~]*")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_HEX_RUN = compiled(r"[0-9A-Fa-f]{20,}")
#: Characters of two or four bytes, in either order: the zeros between them are what tells.
_WIDE = compiled(r"(?:[\t\n\r -~\xa0-\xff]\x00(?:\x00\x00)?){15,}[\t\n\r -~\xa0-\xff]?")
#: Text amid what is none: a rule that wants a line's end behind a secret finds one.
_PRINTED = compiled(r"[\t\n\r -~]{15,}")
#: Text in what was decoded; NUL is UTF-16's.
_TEXT = compiled(r"[ -~\t\r\n\f\x08\x1b\x00]{15,}")


def hidden_in(data: bytes, budget: Budget) -> Iterator[Hidden]:
    """Yield the texts hidden in the data, one level deep; raises `TooMuch`."""
    yield from packed_in(data, budget)
    for finder, decode in (*_OF_BINARIES, *_ENCODINGS) if _is_binary(data) else _ENCODINGS:
        hidden, files = _collect(data, finder, decode, budget)
        if hidden.text:
            yield hidden
        yield from files


def _is_binary(data: bytes) -> bool:
    """Return whether the data is no text in UTF-8, or has zero bytes in it."""
    if b"\0" in data:
        return True
    try:
        return not data.isascii() and not data.decode()
    except UnicodeDecodeError:
        return True


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
            if plain.startswith(MAGIC):
                files.append(Hidden(plain, origins=(match.start(),)))
                continue
            begins.append(size)
            origins.append(match.start())
            parts.append(plain)
            size += len(plain) + 1
    return Hidden(b"\n".join(parts), tuple(begins), tuple(origins)), files


def _decoded(run: bytes) -> Iterator[bytes]:
    """Yield what a run of base64 or hex stands for, where that holds text or is a known file."""
    lines = run.translate(_SPACED).split()
    for digits in [b"".join(lines), *(lines if len(lines) > 1 else ())]:
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
    if plain.startswith(MAGIC):
        yield plain
    elif _TEXT.search(plain):
        yield b"\n".join(match.group() for match in _TEXT.finditer(plain)).replace(b"\0", b"")


def _unescaped(run: bytes) -> Iterator[bytes]:
    yield _ESCAPE.sub(lambda match: _byte(match.group()), run)


@lru_cache(maxsize=4096)
def _byte(escape: bytes) -> bytes:
    """Return the byte that an escape stands for; what stands for none as it is."""
    match = _ESCAPE.search(escape)
    for digits, base in zip(match.groups(), _BASES, strict=True) if match is not None else ():
        if digits is not None and (value := int(digits, base)) < 256:
            return bytes([value])
    return escape


def _narrowed(run: bytes) -> Iterator[bytes]:
    yield run.replace(b"\0", b"")


def _as_it_is(run: bytes) -> Iterator[bytes]:
    yield run


_Encodings = tuple[tuple[Pattern, Callable[[bytes], Iterator[bytes]]], ...]
_OF_BINARIES: _Encodings = ((_WIDE, _narrowed), (_PRINTED, _as_it_is))
_ENCODINGS: _Encodings = (
    (_ENCODED, _decoded),
    (_ESCAPED, _unescaped),
)
