"""The forms in which one secret value can stand in bytes: in base64, in hex, escaped, wide, backwards.

Pure. Whoever writes a value in one of these forms, alone or amid other text, has written it: the scan before
a push and the redactor look for all of them in one pass. Callers: `inside` and `redactor`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

#: Bytes below which a value is not looked for: it would be found where it is not.
MIN_BYTES = 8
#: By phase, the characters at the start of a base64 text that hold bits of what stands before the value.
_LEAD = (0, 2, 3)
#: By the length's remainder, those at its end that hold bits of what stands after it, with the padding.
_TRAIL = (0, 3, 2)


def forms_of(value: bytes) -> frozenset[bytes]:
    """Return every form of the value that is long enough to be told from chance; none for a short value."""
    if len(value) < MIN_BYTES:
        return frozenset()
    return frozenset(form for form in _all_forms(value) if len(form) >= MIN_BYTES)


def _all_forms(value: bytes) -> Iterator[bytes]:
    yield value
    yield from _base64(value)
    for digits in (value.hex(), value.hex().upper()):
        yield digits.encode()
        pairs = [digits[at : at + 2] for at in range(0, len(digits), 2)]
        yield "".join(f"%{pair}" for pair in pairs).encode()
        yield "".join(f"\\x{pair}" for pair in pairs).encode()
        yield "".join(f"\\u00{pair}" for pair in pairs).encode()
        yield ", ".join(f"0x{pair}" for pair in pairs).encode()
        yield "".join(f"&#x{pair};" for pair in pairs).encode()
    yield "".join(f"&#{byte};" for byte in value).encode()
    yield "".join(f"\\{byte:03o}" for byte in value).encode()
    yield escape(value.decode("latin-1")).encode("latin-1")
    for width in (2, 4):  # without its zeros at either end: so it stands in both orders
        yield (b"\0" * (width - 1)).join(value[at : at + 1] for at in range(len(value)))
    yield value[::-1]
    percent = quote(value, safe="").encode()
    yield percent
    yield quote(value).encode()  # with its slashes, as in a path
    yield _lower_escapes(percent)
    for text in (json.dumps(value.decode("latin-1")), json.dumps(value.decode(errors="replace"))):
        escaped = text[1:-1].encode()
        yield escaped
        yield escaped.replace(b"/", b"\\/")


def _base64(value: bytes) -> Iterator[bytes]:
    for phase, lead in enumerate(_LEAD):
        text = base64.b64encode(b"\0" * phase + value)
        trail = _TRAIL[(phase + len(value)) % 3]
        core = text[lead : len(text) - trail]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


def _lower_escapes(percent: bytes) -> bytes:
    head, *rest = percent.split(b"%")
    return head + b"".join(b"%" + part[:2].lower() + part[2:] for part in rest)
