"""The mirror repository of one remote: the only place from which git speaks to the network.

The invariant: only this process writes it, one command a ref at a time; what a killed git left (locks, half
packs) is gone before the next command that it could hinder. It is there while anybody uses it, and stays only
if it got anything: a remote that gave nothing leaves nothing. Callers: `shelf`, `repositories`, `landing`,
`renewal` and `worktree`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from orchestrator.errors import BranchMissing, GitFailed, GitTimeout, RepositoryError, RepositoryUnreachable
from orchestrator.repo.access import Access, Gateway
from orchestrator.repo.bare import HEAD, make_directory, write_bare
from orchestrator.repo.git import NOTHING, REMOTE_S, Extra, Git, complaint
from orchestrator.repo.single_flight import Flights
from orchestrator.repo.soundness import Seen, got_anything
from orchestrator.repo.squatter import clear_place
from orchestrator.repo.unmoved import stands_at
from orchestrator.repo.url import Remote
from orchestrator.repo.waste import litter
from sandbox.process import Completed

#: How long a question may take that moves no objects.
ASK_S = 60.0
#: Faults of old commits that harm nobody and that the base of a real project may well have.
_HARMLESS = (
    *("badDate", "badDateOverflow", "badEmail", "badName", "badTimezone", "missingEmail", "zeroPaddedDate"),
    *("missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "multipleAuthors"),
)
_TOLERANT = tuple(f"fetch.fsck.{fault}=ignore" for fault in _HARMLESS)
_CONFIG = (
    "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\tlogallrefupdates = false\n"
    # What is written is read by the user that agents run as; the directory above is closed to all others.
    "\tsharedRepository = 0644\n"
    "[gc]\n\tauto = 0\n[fetch]\n\tunpackLimit = 20\n"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_REPOSITORY = re.compile(r"does not appear to be a git repository|not a git repository")
_FOREIGN = re.compile(r"dubious ownership")
#: What begins the name of one that is being removed; in one that was found damaged, or robbed: why.
GONE, MARK = "gone-", "damaged"
#: "Not our ref", by contrast, is a branch that moved while we asked.
_NO_REF = re.compile(r"couldn't find remote ref")


class Mirror:
    """A bare copy of what was asked of a remote; never two of one remote at once, see `shelf`."""

    def __init__(self, directory: Path, remote: Remote, gateway: Gateway, readers: int) -> None:
        self.directory = directory
        self.remote = remote
        self.git = Git(directory)
        self._gateway = gateway
        self._readers = readers  # the group that agents are in
        self._refreshes: Flights[str, str] = Flights()
        self._users = 0
        self._complete = False
        self._taken: str | None = None  # by what that we moved aside
        self._littered = True  # by the process before us
        self._left = trio.Event()
        self._answered = False  # to another mirror of it
        #: Packs that were found whole by this process.
        self.seen_whole: set[Seen] = set()

    @property
    def objects(self) -> Path:
        """The directory that agents read."""
        return self.directory / "objects"

    async def refresh(self, branch: str) -> str:
        """Return the commit that the remote has under a branch, with all its objects here.

        Many who ask at once share one run that began after they asked. Raises `BranchMissing`,
        `RepositoryUnreachable`, `UrlRefused`, or `RepositoryError` for what is no repository.
        """
        return await self._refreshes.get(branch, lambda: self._refresh(branch))

    async def _refresh(self, branch: str) -> str:
        source = f"refs/heads/{branch}"
        # A flat name of our own: a branch `a/b` may come after a branch `a` has gone.
        kept = f"refs/base/{hashlib.sha256(branch.encode()).hexdigest()[:40]}"
        self._take_place()
        known = self.git.read_ref(kept)
        if known is not None and self._stands_at(branch, known):
            return known
        addresses = await self._gateway.resolve(self.remote)
        with self.hold(kept), self._gateway.open(self.remote, addresses) as access:
            if known is not None:
                # Mostly nothing has changed, and the question costs less than a fetch that finds so.
                now = await self._ask(access, source)
                if now is None:
                    raise BranchMissing(f"{self.remote.url} has no branch {branch}")
                if now == known:
                    return known
            await self._fetch(access, source, kept, branch)
        commit = self.git.read_ref(kept)
        if commit is None:
            raise GitFailed(f"git fetched {branch} and wrote no ref")
        return commit

    def _stands_at(self, branch: str, commit: str) -> bool:
        """Return whether a remote in a local directory can be seen to be where it was: a file, no process."""
        directory = self.remote.directory
        return directory is not None and stands_at(directory, self._gateway.rules.file_roots, branch, commit)

    async def _fetch(self, access: Access, source: str, kept: str, branch: str) -> None:
        done = await self._attempt(
            *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"),
            *("--no-recurse-submodules", *access.fetch_options, "--", access.address, f"+{source}:{kept}"),
            extra=replace(access.extra, config=(*access.extra.config, *_TOLERANT)),
            deadline_s=REMOTE_S,
        )
        if not done.exit.ok and _NO_REF.search(complaint(done.stderr)):
            raise BranchMissing(f"{self.remote.url} has no branch {branch}")
        self._check(done)

    async def observe(self, ref: str) -> str | None:
        """Return the commit that the remote has under `ref` now, or None."""
        addresses = await self._gateway.resolve(self.remote)
        with self.hold(), self._gateway.open(self.remote, addresses) as access:
            return await self._ask(access, ref)

    async def head(self) -> str | None:
        """Return the remote's default branch, or None where it names none."""
        addresses = await self._gateway.resolve(self.remote)
        with self.hold(), self._gateway.open(self.remote, addresses) as access:
            named = [what for what, name in await self._list(access, "HEAD", "--symref") if name == "HEAD"]
        return next((ref[16:] for ref in named if ref.startswith("ref: refs/heads/")), None)

    async def _ask(self, access: Access, ref: str) -> str | None:
        listed = await self._list(access, ref)
        return next((what for what, name in listed if name == ref and _COMMIT.fullmatch(what)), None)

    async def _list(self, access: Access, ref: str, *options: str) -> list[list[str]]:
        done = await self._attempt(
            *("ls-remote", "--quiet", *options, *access.fetch_options, "--", access.address, ref),
            extra=access.extra,
            deadline_s=ASK_S,
        )
        self._check(done)
        lines = done.stdout.decode(errors="replace").splitlines()
        return [line.split("\t") for line in lines if line.count("\t") == 1]

    async def push(self, commit: str, ref: str, *, expected: str) -> Completed:
        """Push a commit onto a ref that must be at `expected` (empty: not exist); return git's answer."""
        addresses = await self._gateway.resolve(self.remote)
        with self.hold(), self._gateway.open(self.remote, addresses) as access:
            return await self._attempt(
                *("push", "--porcelain", "--no-verify", "--no-progress", "--no-follow-tags"),
                *("--no-recurse-submodules", "--no-signed", f"--force-with-lease={ref}:{expected}"),
                *(*access.push_options, "--", access.address, f"{commit}:{ref}"),
                extra=access.extra,
                deadline_s=REMOTE_S,
            )

    async def adopt(
        self, source: Path, commit: str, ref: str | None = None, *, options: Sequence[str] = ()
    ) -> None:
        """Copy a commit with all that it needs from a repository of ours, and keep it under `ref`."""
        with self.hold(*([ref] if ref else [])):
            done = await self._attempt(
                *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"),
                *("--no-recurse-submodules", *options, "--", str(source)),
                f"+{commit}:{ref}" if ref else commit,
                extra=Extra({"GIT_ALLOW_PROTOCOL": "file"}),
                deadline_s=ASK_S,
            )
            if not done.exit.ok:
                raise GitFailed(f"git fetch from quarantine ended with {done.exit}: {complaint(done.stderr)}")

    async def _attempt(self, *args: str, extra: Extra, deadline_s: float) -> Completed:
        try:
            return await self.git.attempt(*args, extra=extra, deadline_s=deadline_s)
        except GitTimeout as error:
            raise GitTimeout(f"{self.remote.url}: {error.detail}") from error

    def _check(self, done: Completed) -> None:
        """Raise for a command that failed; `RepositoryUnreachable` only where a retry can help."""
        if done.exit.ok:
            return
        said = complaint(done.stderr)
        # A repository that gave us something, or a directory that was there, vanished: perhaps for a moment.
        gone = self.remote.directory is not None and not self.remote.directory.is_dir()
        never = not gone and not self._answered and not got_anything(self.directory)
        if _FOREIGN.search(said) or (never and _NO_REPOSITORY.search(said)):
            raise RepositoryError(f"{self.remote.url} is not a git repository that can be read here: {said}")
        raise RepositoryUnreachable(f"{self.remote.url}: {said}")

    @property
    def in_use(self) -> bool:
        """Whether anybody is at work on the repository."""
        return self._users > 0

    async def has(self, commit: str) -> bool:
        """Return whether the commit is here; raises `GitFailed` where that cannot be told."""
        with self.hold():
            done = await self._attempt(
                "cat-file", "-e", f"{commit}^{{commit}}", extra=NOTHING, deadline_s=ASK_S
            )
        if done.exit.signal is not None:
            raise GitFailed(f"git could not look for the commit {commit[:12]}: {done.exit}")
        return done.exit.ok

    def twin(self, directory: Path) -> Mirror:
        """Return another mirror of the same remote, to be made elsewhere."""
        twin = Mirror(directory, self.remote, self._gateway, self._readers)
        twin._answered = True
        return twin

    async def give_way(self, fresh: Mirror, aside: Path) -> None:
        """Wait until nobody uses the repository, then move it `aside` and put a `fresh` one in its place."""
        while self._users:
            self._left = trio.Event()
            await self._left.wait()
        self.directory.rename(aside)
        fresh.directory.rename(self.directory)
        self._complete, self._littered = True, False
        self.seen_whole.clear()

    @contextmanager
    def hold(self, *refs: str) -> Iterator[None]:
        """Keep the repository in its place as long as the block, made now if it is not there.

        What a killed command left is removed first, where it could be in the way of a command on `refs`.
        """
        self._users += 1
        try:
            if self._take_place() or self._users == 1:  # whoever uses that has nothing anyhow
                self._prepare()
            for ref in refs:
                # Nobody else is at this ref now, so its lock is a dead command's.
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    (self.directory / f"{ref}.lock").unlink()
            yield
        except BaseException:
            self._littered = True
            raise
        finally:
            self._users -= 1
            if self._users == 0:
                self._left.set()
                if not got_anything(self.directory):
                    self._remove()

    def _take_place(self) -> bool:
        self._taken = clear_place(self.directory) or self._taken
        return self._taken is not None

    def _prepare(self) -> None:
        """Make the repository, or put right what a crash left of it; only while nobody uses it."""
        if not self._complete or _is_spoilt(self.directory):  # or removed under our feet
            make_directory(self.directory, 0o750, group=self._readers)
            write_bare(self.directory, _CONFIG)
            self._complete = True
        if self._taken:
            (self.directory / MARK).write_text(self._taken)  # so that it is made anew with all, and told
            self._taken = None
        if self._littered:
            self._sweep()

    def _remove(self) -> None:
        """Remove the repository, synchronously: whoever comes next finds none, and makes a new one."""
        self._complete = False
        gone = self.directory.with_name(f"{GONE}{secrets.token_hex(8)}")
        with contextlib.suppress(OSError):  # then it stays, and goes at the next start
            self.directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)  # a few small files; the next start takes what resists

    def _sweep(self) -> None:
        """Remove half packs, half objects and locks; only while nobody uses the repository."""
        self._littered = False
        for path in litter(self.directory):
            path.unlink(missing_ok=True)


def _is_spoilt(mirror: Path) -> bool:
    """Return whether what git reads before all else is not as we wrote it."""
    try:
        found = [(mirror / name).read_bytes() for name in ("HEAD", "config")]
    except FileNotFoundError:
        return True
    except OSError:  # it cannot be looked at now
        return False
    return found != [HEAD.encode(), _CONFIG.encode()]
