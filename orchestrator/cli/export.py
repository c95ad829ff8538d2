"""The command `export`: an agent's whole record as one archive, to be kept or handed on.

The invariant: the archive is whole or not there at all, and once the task has ended it is the same, byte for
byte, whenever it is made. Called by `orchestrator.__main__`.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import Failed
from orchestrator.cli.printable import to_json
from orchestrator.cli.session import Session, supervised

if TYPE_CHECKING:
    from orchestrator.client import Client

#: What is kept in memory of a member of unknown length; the rest of it is on the disk.
SPOOLED_BYTES = 8 * 1024 * 1024
#: What stands for standard output.
STDOUT = Path("-")


@click.command()
@click.argument("agent_id", metavar="AGENT")
@click.option(
    "-o", "--output", "place", type=click.Path(path_type=Path), help="The file (AGENT.tar.gz), or - ."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@supervised
def export(session: Session, agent_id: str, *, place: Path | None, force: bool) -> None:
    """Write an agent's whole record to one archive: status, task, events, log, turns, verdicts, change."""
    place = place or Path(re.sub(r"[^\w.-]", "_", agent_id)[:128] + ".tar.gz")
    with _open_place(place, force=force) as (file, shown):
        names = session.run(lambda client: _write(client, agent_id, file), doing=f"exporting {agent_id}")
        size = file.tell() if shown else 0
    if shown is None:
        return
    if session.output.as_json:
        session.output.json({"agentId": agent_id, "file": str(shown), "bytes": size, "members": names})
    else:
        session.output.line((str(shown), "bold"), f": {', '.join(names)}; {size} bytes")


@contextlib.contextmanager
def _open_place(place: Path, *, force: bool) -> Iterator[tuple[IO[bytes], Path | None]]:
    """Give the file to write to, and its place, where it has one: it is there only after the last byte."""
    if place == STDOUT:
        if sys.stdout.isatty():
            raise Failed("an archive is not for a terminal", fix="name a file: -o FILE")
        yield sys.stdout.buffer, None
        return
    try:
        if os.path.lexists(place) and not force:
            raise Failed(f"{place} is there already", code="file_exists", fix="name another, or --force")
        folder, prefix = place.absolute().parent, f".{place.name}."
        with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, delete=False) as file:
            try:
                yield file, place
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(place)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Failed(f"{place} cannot be written: {error.strerror}", code="output_failed") from None


async def _write(client: Client, agent_id: str, file: IO[bytes]) -> list[str]:
    """Write the archive and return the names of its members."""
    status = await client.status(agent_id)
    began = status.get("completedAt") or status.get("startedAt")
    time_s = int(datetime.fromisoformat(str(began)).timestamp()) if began else 0
    with (
        gzip.GzipFile("", "wb", fileobj=file, mtime=time_s) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        record = _Record(archive, agent_id, time_s)
        record.add("agent.json", _document(status))
        record.add("task.json", _document(await client.task(str(status["taskId"]))))
        record.add("gates.json", _document(await client.gates(agent_id)))
        if patch := await _change(client, agent_id):
            record.add("change.patch", patch.encode(errors="surrogateescape"))
        events = client.events(follow=False, after=0, agent_id=agent_id)
        await record.add_lines("events.ndjson", events)
        await record.add_lines("log.ndjson", client.logs(agent_id))
        await record.add_lines("transcript.ndjson", _turns(client, agent_id))
    return record.names


class _Record:
    """The archive being written."""

    def __init__(self, archive: tarfile.TarFile, agent_id: str, time_s: int) -> None:
        self._archive, self._folder, self._time_s = archive, agent_id, time_s
        self.names: list[str] = []

    def add(self, name: str, content: bytes) -> None:
        """Add a member that is at hand."""
        with tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES) as file:
            file.write(content)
            self._add(name, file)

    async def add_lines(self, name: str, entries: AsyncIterator[Any]) -> None:
        """Add a member of one JSON document a line."""
        with tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES) as file:
            async for entry in entries:
                file.write(f"{to_json(entry)}\n".encode())
            self._add(name, file)

    def _add(self, name: str, file: IO[bytes]) -> None:
        member = tarfile.TarInfo(f"{self._folder}/{name}")
        member.size, member.mtime, member.mode = file.tell(), self._time_s, 0o600
        file.seek(0)
        self._archive.addfile(member, file)
        self.names.append(name)


def _document(answer: dict[str, Any]) -> bytes:
    return f"{to_json(answer)}\n".encode()


async def _change(client: Client, agent_id: str) -> str | None:
    """Return the candidate's diff, or None where there is none any more."""
    from orchestrator.client import ClientError  # noqa: PLC0415 - h11, which `--help` need not pay

    try:
        return await client.diff(agent_id)
    except ClientError as error:
        if error.code == "no_diff":
            return None
        raise


async def _turns(client: Client, agent_id: str) -> AsyncIterator[dict[str, Any]]:
    after = None
    while True:
        page = await client.transcript(agent_id, after=after)
        for turn in page["turns"]:
            yield turn
        if (after := page.get("next")) is None:
            return
