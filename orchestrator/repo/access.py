"""How git reaches one remote: the pinned address, the one protocol, the token, the identity of the far side.

The invariant: a token is neither in an argument, nor in a URL, nor in the environment; git asks for it by a
program of ours, which reads it from an inherited descriptor and gives it only to the host it is for. Callers:
`mirrors` and `repositories`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.address import Address
from orchestrator.errors import RepositoryUnreachable
from orchestrator.repo.address import resolve_host
from orchestrator.repo.git import Extra
from orchestrator.repo.url import Remote, UrlRules
from sandbox.base import MIB

#: Asked by git as `askpass "Password for 'https://x-access-token@host': "`. The descriptor is opened anew
#: each time: git may ask twice.
_ASKPASS = """#!/bin/sh
case "$1" in
  Username*"//$ORCHESTRATOR_GIT_HOST'"*) printf '%s\\n' x-access-token ;;
  Password*"@$ORCHESTRATOR_GIT_HOST'"*) cat "/proc/self/fd/$ORCHESTRATOR_GIT_TOKEN_FD" ;;
  *) exit 1 ;;
esac
"""


#: The ceiling of a git that talks to another host: all that the far side advertises is kept in memory, for as
#: long as the deadline allows. The largest repositories are indexed in less.
BOUNDED = ("prlimit", f"--as={8192 * MIB}", "--core=0", "--")


def no_tokens(host: str) -> str | None:
    """Return None: there is no token for any host."""
    return None


def write_askpass(path: Path) -> None:
    """Write the program that git asks for a token."""
    path.write_text(_ASKPASS)
    path.chmod(0o700)


@dataclass(frozen=True, slots=True)
class Access:
    """The words for one command: where to, and what else it needs."""

    address: str
    extra: Extra
    #: For `fetch` and `ls-remote`, and for `push`: how the far side is started, where it is a local
    #: directory.
    fetch_options: tuple[str, ...] = ()
    push_options: tuple[str, ...] = ()


class Gateway:
    """Makes an `Access`; one for the whole process."""

    def __init__(self, rules: UrlRules, askpass: Path, token_for: Callable[[str], str | None]) -> None:
        self.rules = rules
        self._askpass = askpass
        self._token_for = token_for

    async def resolve(self, remote: Remote) -> list[Address]:
        """Return the addresses that were judged for a remote; none for a directory."""
        return [] if remote.directory is not None else await resolve_host(remote, self.rules)

    @contextmanager
    def open(self, remote: Remote, addresses: list[Address]) -> Iterator[Access]:
        """Give access to the remote at these addresses; the token's descriptor lives as long as the block."""
        if remote.directory is not None:
            with _open_local(remote.directory) as access:
                yield access
        elif remote.scheme == "ssh":
            yield _ssh_access(remote, addresses[0])
        elif (token := self._token_for(remote.host)) is None:
            yield _https_access(remote, addresses, {}, ())
        else:
            with _memory_file(f"{token}\n") as fd:
                env = {
                    "GIT_ASKPASS": str(self._askpass),
                    "ORCHESTRATOR_GIT_HOST": remote.url.removeprefix("https://").partition("/")[0],
                    "ORCHESTRATOR_GIT_TOKEN_FD": str(fd),
                }
                yield _https_access(remote, addresses, env, (fd,))


def _https_access(
    remote: Remote, addresses: list[Address], env: dict[str, str], fds: tuple[int, ...]
) -> Access:
    pinned = ",".join(f"[{each}]" if each.version == 6 else str(each) for each in addresses)
    config = (f"http.curloptResolve={remote.host}:{remote.port}:{pinned}", "http.proxy=")
    return Access(remote.url, Extra({"GIT_ALLOW_PROTOCOL": "https", **env}, config, fds, prefix=BOUNDED))


def _ssh_access(remote: Remote, address: Address) -> Access:
    alias = remote.host if remote.port == 22 else f"[{remote.host}]:{remote.port}"
    options = (
        *("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=20", "ServerAliveInterval=15"),
        *(f"HostName={address}", f"HostKeyAlias={alias}", "User=git", "CheckHostIP=no"),
        *("ProxyCommand=none", "ProxyJump=none", "PermitLocalCommand=no", "ClearAllForwardings=yes"),
        *("ForwardAgent=no", "ControlMaster=no", "ControlPath=none"),
    )
    # Every word is ours or was checked by `url`: names and addresses hold nothing that a shell would read.
    command = "ssh " + " ".join(f"-o'{option}'" for option in options)
    env = {"GIT_ALLOW_PROTOCOL": "ssh", "GIT_SSH_COMMAND": command, "GIT_SSH_VARIANT": "ssh"}
    return Access(remote.url, Extra(env, prefix=BOUNDED))


def _owner_of(directory: Path) -> os.stat_result:
    try:
        return directory.stat()
    except OSError as error:
        raise RepositoryUnreachable(f"the directory {directory} cannot be read: {error.strerror}") from error


@contextmanager
def _open_local(directory: Path) -> Iterator[Access]:
    owner = _owner_of(directory)
    env = {"GIT_ALLOW_PROTOCOL": "file"}
    if owner.st_uid == os.geteuid():
        yield Access(str(directory), Extra(env))
    elif os.geteuid() == 0:
        # The far side has hooks and a configuration that its owner writes: it runs as the owner, never as
        # root.
        drop = f"setpriv --reuid {owner.st_uid} --regid {owner.st_gid} --clear-groups -- git"
        fetch, push = f"--upload-pack={drop} upload-pack", f"--receive-pack={drop} receive-pack"
        yield Access(str(directory), Extra(env), (fetch,), (push,))
    else:
        # Git refuses what belongs to another user. The operator has allowed this root, so it is allowed for
        # exactly this directory; by a file, because the far side is given no other configuration.
        name = str(directory).replace("\\", "\\\\").replace('"', '\\"')
        with _memory_file(f'[safe]\n\tdirectory = "{name}"\n\tdirectory = "{name}/.git"\n') as fd:
            yield Access(
                str(directory), Extra({**env, "GIT_CONFIG_GLOBAL": f"/proc/self/fd/{fd}"}, pass_fds=(fd,))
            )


@contextmanager
def _memory_file(text: str) -> Iterator[int]:
    fd = os.memfd_create("git", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        yield fd
    finally:
        os.close(fd)
