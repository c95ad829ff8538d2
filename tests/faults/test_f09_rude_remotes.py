"""F9: a remote that is mute, drips, sends garbage or endlessly, redirects, or hangs up in mid-pack.

For a coordinator that does, see `tests/gates/test_coordinator.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from orchestrator.core.address import Address
from orchestrator.errors import RepositoryError, RepositoryUnreachable
from orchestrator.repo import access, mirrors
from orchestrator.repo.access import Access, Gateway, no_tokens
from orchestrator.repo.mirrors import Mirror
from orchestrator.repo.url import Remote, UrlRules, parse_url
from sandbox.base import MIB, User
from tests.kit import rude_remote
from tests.kit.checker import check
from tests.kit.evidence import gather
from tests.kit.processes import marked
from tests.kit.rude_remote import Manner, drips, elsewhere, endless, garbage, mid_pack, mute
from tests.kit.service import Service
from tests.kit.until import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RULES = UrlRules((), ("127.0.0.1",))
PATIENCE_S = 50


class PlainGateway(Gateway):
    """Reaches the remote without TLS, in all else as the product does."""

    @contextmanager
    def open(self, remote: Remote, addresses: list[Address]) -> Iterator[Access]:
        """Give access by plain HTTP."""
        with super().open(remote, addresses) as secure:
            plain = replace(secure.extra, env={**secure.extra.env, "GIT_ALLOW_PROTOCOL": "http"})
            yield Access(secure.address.replace("https://", "http://"), plain)


async def refreshed(place: Path, manner: Manner, user: User) -> tuple[RepositoryError, int]:
    """Ask a rude remote for its branch; return the error, and how many processes were left."""
    async with trio.open_nursery() as nursery:
        port = await nursery.start(rude_remote.run, manner)
        remote = parse_url(f"https://127.0.0.1:{port}/repo.git", RULES)
        mirror = Mirror(place / "mirror", remote, PlainGateway(RULES, place / "askpass", no_tokens), user.gid)
        with pytest.raises(RepositoryError) as caught, trio.fail_after(PATIENCE_S):
            await mirror.refresh("main")
        assert not mirror.directory.exists()
        nursery.cancel_scope.cancel()
    return caught.value, len(marked(str(mirror.directory)))


@pytest.mark.parametrize("manner", [garbage, elsewhere, mid_pack], ids=lambda manner: manner.__name__)
async def test_f09_a_remote_that_answers_nonsense_is_a_typed_error(
    tmp_path: Path, manner: Manner, ordinary_user: User
) -> None:
    error, left = await refreshed(tmp_path, manner, ordinary_user)
    assert f"{type(error).__name__}: {error.detail}".startswith("RepositoryUnreachable: https://127.0.0.1:")
    assert left == 0


@pytest.mark.parametrize("manner", [mute, drips, endless], ids=lambda manner: manner.__name__)
async def test_f09_a_remote_that_never_comes_to_an_end_is_given_up(
    tmp_path: Path, manner: Manner, ordinary_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for deadline in ("REMOTE_S", "ASK_S"):  # ten minutes, for real ones
        monkeypatch.setattr(mirrors, deadline, 1.0)
    error, left = await refreshed(tmp_path, manner, ordinary_user)
    assert isinstance(error, RepositoryUnreachable)
    assert left == 0


async def test_f09_a_remote_that_says_more_than_fits_is_given_up_before_its_deadline(
    tmp_path: Path, ordinary_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight gibibytes, for real ones, which would take minutes to come.
    monkeypatch.setattr(access, "BOUNDED", ("prlimit", f"--as={256 * MIB}", "--core=0", "--"))
    error, left = await refreshed(tmp_path, endless, ordinary_user)
    assert isinstance(error, RepositoryUnreachable)
    assert "emory" in error.detail, error.detail
    assert left == 0


def test_f09_agents_of_a_mute_remote_are_killed_and_hold_up_nobody(own_service: Service) -> None:
    service = own_service
    service.env["REPOSITORY_HOSTS"] = "127.0.0.1"
    service.start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        agents = [service.spawn(f"https://127.0.0.1:{port}/{n}.git", "true") for n in range(3)]
        until(lambda: len(marked(f"127.0.0.1:{port}")) >= 3, "git asks the remote")
        for agent in agents:
            assert service.call("POST", f"/agents/{agent}/kill")[1]["remaining"] == 0
        assert not marked(f"127.0.0.1:{port}")
    until(lambda: not service.agent_directories(), "all is cleaned up after")
    service.stop()
    check(gather(service.home, at_rest=True))
