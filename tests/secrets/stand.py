"""A repository as a quarantine is one: a base, commits over it, and the scan of them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.repo.git import Git
from orchestrator.repo.outflow import ObjectStream, open_objects
from orchestrator.secrets.scan import Extent, Report, Scanner
from tests.kit.remote import git


@dataclass
class Stand:
    """A working repository in a directory."""

    root: Path
    scanner: Scanner = field(default_factory=Scanner)

    def __post_init__(self) -> None:
        git("init", "-q", "-b", "main", str(self.root))
        self.base = self.commit({"README.md": "hello\n"}, "base")

    def commit(self, files: dict[str, str | bytes | None], message: str = "work") -> str:
        """Write files (None removes one), commit them, and return the commit."""
        for name, content in files.items():
            path = self.root / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        git("add", "-A", "-f", cwd=self.root)
        git("commit", "-q", "--allow-empty", "-m", message, cwd=self.root)
        return git("rev-parse", "HEAD", cwd=self.root).strip()

    def squashed(self, message: str = "all of it") -> str:
        """Return one commit of the present files over the base."""
        return git("commit-tree", "HEAD^{tree}", "-p", self.base, "-m", message, cwd=self.root).strip()

    def opener(self, *revisions: str) -> AbstractAsyncContextManager[ObjectStream]:
        """Open objects as the quarantine does."""
        return open_objects(Git(self.root / ".git"), *revisions, prefix=())

    async def scan(self, tip: str, extent: Extent = Extent.ALL) -> Report:
        """Scan what is new in the commit."""
        return await self.scanner.scan(self.opener, base=self.base, tip=tip, extent=extent)

    async def rules(self, tip: str) -> list[str]:
        """Return the rules that found something in what is new."""
        report = await self.scan(tip)
        assert not report.trouble, report.trouble
        return sorted({found.rule for found in report.findings})


def packed(argv: Sequence[str], content: bytes) -> bytes:
    """Return what a program of the host makes of the content."""
    return subprocess.run(argv, input=content, capture_output=True, check=True, timeout=20).stdout
