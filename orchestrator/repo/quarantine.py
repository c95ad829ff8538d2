"""Where an agent's commits arrive, are judged, and become one commit of ours.

The invariant: an agent reaches it only as the far end of one `git receive-pack` of ours, with checks on every
object, a ceiling on the bytes, and exactly one ref that it can set; whatever else is done here is done by us
on our own repository. Callers: `worktree` (import) and `supervise.run`.
"""

from __future__ import annotations

import copy
import secrets
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.text import cleaned
from orchestrator.errors import GitFailed, RepositoryError
from orchestrator.repo.bare import make_directory, write_bare, write_ref
from orchestrator.repo.compare import checked_commit, read_changed, read_diff
from orchestrator.repo.git import BOUNDED, Extra, Git
from orchestrator.repo.inside import CHECKOUT, run_script, script_spec
from orchestrator.repo.merging import Brought, bring, find_markers
from orchestrator.repo.objects import ObjectTooLarge, open_reader, parse_tree
from orchestrator.repo.origin import Origin
from orchestrator.repo.outflow import ObjectStream, open_objects
from orchestrator.repo.policy import Policy, Violation, judge
from orchestrator.repo.removal import open_ways, remove_tree
from orchestrator.repo.sealing import Sealed, line_of, seal, seal_each
from orchestrator.repo.workspace import make_workspace
from sandbox.base import MIB, Backend, Bind, Directory, Layers, Spec
from sandbox.process import Child

__all__ = [
    "MIRROR_AT",
    "QUARANTINE_AT",
    "Checkout",
    "Quarantine",
    "Sealed",
]

