"""A provider that cannot be reached is told in one line that names it, by both ways to one."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from pydantic import SecretStr

from orchestrator.agents.claude.sdk import Sdk
from orchestrator.agents.upstream import Pool, Upstream
from orchestrator.core.trouble import ProviderFailure, Trouble
from tests.kit.messages_api import ScriptedApi, scripted_api

KEY = SecretStr("k")


@pytest.fixture(scope="module")
def untrusted() -> Iterator[ScriptedApi]:
    """Return an API whose certificate nobody vouches for."""
    with scripted_api(tls=True) as running:
        yield running


async def by_sdk(url: str) -> None:
    sdk = Sdk(Upstream(url, KEY))
    try:
        await sdk.ask({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]})
    finally:
        await sdk.aclose()


async def by_door(url: str) -> None:
    pool = Pool(Upstream(url, KEY))
    try:
        async with pool.ask("POST", "/v1/messages", {}, b"{}") as answer:
            await answer.body(1000)
    finally:
        pool.close_nowait()


class Nameless(trio.abc.HostnameResolver):
    """Knows no name."""

    async def getaddrinfo(self, *_: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        """Refuse."""
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        """Refuse."""
        raise socket.gaierror(socket.EAI_NONAME, "no name is asked for")


Way = Callable[[str], Awaitable[None]]


@pytest.mark.parametrize("way", [by_sdk, by_door])
async def test_host_and_what_to_mend_are_named(way: Way, untrusted: ScriptedApi) -> None:
    async def told(url: str) -> tuple[Trouble, str]:
        with pytest.raises(ProviderFailure) as failed, trio.fail_after(20):
            await way(url)
        return failed.value.trouble, failed.value.detail

    refused = "no connection to 127.0.0.1:1: Connection refused"
    assert await told("http://127.0.0.1:1") == (Trouble.NETWORK, refused)
    trouble, why = await told(untrusted.url)
    assert trouble is Trouble.UNTRUSTED
    assert why.startswith("the certificate of 127.0.0.1 is not trusted (unable to get local issuer")
    assert why.endswith("SSL_CERT_FILE names who is")
    with scripted_api() as plain:
        trouble, why = await told(plain.url.replace("http:", "https:"))
    assert trouble is Trouble.NETWORK
    assert why.startswith(f"127.0.0.1:{plain.port} does not speak TLS")
    before = trio.socket.set_custom_hostname_resolver(Nameless())
    try:
        unknown = "the name model.example has no address: Name or service not known"
        assert await told("https://model.example/") == (Trouble.NETWORK, unknown)
    finally:
        trio.socket.set_custom_hostname_resolver(before)
