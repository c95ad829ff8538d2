"""The values that this orchestrator holds, and that must appear nowhere: keys, tokens, passwords.

Beside ours there are those that a task gives its agent in `options.env`: held for that agent alone. Callers:
`scan` and `judging`, which let nothing leave that holds one, the redactor and `gear`, which let none be
shown, and `orchestrator doctor`, which says which are too short to be looked for.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from orchestrator.errors import SettingsError
from orchestrator.secrets.forms import MIN_BYTES, forms_of

KEY_BYTES = 32
#: Bytes below which a value of a task is taken for a word that its code may well hold, as `postgres`.
MIN_OF_TASK = 12
#: Of a longer one, or of many, the beginnings are looked for: whoever writes the whole writes that. In bytes,
#: of one and of all of a task, as a client chooses them and each has dozens of forms.
MAX_OF_TASK, MAX_OF_ALL = 512, 2048
_SECRET_NAME = re.compile(
    r"(.*(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)|(.*_)?(API|ACCESS|PRIVATE|SECRET)?KEY|.+_(PAT|PWD|PASS))S?"
)


@dataclass(frozen=True, slots=True)
class HeldValue:
    """A value, and the setting it comes from."""

    name: str
    value: bytes

    @property
    def forms(self) -> frozenset[bytes]:
        """All forms in which it is looked for; none where it is too short."""
        return forms_of(self.value)

    def __repr__(self) -> str:
        return f"HeldValue({self.name!r}, ...)"


def held_values(settings: object, token: str = "") -> tuple[HeldValue, ...]:
    """Return every secret among the fields of the settings, of a URL its password alone, and our token."""
    names = [each.name for each in fields(settings)] if is_dataclass(settings) else []
    found = _parts("ORCHESTRATOR_API_KEY", token)
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found += _parts(name.upper(), value.get_secret_value())
    kept = {text: HeldValue(name, text.encode()) for name, text in reversed(found) if text}
    return tuple(kept.values())


def values_of_task(env: Mapping[str, str]) -> tuple[HeldValue, ...]:
    """Return what is secret among the variables of a task: what a name says to be that, passwords of URLs."""
    found: list[tuple[str, str]] = []
    for name, value in env.items():
        text, upper = value.strip(), name.upper()
        marked = _SECRET_NAME.fullmatch(upper) is not None and "PUBLIC" not in upper
        if marked or "://" in text:
            found += _parts(name, text)
    room = min(MAX_OF_TASK, MAX_OF_ALL // max(1, len(found)))
    kept = {text.encode()[:room]: f"options.env.{name}" for name, text in reversed(found)}
    return tuple(HeldValue(name, value) for value, name in kept.items() if len(value) >= MIN_OF_TASK)


def too_short(values: Iterable[HeldValue]) -> tuple[str, ...]:
    """Return the names of the values that are too short to be looked for."""
    return tuple(sorted({each.name for each in values if len(each.value) < MIN_BYTES}))


def _parts(name: str, text: str) -> list[tuple[str, str]]:
    """Return the value itself; of a URL only what is secret in it."""
    try:
        parts = urlsplit(text) if "://" in text else None
    except ValueError:
        parts = None
    if parts is None:
        return [(name, text)]
    if parts.password is None:
        return []
    return [(name, parts.password), (name, unquote(parts.password))]


def installation_key(home: Path) -> bytes:
    """Return the key by which this installation knows a value again, from its state directory; made once."""
    path = home / "fingerprint.key"
    make_once(path, secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{path} holds no key: remove it, and a new one is made at the next start")
    return key


def make_once(path: Path, content: bytes) -> bool:
    """Make a file that only we can read, where there is none; return whether there was none."""
    if path.exists():
        return False
    # Moved into place when it is whole: a crash in between leaves no empty file.
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    made.rename(path)
    return True
