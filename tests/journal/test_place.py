"""Where the journal may lie: local file systems only, closed to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator import errors
from orchestrator.journal import place
from orchestrator.journal.store import open_store

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 0:26 / /home/me/local\\040disk rw - xfs /dev/vdb rw
32 22 0:27 / /srv rw master:2 - fuse.sshfs me@host: rw
33 22 0:28 / /srv rw - ext4 /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/orchestrator", "ext4"),
        ("/home/me", "nfs4"),
        ("/homeless", "ext4"),
        ("/home/me/local disk/state", "xfs"),
        ("/srv/x", "ext4"),  # the latest mount on a place hides those before
    ],
)
def test_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert place.file_system_of(Path(path), MOUNTS) == kind


def test_network_file_systems_are_refused(tmp_path: Path) -> None:
    place.refuse_network(tmp_path)
    mounts = f"1 0 0:1 / {tmp_path} rw - nfs4 server:/ rw\n"
    with pytest.raises(errors.JournalMisplaced, match="nfs4"):
        place.refuse_network(tmp_path, mounts)


async def test_files_are_private(tmp_path: Path) -> None:
    home, database = tmp_path / "home", tmp_path / "elsewhere" / "x.db"
    async with open_store(home, database):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in database.parent.iterdir()}
    assert stat.S_IMODE(home.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}


async def test_a_place_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.JournalError, match="cannot be opened"):
        async with open_store(tmp_path / "file" / "home", tmp_path / "orchestrator.db"):
            pass


def test_database_is_put_below_a_directory_that_exists_and_nowhere_else(tmp_path: Path) -> None:
    home = tmp_path / "state" / "orchestrator"
    place.make_directories(home, home / "orchestrator.db")
    place.make_directories(home, tmp_path / "new" / "journal.db")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    for far in ("slip/of/the/pen/journal.db", "file/journal.db", "file/new/journal.db"):
        with pytest.raises(errors.SettingsError, match=r"DATABASE_PATH: the directory .* cannot be made"):
            place.make_directories(home, tmp_path / far)
    assert not (tmp_path / "slip").exists()
