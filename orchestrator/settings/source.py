"""Where a setting's text comes from: environment, secret file, systemd credential, or `orchestrator.toml`.

The first that has it wins, in this order; an empty text counts as none. What cannot be read is a
`SettingsError` of one line, which never shows a secret. Called by `orchestrator.config` alone.
"""

from __future__ import annotations

import difflib
import os
import pwd
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SettingsError
from orchestrator.settings.reader import Setting, is_there

SYSTEM_FILE = Path("/etc/orchestrator/orchestrator.toml")
MAX_FILE_BYTES = 1 << 20
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class File:
    """What the file of settings says: texts by variable, upper-case."""

    path: Path | None
    texts: Mapping[str, str | list[str]]


@dataclass(frozen=True, slots=True)
class Found:
    """A setting's text, under which name it stood, and where (nothing is said of the environment)."""

    name: str
    text: str
    where: str = ""


def default_home(environ: Mapping[str, str], uid: int) -> Path:
    """Return where the state is, unless a setting says otherwise."""
    if given := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    if uid == 0:
        return Path("/var/lib/orchestrator")
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if state.is_absolute():
        return state / "orchestrator"
    if home := environ.get("HOME"):
        return Path(home) / ".local/state/orchestrator"
    raise SettingsError("ORCHESTRATOR_HOME is not set, and neither is HOME: set one of them to a directory")


def read_file(environ: Mapping[str, str], uid: int, rows: Iterable[Setting]) -> File:
    """Read the file of settings, where there is one; a key that is no setting is an error."""
    if named := environ.get("ORCHESTRATOR_CONFIG", ""):
        return read_toml(Path(named), rows)
    own = Path(environ.get("ORCHESTRATOR_HOME") or default_home(environ, uid)) / "orchestrator.toml"
    if is_there(own):
        return read_toml(own, rows)
    # One that we may not read is the service's, and this is a client of it.
    return read_toml(SYSTEM_FILE, rows) if os.access(SYSTEM_FILE, os.R_OK) else File(None, {})


def read_toml(path: Path, rows: Iterable[Setting]) -> File:
    """Read one file of settings."""
    try:
        raw = tomllib.loads(read_text(path))
    except (OSError, ValueError) as error:  # ValueError: TOML, UTF-8, or too long
        raise SettingsError(f"{path} cannot be read as settings: {one_line(str(error))}") from error
    rows = tuple(rows)
    names = {name for row in rows for name in row.names}
    names |= {f"{name}_FILE" for row in rows if row.secret for name in row.names}
    texts: dict[str, str | list[str]] = {}
    for key, value in raw.items():
        name = key.upper()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0)
            raise SettingsError(f"{shown(key)} in {path} is no setting; the nearest is {near[0]}")
        if name in texts:
            raise SettingsError(f"{name} stands twice in {path}: keep one")
        texts[name] = text_of(name, value, path)
    refuse_open_secrets(path, texts, rows)
    return File(path, texts)


def text_of(name: str, value: object, path: Path) -> str | list[str]:
    """Return a TOML value as the environment would hold it."""
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case list() if all(isinstance(member, str) for member in value):
            return list(value)
    raise SettingsError(f"{name} in {path} will not do: use a text, a number, true, false or a list of texts")


def refuse_open_secrets(path: Path, texts: Mapping[str, object], rows: Iterable[Setting]) -> None:
    """Refuse a file that holds a secret and that every user of the host may read."""
    held = [name for row in rows if row.secret for name in row.names if name in texts]
    if held and path.stat().st_mode & 0o004:
        raise SettingsError(
            f"{path} holds {held[0]} and everybody may read it: chmod o-r, or use {held[0]}_FILE"
        )


def find(row: Setting, environ: Mapping[str, str], file: File) -> Found | None:
    """Return the text of a setting, or None where nothing sets it."""
    if row.secret:
        refuse_both(row, environ, "")
        refuse_both(row, file.texts, f" in {file.path}")
    for name in row.names:
        if text := environ.get(name, "").strip():
            return Found(name, text)
        if row.secret and (path := environ.get(f"{name}_FILE", "")):
            return Found(name, secret_text(f"{name}_FILE", Path(path)), f" in {shown(path)}")
    if row.secret and (found := credential(row, environ)):
        return found
    where = f" in {file.path}"
    for name in row.names:
        value = file.texts.get(name, "")
        if text := joined(name, value, row.separator, where).strip():
            return Found(name, text, where)
        pointed = file.texts.get(f"{name}_FILE", "")
        if row.secret and pointed and isinstance(pointed, str):
            return Found(name, secret_text(f"{name}_FILE", Path(pointed)), f" in {shown(pointed)}")
    return None


def refuse_both(row: Setting, texts: Mapping[str, object], where: str) -> None:
    """Refuse a secret that stands there and is said to be in a file too."""
    for name in row.names:
        if texts.get(name) and texts.get(f"{name}_FILE"):
            raise SettingsError(f"{name} and {name}_FILE are both set{where}: keep one")


def joined(name: str, value: str | list[str], separator: str, where: str) -> str:
    """Return a list of the file in the form that the environment has for it."""
    if isinstance(value, str):
        return value
    for member in value:
        if separator in member:
            raise SettingsError(f"{name}{where} will not do: {shown(member)} has a {separator!r} in it")
    return separator.join(value)


def credential(row: Setting, environ: Mapping[str, str]) -> Found | None:
    """Return a secret that systemd hands over under one of the setting's names, upper- or lower-case."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    for name in row.names if directory else ():
        for path in (Path(directory) / name, Path(directory) / name.lower()):
            if is_there(path):
                return Found(name, secret_text(name, path), f" in {shown(str(path))}")
    return None


def secret_text(name: str, path: Path) -> str:
    """Return the one line of a secret's file."""
    try:
        text = read_text(path).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no short text"
        raise SettingsError(f"{name}={shown(str(path))} cannot be read: {reason}") from error
    if not text:
        raise SettingsError(f"{name}={shown(str(path))} will not do: the file is empty")
    return text


def read_text(path: Path) -> str:
    """Return a small file's text; raises `OSError`, or `ValueError` where it is too long or no UTF-8."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is longer than {MAX_FILE_BYTES} bytes")
    return content.decode()


def shown(text: str) -> str:
    """Return a value as one may print it: quoted, on one line, not too long."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


def one_line(text: str) -> str:
    """Return a foreign message on one line."""
    return " ".join(text.split())


def refusal(found: Found, why: str, *, hidden: bool = False) -> SettingsError:
    """Return the one line that says what is wrong with a setting."""
    value = " (not shown)" if hidden else f"={shown(found.text)}"
    return SettingsError(f"{found.name}{value}{found.where} {why}")


def judge_sandbox_user(found: Found, uid: int) -> None:
    """Refuse a user that agents must not, or cannot, run as."""
    try:
        wanted = (
            int(found.text) if re.fullmatch("[0-9]{1,9}", found.text) else pwd.getpwnam(found.text).pw_uid
        )
    except KeyError:
        raise refusal(found, "is no user of this host: use a name or a number of one") from None
    if wanted == 0:
        raise refusal(found, "will not do: agents never run as root; use nobody")
    if uid not in {0, wanted}:
        raise refusal(found, "will not do: only root may run agents as another user; leave it out")
