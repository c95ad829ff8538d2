"""How the text of one setting becomes a value, or a sentence that says what would do.

Every reader takes the text and returns the value; a text that will not do raises `ValueError` with the rest
of the sentence "NAME='text' ...". Nothing here knows where a text came from. Used by `orchestrator.config`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from orchestrator.core.egress import read_entries

T = TypeVar("T")

#: What a value may hold where it ends up in a header, a file or a command line.
PRINTABLE = re.compile(r"[\x21-\x7e]+")
HOST_PATTERN = re.compile(r"[a-z0-9*]([a-z0-9*_.-]*[a-z0-9*])?(:[0-9]{1,5})?")

#: Shown to no sandbox, with all that is in them, whoever asks: they lead to the host's kernel and services.
NEVER_SHOWN = tuple(map(Path, ("/proc", "/sys", "/dev", "/run", "/boot")))
#: Where no files of ours can be.
NEVER_KEPT = tuple(map(Path, ("/proc", "/sys", "/dev")))
MIN_TOKEN_LENGTH = 8
#: Not as a whole; a toolchain in them may be shown.
NEVER_WHOLE = tuple(map(Path, ("/", "/etc", "/home", "/root", "/var")))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: the attribute of `Settings` it fills, its variables (the first wins), and its reader."""

    attribute: str
    names: tuple[str, ...]
    read: Callable[[str], object]
    default: object = None
    #: The value is never shown, and may come from a file or a systemd credential.
    secret: bool = False
    #: Between the members of a list.
    separator: str = ","
    #: This version knows the setting, but does nothing with it yet.
    unused: bool = False


def flag(text: str) -> bool:
    """Read a yes or no."""
    word = text.lower()
    if word not in {"true", "1", "yes", "on", "false", "0", "no", "off"}:
        raise ValueError("is no yes or no: use true or false")
    return word in {"true", "1", "yes", "on"}


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"will not do: use a whole number from {least} to {most}")
        return int(text)

    return read


