"""The file by which an agent hands over its result: read with care, whatever the agent puts there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import ResultMalformed
from orchestrator.repo.outbox import FILE_NAME, clear, read


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """Return an empty one."""
    path = tmp_path / "result"
    path.mkdir(0o700)
    return path


def test_it_is_read_up_to_a_byte_beyond_and_cleared(outbox: Path) -> None:
    assert read(outbox, max_bytes=3) is None
    clear(outbox)
    (outbox / FILE_NAME).write_bytes(b"12345")
    assert read(outbox, max_bytes=3) == b"1234"
    clear(outbox)
    assert read(outbox, max_bytes=3) is None


def test_directory_that_its_owner_closed_is_opened_again(outbox: Path) -> None:
    (outbox / FILE_NAME).write_bytes(b"x")
    outbox.chmod(0)
    assert read(outbox, max_bytes=3) == b"x"


def test_link_leads_nowhere(outbox: Path) -> None:
    (outbox / FILE_NAME).symlink_to("/etc/passwd")
    with pytest.raises(ResultMalformed, match="cannot be read"):
        read(outbox, max_bytes=100)
    clear(outbox)
    assert list(outbox.iterdir()) == []


def test_second_name_of_another_file_is_refused(outbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    os.link(tmp_path / "secret", outbox / FILE_NAME)
    with pytest.raises(ResultMalformed, match="no plain file"):
        read(outbox, max_bytes=100)


def test_pipe_without_a_writer_is_not_waited_for(outbox: Path) -> None:
    os.mkfifo(outbox / FILE_NAME)
    with pytest.raises(ResultMalformed, match="no plain file"):
        read(outbox, max_bytes=100)


def test_directory_in_its_place_is_refused_and_left(outbox: Path) -> None:
    (outbox / FILE_NAME).mkdir()
    clear(outbox)
    with pytest.raises(ResultMalformed, match="no plain file"):
        read(outbox, max_bytes=100)
