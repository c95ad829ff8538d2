"""Egress against those who mean harm: what is journaled of them is small, and none ends anybody's run."""

from __future__ import annotations

import ipaddress

import pytest
import trio

from orchestrator.agents import egress
from orchestrator.core.egress import Beyond, Entry, check_answers
from orchestrator.core.events import EgressRefused
from orchestrator.names import is_own
from tests.agents.conftest import Log
from tests.agents.doors import CannedApi
from tests.agents.test_egress import Resolver, open_proxy, open_site

ODD = b"HTTP/1.1 200 OK\r\nx-name: caf\xe9\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"


async def test_header_of_a_client_that_is_no_ascii_is_passed_on_as_it_came(log: Log) -> None:
    async with open_site() as site, open_proxy(log, f"127.0.0.1:{site.port}") as proxy:
        words = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nhost: x\r\nx-name: caf\xe9\r\n\r\n" % site.port
        assert (await proxy.say(words)).startswith(b"HTTP/1.1 200 ")
    assert b"x-name: caf\xe9" in site.asked[0]


async def test_header_of_a_site_that_is_no_ascii_is_passed_on_as_it_came(log: Log) -> None:
    site = CannedApi(ODD)
    async with site.open(), open_proxy(log, f"127.0.0.1:{site.port}") as proxy:
        answer = await proxy.get(f"{site.url}/")
    assert b"x-name: caf\xe9" in answer
    assert answer.endswith(b"hi")


@pytest.mark.parametrize("url", ["{host}:443", "http://{host}/", "http://{host}:8080/"])
async def test_name_without_end_is_cut_in_the_journal(log: Log, url: str) -> None:
    words = url.format(host="a" * 50_000)
    async with open_proxy(log, "x.example") as proxy:
        said = proxy.get(words) if words.startswith("http") else proxy.connect(words)
        assert (await said).startswith(b"HTTP/1.1 403 ")
    (host,) = proxy.refused()
    assert len(host) <= 255


async def test_head_request_to_a_host_that_is_refused_is_answered_without_a_body(log: Log) -> None:
    async with open_proxy(log, "x.example") as proxy, proxy.knock() as knocker:
        assert await knocker.ask("HEAD", "http://other.example/") == (403, b"")
        assert (await knocker.ask("GET", "http://other.example/"))[1].startswith(b"egress: other.example:80 ")
        await knocker.say(b"no HTTP\r\n\r\n")
        assert b"HTTP/1.1 400 " in await knocker.rest()


async def test_name_that_leads_to_this_host_by_its_public_address_is_refused(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver(ours_example=[["8.8.8.8"]]))
    monkeypatch.setattr(egress, "is_own", lambda address: str(address) == "8.8.8.8")
    async with open_proxy(log, "*.example") as proxy:
        assert (await proxy.connect("ours.example:443")).startswith(b"HTTP/1.1 403 ")
    assert proxy.allowed() == []
    (refused,) = (event for event in log.events if isinstance(event, EgressRefused))
    assert refused.detail.startswith("is this host itself")


def test_own_address_is_known_without_a_word_to_it() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"))
    assert not is_own(ipaddress.ip_address("192.0.2.1"))


@pytest.mark.parametrize("address", ["168.63.129.16", "fd20:ce::254", "fd00:ec2::23", "169.254.170.2"])
def test_place_where_a_cloud_tells_secrets_is_never_meant_by_a_name(address: str) -> None:
    found = [ipaddress.ip_address(address)]
    with pytest.raises(Beyond, match="not public"):
        check_answers(Entry("*"), found)
    with pytest.raises(Beyond, match="not public"):
        check_answers(Entry("registry.corp", 8081), found)
