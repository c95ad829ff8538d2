"""Which repository URLs a task may name, and what they stand for.

The invariant: a `Remote` exists only for a URL that was taken apart to the last character, so that nothing in
it can become an option, a command, a credential or a way out of the allowed roots. Host names are judged here
only by their look and by the operator's list; their addresses by `address`, each time they are used. Caller:
`repositories`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from orchestrator.core.address import Network, as_address, as_network, name_trouble
from orchestrator.errors import DirectoryMissing, UrlRefused

#: In `UrlRules.hosts`: every host whose addresses are all public.
PUBLIC = "public"
MAX_URL = 2000  # characters
_DEFAULT_PORT = {"https": 443, "ssh": 22}
#: Ports that a forge is reached at; others only on hosts that the operator listed.
_USUAL_PORTS = {"https": {443, 8443}, "ssh": {22, 443}}
_PATH = re.compile(r"(/[A-Za-z0-9._~+@=,!$()*:-]+)+/?")
_FIRST_UNPRIVILEGED = 1024


@dataclass(frozen=True, slots=True)
class UrlRules:
    """What the operator allows: `file://` roots, and hosts (names, globs, networks, `public`).

    No hosts at all means `public`.
    """

    file_roots: tuple[Path, ...]
    hosts: tuple[str, ...] = ()

    @property
    def public(self) -> bool:
        """Whether any host with public addresses will do."""
        return not self.hosts or PUBLIC in self.hosts

    @property
    def networks(self) -> tuple[Network, ...]:
        """The listed networks and single addresses."""
        found = (as_network(entry) for entry in self.hosts)
        return tuple(network for network in found if network is not None)

    def lists(self, host: str) -> bool:
        """Return whether the host's name is listed, at whatever address it may be."""
        return any(fnmatchcase(host, entry.lower()) for entry in self.hosts if entry != PUBLIC)


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository elsewhere, by its canonical URL; `directory` for `file`, `host` and `port` else."""

    url: str
    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    directory: Path | None = None

    @property
    def key(self) -> str:
        """The name of its mirror on disk."""
        return hashlib.sha256(self.url.encode()).hexdigest()


def parse_url(url: str, rules: UrlRules) -> Remote:
    """Return what the URL stands for; raises `UrlRefused` with the one thing that is wrong with it.

    Only `DirectoryMissing`, for a path below the roots, can be otherwise a moment later.
    """
    if len(url) > MAX_URL:
        raise UrlRefused(f"the repository URL is longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or set(url) & set(" \"'<>\\^`{|}"):
        raise UrlRefused("the repository URL holds a character that no URL may: percent-encode it")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in {"https", "ssh", "file"}:
        raise UrlRefused("the repository URL must begin with https://, ssh:// or file://")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlRefused("the repository URL has a host or port that cannot be read") from None
    if "@" in parts.netloc:
        raise UrlRefused(
            "the repository URL carries a user name or password: tokens are set by the operator, "
            "and the login for ssh is always git"
        )
    if "?" in url or "#" in url:
        raise UrlRefused("the repository URL carries a query or a fragment")
    if parts.scheme == "file":
        return _file_remote(parts.netloc, parts.path, rules)
    return _host_remote(parts.scheme, parts.hostname or "", port, parts.path, rules)


def _host_remote(scheme: str, host: str, port: int | None, path: str, rules: UrlRules) -> Remote:
    address = as_address(host)
    if address is None:
        _check_name(host)
    number = _DEFAULT_PORT[scheme] if port is None else port
    listed = rules.lists(host) or (address is not None and any(address in n for n in rules.networks))
    if number not in _USUAL_PORTS[scheme] and not (listed and number >= _FIRST_UNPRIVILEGED):
        usual = " or ".join(str(each) for each in sorted(_USUAL_PORTS[scheme]))
        raise UrlRefused(
            f"port {number} is not one for {scheme}: use {usual}, "
            "or one above 1023 of a host in REPOSITORY_HOSTS"
        )
    if not listed and not rules.public and not (address is None and rules.networks):
        raise UrlRefused(f"the host {host} is not in REPOSITORY_HOSTS")
    if not listed and (host == "localhost" or host.endswith(".localhost")):
        raise UrlRefused(f"the host {host} is this machine and not in REPOSITORY_HOSTS")
    if "//" in path or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise UrlRefused("the repository URL's path must be plain names between slashes")
    if any(name.startswith("-") for name in path.split("/")):
        raise UrlRefused("a name in the repository URL's path begins with a dash")
    shown = f"[{host}]" if ":" in host else host
    suffix = "" if number == _DEFAULT_PORT[scheme] else f":{number}"
    path = path.rstrip("/")
    return Remote(f"{scheme}://{shown}{suffix}{path}", scheme, host, number, path)


def _check_name(host: str) -> None:
    trouble = name_trouble(host)
    if trouble is not None and "unusual" in trouble:
        raise UrlRefused(f"the host {host} {trouble}")
    if trouble is not None:
        raise UrlRefused(f"the repository URL {trouble}")


def _file_remote(netloc: str, path: str, rules: UrlRules) -> Remote:
    if netloc:
        raise UrlRefused("a file:// URL names no host: write file:///path")
    raw = unquote_to_bytes(path)
    if any(byte < 0x20 or byte == 0x7F for byte in raw):
        raise UrlRefused("the repository URL holds an encoded control character")
    # By its look first, so that a path elsewhere is never touched; one answer for all that lies outside.
    outside = UrlRefused("the file:// URL lies outside of the directories for repositories (PROJECTS_DIR)")
    try:
        text = Path(os.path.normpath(raw.decode()))
    except ValueError:
        raise outside from None
    if not any(root in text.parents or root.resolve() in text.parents for root in rules.file_roots):
        raise outside
    try:
        directory = text.resolve(strict=True)
        is_directory = stat.S_ISDIR(directory.stat().st_mode)
    except (OSError, RuntimeError):
        raise DirectoryMissing("the file:// URL names no directory that can be read here") from None
    if not any(root.resolve() in directory.parents for root in rules.file_roots):
        raise outside
    if not is_directory:
        raise DirectoryMissing("the file:// URL names no directory that can be read here")
    if any(ord(character) < 0x20 for character in str(directory)):
        raise UrlRefused("the file:// URL leads to a name with a control character")
    return Remote(f"file://{directory}", "file", path=str(directory), directory=directory)