#: Where a namespaced sandbox sees the objects of the mirror and of the quarantine.
MIRROR_AT, QUARANTINE_AT = "/mirror/objects", "/quarantine/objects"
MAX_INPUT_BYTES = 512 * MIB
MAX_SUBJECT = 200  # characters
CHECKOUT_S = 120.0
_OWN_COMMITS = 20
_IMPORTS = "refs/heads/agent"
#: What a salvage brought in whole, of an agent that is over: to be kept in the mirror, once there is room.
_SALVAGED = "refs/salvage/brought"
#: The name of an empty file.
_NOTHING = "nothing"
_CONFIG = (
    "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\tlogallrefupdates = false\n"
    "\tsharedRepository = 0644\n\thooksPath = /dev/null\n"
    # What the base already has is known by the ref that an import finds; nobody need list the mirror's refs.
    "\talternateRefsCommand = true\n"
    "[receive]\n\tfsckObjects = true\n\tunpackLimit = 1\n\tdenyDeletes = true\n\tautogc = false\n"
    f"\tmaxInputSize = {MAX_INPUT_BYTES}\n\tadvertisePushOptions = false\n"
    "[uploadpack]\n\tallowAnySHA1InWant = true\n"
    "[gc]\n\tauto = 0\n"
    "[transfer]\n\thideRefs = refs/\n"
)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A fresh checkout of one commit, for a gate."""

    workspace: Layers | Directory
    binds: tuple[Bind, ...]


class Quarantine:
    """The bare repository of one agent; lives and dies with its worktree."""

    def __init__(self, directory: Path, room: Path, origin: Origin, label: str, policy: Policy) -> None:
        #: The commit over which candidates are judged: the one checked out, until the work is brought on.
        self.base = origin.commit
        self._directory = directory
        self._complete = False
        self._room = room
        self._origin = origin
        self._label = label
        self._policy = policy.reserving(origin.made)
        self._imports = 0
        self._own_subjects: set[str] = set()

    def over(self, base: str, origin: Origin | None = None) -> Quarantine:
        """Return the same quarantine, as a judge over another base, and on its set-up, sees it."""
        other = copy.copy(self)
        other.base = base
        other.stand_on(origin or self._origin)
        return other

    def stand_on(self, origin: Origin) -> None:
        """Judge from now on, on what another set-up made."""
        self._origin, self._policy = origin, self._policy.reserving(origin.made)

    def claim(self) -> None:
        """Make its directory, by which it is found; what goes into it has time until it is first needed."""
        make_directory(self._directory, 0o750, group=self._origin.user.gid)

    def take_up(self) -> str | None:
        """Go on where an earlier life was; return the last commit that it brought in."""
        imports = self._directory / _IMPORTS
        numbers = [int(path.name) for path in imports.glob("*") if path.name.isdecimal()]
        self._imports = max(numbers, default=0)
        found = [Git(self._directory).read_ref(f"{_IMPORTS}/{number}") for number in sorted(numbers)]
        brought = [commit for commit in found if commit and commit != self.base]
        return checked_commit(brought[-1]) if brought else None

    @property
    def place(self) -> Path:
        """Where the repository is, or will be: agents cannot write there."""
        return self._directory

    @property
    def directory(self) -> Path:
        """The repository, written now if it was not yet: no agent waits for it before its start."""
        if not self._complete:
            if not self._directory.is_dir():  # its worktree has been left: nothing must come after it
                raise GitFailed(f"the quarantine of {self._label} is gone")
            write_bare(self._directory, _CONFIG, alternates=(str(self._origin.objects),))
            (self._directory / _NOTHING).touch(0o644)
            self._complete = True
        return self._directory

    @property
    def git(self) -> Git:
        """Git on the repository."""
        return Git(self.directory)

    def cover_alternates(self) -> Bind:
        """Return what hides the quarantine's own alternates: they name a path of the host, strange inside."""
        return Bind(self.directory / _NOTHING, f"{QUARANTINE_AT}/info/alternates")

    def open_import(self, fd: int) -> tuple[str, AbstractAsyncContextManager[Child]]:
        """Return a ref of its own for one push, and the receiving end of it on a descriptor of ours.

        The ref exists already, at the base: so the far side need not send what we have, and can make no ref
        beside or below it.
        """
        self._imports += 1
        ref = f"{_IMPORTS}/{self._imports}"
        write_ref(self.directory, ref, self.base)
        extra = Extra(config=(f"transfer.hideRefs=!{ref}",), prefix=BOUNDED)
        return ref, self.git.open("receive-pack", str(self.directory), stdin=fd, stdout=fd, extra=extra)

    async def imported(self, ref: str) -> str | None:
        """Return the commit that a push brought, or None where it brought nothing over the base."""
        commit = self.git.read_ref(ref)
        if commit is None or commit == self.base:
            return None
        trees = await self.git.run("rev-parse", f"{commit}^{{tree}}", f"{self.base}^{{tree}}")
        candidate, base = trees.decode().split()
        return commit if candidate != base else None

    def note_salvaged(self, commit: str) -> None:
        """Remember what a salvage has brought in: nothing works on the files any more, so it is all."""
        write_ref(self.directory, _SALVAGED, checked_commit(commit))

    def salvaged(self) -> str | None:
        """Return what an earlier salvage brought in, and could not keep."""
        commit = Git(self._directory).read_ref(_SALVAGED)
        return checked_commit(commit) if commit else None

    def note_message(self, message: str) -> None:
        """Remember a commit message of ours, so that it is not taken for the agent's."""
        self._own_subjects.add(_subject(message))

    async def judge(self, candidate: str) -> list[Violation]:
        """Return what the policy does not allow in the candidate; a few seconds at most, whatever it is."""
        found = await judge(self.git, self.base, checked_commit(candidate), self._policy)
        return found or await find_markers(self.git, self.base, candidate)

    async def bring(self, sealed: Sealed, onto: str) -> Brought:
        """Bring commits of record onto another base; what comes of it is to be judged `over` that."""
        return await bring(self.git, self._origin.identity, sealed, checked_commit(onto))

    async def subject_of(self, candidate: str) -> str:
        """Return the subject of the agent's own last commit, cleaned and cut; empty where it made none."""
        answer, _ = await self.git.read_start(
            *("log", "-z", "--format=%s", "--no-show-signature", f"--max-count={_OWN_COMMITS}"),
            *(checked_commit(candidate), "--not", self.base, "--"),
            max_bytes=64 * 1024,
        )
        for raw in answer.split(b"\0"):
            subject = _subject(raw.decode(errors="replace"))
            if subject and subject not in self._own_subjects:
                return subject
        return ""

    async def seal(self, candidate: str, message: str) -> Sealed:
        """Make the commit of record: the candidate's files, as one commit of ours over the base."""
        return await seal(self.git, self._origin.identity, self.base, checked_commit(candidate), message)

    async def seal_each(self, candidate: str, message_of: Callable[[str], str]) -> Sealed | None:
        """Make each of the candidate's commits anew; None where its history is no short line."""
        checked = checked_commit(candidate)
        return await seal_each(self.git, self._origin.identity, self.base, checked, message_of)

    async def line_of(self, candidate: str) -> list[str]:
        """Return the candidate's commits over the base, oldest first; none where that is no short line."""
        return await line_of(self.git, self.base, checked_commit(candidate))

    def is_own(self, subject: str) -> bool:
        """Return whether a commit's subject is ours rather than the agent's."""
        return _subject(subject) in self._own_subjects

    async def diff(
        self,
        commit: str,
        *,
        max_bytes: int,
        paths: tuple[str, ...] = (),
        context: int = 3,
        text: bool = False,
    ) -> bytes:
        """Return the change over the base as a patch, cut with a mark at `max_bytes`; of some paths only."""
        pair = (self.base, checked_commit(commit))
        return await read_diff(self.git, *pair, max_bytes=max_bytes, paths=paths, context=context, text=text)

    async def changed(self, commit: str) -> tuple[str, ...]:
        """Return the paths that a commit adds, changes or removes over the base."""
        return await read_changed(self.git, self.base, checked_commit(commit))

    def open_objects(self, *revisions: str) -> AbstractAsyncContextManager[ObjectStream]:
        """Give the objects that a push of these revisions would bring, for the scan before it."""
        return open_objects(self.git, *revisions, prefix=BOUNDED)

    async def read_base(self, path: str, *, max_bytes: int = MIB) -> bytes | None:
        """Return a file of the base commit, or None where it has none; raises `RepositoryError` if larger."""
        try:
            async with open_reader(self.git) as reader:
                found = await reader.read(f"{self.base}:{path}", max_bytes=max_bytes)
        except ObjectTooLarge:
            raise RepositoryError(f"{path} of the base commit is larger than {max_bytes} bytes") from None
        return found[1] if found is not None and found[0] == "blob" else None

    async def read_plain(self, path: str, *, max_bytes: int = MIB) -> bytes | None:
        """Return the same; raises `RepositoryError` for a link, whose content is but where it leads."""
        above, _, name = path.rpartition("/")
        async with open_reader(self.git) as reader:
            found = await reader.read(f"{self.base}:{above}", max_bytes=16 * MIB)
            entries = parse_tree(found[1]) if found is not None and found[0] == "tree" else {}
        entry = entries.get(name.encode(errors="surrogateescape"))
        if entry is not None and stat.S_ISLNK(entry.mode):
            raise RepositoryError(f"{path} is a link")
        return await self.read_base(path, max_bytes=max_bytes)

    async def list_base(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names in a directory of the base commit (the top by default); none where it has none."""
        async with open_reader(self.git) as reader:
            found = await reader.read(f"{self.base}:{prefix.strip('/')}", max_bytes=16 * MIB)
            if found is None or found[0] != "tree":
                return ()
            entries = await reader.read_tree(f"{self.base}:{prefix.strip('/')}", max_bytes=16 * MIB)
        return tuple(name.decode(errors="surrogateescape") for name in entries)

    @asynccontextmanager
    async def open_checkout(self, commit: str, *, backend: Backend) -> AsyncGenerator[Checkout, None]:
        """Give a fresh checkout of exactly this commit, with nothing in its `.git` that an agent wrote.

        It stands on what the repository's set-up made, which no commit that passed the policy touches.
        """
        place = self._room / f"check-{secrets.token_hex(8)}"
        origin = self._origin
        objects = (Bind(origin.objects, MIRROR_AT), Bind(self.directory / "objects", QUARANTINE_AT))
        alternates = tuple(backend.seen(bind.source, bind.target) for bind in objects)
        binds = (*objects, self.cover_alternates())
        open_ways(self._room.parent, self._room.name)  # an agent or a gate may have closed it
        workspace = await make_workspace(
            place,
            origin.shared,
            origin.private_git_at(checked_commit(commit), alternates),
            user=origin.user,
            layered=origin.layered,
            made=origin.made_at,
        )
        spec = Spec(self._label, (), workspace, binds=binds)
        env = {"BASE": origin.commit, "COMMIT": checked_commit(commit)}
        script, mark = script_spec(spec, CHECKOUT, env)
        claim = await run_script(backend, script, mark, deadline_s=CHECKOUT_S)
        if claim.word != "done":
            raise GitFailed(f"{commit} could not be checked out for a gate: {claim.detail or 'no word'}")
        yield Checkout(workspace, binds)
        # Where this is cut short, the worktree's own removal takes it along.
        open_ways(self._room.parent, self._room.name)
        await remove_tree(place)


def _subject(message: str) -> str:
    return " ".join(cleaned(message).split())[:MAX_SUBJECT].strip()