def decimal(least: float, most: float) -> Callable[[str], float]:
    """Return a reader of decimal numbers within bounds."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not least <= float(text) <= most:
            raise ValueError(f"will not do: use a number from {least:g} to {most:g}")
        return float(text)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one word out of several."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"will not do: use {', '.join(words[:-1])} or {words[-1]}")
        return text.lower()

    return read


def line(text: str) -> str:
    """Read one line of text without control characters, of at most 200 characters."""
    if not text.isprintable() or len(text) > 200:
        raise ValueError("will not do: use one line of at most 200 printable characters")
    return text


def identity(text: str) -> str:
    """Read a name or address that git can put into a commit."""
    if any(character in text for character in "<>"):
        raise ValueError("will not do: git allows no < and > in it")
    return line(text)


def secret(text: str) -> SecretStr:
    """Read a key or token."""
    if not PRINTABLE.fullmatch(text):
        raise ValueError("will not do: a key is one word of printable ASCII")
    return SecretStr(text)


def token(text: str) -> SecretStr:
    """Read a key that opens this orchestrator."""
    if len(text) < MIN_TOKEN_LENGTH:
        raise ValueError(f"will not do: a key that opens this has at least {MIN_TOKEN_LENGTH} characters")
    return secret(text)


def path(text: str) -> Path:
    """Read a path of our own: absolute, so that it does not follow the working directory."""
    if "\0" in text or not text.startswith("/"):
        raise ValueError("will not do: write the path out, from / on")
    plain = Path(os.path.normpath("/" + text.lstrip("/")))
    if any(plain.is_relative_to(never) for never in NEVER_KEPT) and not plain.is_relative_to("/dev/shm"):  # noqa: S108 - memory, if not for long
        raise ValueError("will not do: nothing can be kept in /proc, /sys and /dev")
    return Path(text)


def server(text: str, schemes: tuple[str, ...]) -> SplitResult | None:
    """Return the parts of a URL that names a server, or None."""
    try:
        parts = urlsplit(text)
        usable = bool(parts.scheme in schemes and parts.hostname and parts.port != 0)
    except ValueError:
        return None
    return parts if usable and PRINTABLE.fullmatch(text) else None


def url(*schemes: str) -> Callable[[str], str]:
    """Return a reader of URLs of a server, without credentials, and without a slash at the end."""

    def read(text: str) -> str:
        parts = server(text, schemes)
        if parts is None:
            raise ValueError(f"is no URL of a server: use {schemes[0]}://host[:port]")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("will not do: leave out user, password, ? and #")
        return text.rstrip("/")

    return read


def valkey_url(text: str) -> SecretStr:
    """Read the URL of a Valkey, which may hold a password."""
    parts = server(text, ("valkey", "valkeys", "redis", "rediss"))
    if parts is None:
        raise ValueError("is no URL of a server: use valkey://[user:password@]host[:port][/database]")
    if parts.query or parts.fragment or not re.fullmatch(r"/?|/[0-9]{1,5}", parts.path):
        raise ValueError("will not do: after the host there may be a port and a database's number, no more")
    return SecretStr(text)


def each(read: Callable[[str], T], separator: str = ",") -> Callable[[str], tuple[T, ...]]:
    """Return a reader of lists, each member read by `read`; empty members are left out."""

    def read_all(text: str) -> tuple[T, ...]:
        members = (member.strip() for member in text.split(separator))
        return tuple(read(member) for member in members if member)

    return read_all


def host_pattern(text: str) -> str:
    """Read a host, a host glob or a network."""
    if HOST_PATTERN.fullmatch(text.lower()):
        return text.lower()
    try:
        return str(ipaddress.ip_network(text, strict=False) if "/" in text else address(text))
    except ValueError:
        raise ValueError("will not do: use host names, globs like *.example.org, or networks") from None


def egress(text: str) -> str:
    """Read a preset, or hosts that agents may reach."""
    read_entries(text.lower())
    return text.lower()


def model_pattern(text: str) -> str:
    """Read the name of a model, or a glob of names."""
    if not re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9._:/@*-]{0,127}", text):
        raise ValueError("will not do: use names of models, or globs like claude-haiku-*")
    return text


def branch_pattern(text: str) -> str:
    """Read a branch, or a glob of branches."""
    if not re.fullmatch(r"[A-Za-z0-9_*?][A-Za-z0-9._/+@#=*?-]{0,199}", text):
        raise ValueError("will not do: use branches, globs like release/*, or HEAD for a remote's default")
    return text


def host_name(text: str) -> str:
    """Read a host name or an address, without a port."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", text):
        return text.lower()
    try:
        return str(address(text))
    except ValueError:
        raise ValueError("will not do: use a host name or an address, without a port") from None


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address, with or without the brackets of IPv6."""
    return ipaddress.ip_address(text.strip("[]"))


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener there."""
    try:
        return address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_encrypted_or_local(server: str) -> bool:
    """Say whether what is sent to this URL crosses no network in the open."""
    parts = urlsplit(server)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def origin(text: str) -> str:
    """Read a web origin (`https://host[:port]`), or a host, which stands for its origins."""
    return url("https", "http")(text).lower() if "://" in text else host_name(text)


def is_there(found: Path) -> bool:
    """Say whether something exists there that we can see."""
    try:
        return found.exists()
    except OSError:  # a folder on the way is closed to us
        return False


def toolchain(text: str) -> Path:
    """Read a host path that sandboxes may show."""
    shown = Path(text)
    if not shown.is_absolute() or not is_there(shown):
        raise ValueError(f"will not do: {text!r} is no absolute path of something that exists")
    real = shown.resolve()
    if real in NEVER_WHOLE or any(real.is_relative_to(never) for never in NEVER_SHOWN):
        raise ValueError(f"will not do: {text!r} holds what no agent may see")
    return shown


def search_path(text: str) -> str:
    """Read a PATH of absolute directories."""
    if not text.isprintable() or not all(part.startswith("/") for part in text.split(":")):
        raise ValueError("will not do: use absolute directories with : between them")
    return text
