"""S4, S5, S6: which repository URLs are taken, where their hosts may be, and how a token travels."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from orchestrator.core.address import is_public
from orchestrator.errors import RepositoryUnreachable, UrlRefused
from orchestrator.repo.access import Gateway, write_askpass
from orchestrator.repo.address import check_addresses, resolve_host
from orchestrator.repo.git import Git
from orchestrator.repo.url import UrlRules, parse_url

PUBLIC_RULES = UrlRules(())
FORGE = UrlRules((), hosts=("git.corp", "*.forge.example", "10.1.0.0/16", "public"))


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://github.com/o/r.git", "https://github.com/o/r.git"),
        ("HTTPS://GitHub.com:443/o/r/", "https://github.com/o/r"),
        ("https://github.com:8443/o/r", "https://github.com:8443/o/r"),
        ("ssh://github.com/o/r.git", "ssh://github.com/o/r.git"),
        ("ssh://github.com:443/o/~u/r", "ssh://github.com:443/o/~u/r"),
        ("https://git.corp:3000/o/r", "https://git.corp:3000/o/r"),
        ("https://10.1.2.3:3000/r", "https://10.1.2.3:3000/r"),
        ("https://[2606:4700::1111]/r", "https://[2606:4700::1111]/r"),
    ],
)
def test_an_honest_url_has_one_canonical_form(url: str, canonical: str) -> None:
    remote = parse_url(url, FORGE)
    assert remote.url == canonical
    assert parse_url(canonical, FORGE) == remote


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must begin with"),
        ("git@github.com:o/r.git", "must begin with"),
        ("http://github.com/o/r", "must begin with"),
        ("git://github.com/o/r", "must begin with"),
        ("ext::sh -c whoami", "holds a character"),
        ("ext::sh", "must begin with"),
        ("ext://x/y", "must begin with"),
        ("fd::3", "must begin with"),
        ("--upload-pack=touch", "must begin with"),
        ("-oProxyCommand=x", "must begin with"),
        ("/etc", "must begin with"),
        ("file:///etc", "lies outside"),
        ("file://localhost/etc", "names no host"),
        ("file:relative", "must begin with"),
        ("file:///nowhere/at/all", "outside of the directories"),
        ("file:///%00", "control character"),
        ("file:///tmp/%0a", "control character"),
        ("https://user:secret@github.com/o/r", "user name or password"),
        ("https://token@github.com/o/r", "user name or password"),
        ("https://@github.com/o/r", "user name or password"),
        ("ssh://git@github.com/o/r", "login for ssh is always git"),
        ("ssh://-oProxyCommand=touch/x", "no host"),
        ("ssh://-x.example/r", "no host"),
        ("https:///r", "no host"),
        ("https://a..b/r", "no host"),
        ("https://exa_mple!/r", "no host"),
        ("https://github.com", "plain names"),
        ("https://github.com/", "plain names"),
        ("https://github.com//r", "plain names"),
        ("https://github.com/o/../../r", "plain names"),
        ("https://github.com/o/%2e%2e/r", "plain names"),
        ("https://github.com/-r", "begins with a dash"),
        ("https://github.com/o/r?x=1", "query or a fragment"),
        ("https://github.com/o/r#x", "query or a fragment"),
        ("https://github.com/o/r\n", "holds a character"),
        ("https://github.com/o/\x1b[31mr", "holds a character"),
        ("https://github.com/o r", "holds a character"),
        ("https://github.com/o\\r", "holds a character"),
        ("https://g\u0456thub.com/o/r", "holds a character"),
        ("https://github.com:22/o/r", "port 22"),
        ("https://github.com:6379/o/r", "port 6379"),
        ("https://github.com:0/o/r", "port 0"),
        ("https://github.com:99999/o/r", "cannot be read"),
        ("https://github.com:x/o/r", "cannot be read"),
        ("https://[::1/r", "cannot be read"),
        ("https://git.corp:25/o/r", "port 25"),
        ("https://127.1/r", "unusual form"),
        ("https://2130706433/r", "unusual form"),
        ("https://0x7f000001/r", "unusual form"),
        ("https://0x7f.1/r", "unusual form"),
        ("https://localhost/r", "this machine"),
        ("https://x.localhost/r", "this machine"),
        ("https://github.com/" + "a" * 2000, "longer than"),
    ],
)
def test_a_dangerous_url_is_refused_in_one_line_that_says_why(url: str, why: str) -> None:
    with pytest.raises(UrlRefused, match=why) as refused:
        parse_url(url, FORGE)
    assert refused.value.detail.isprintable()
    assert "secret" not in refused.value.detail


def test_a_list_without_the_public_word_admits_nobody_else() -> None:
    rules = UrlRules((), hosts=("git.corp",))
    parse_url("https://git.corp/r", rules)
    with pytest.raises(UrlRefused, match="not in REPOSITORY_HOSTS"):
        parse_url("https://github.com/r", rules)


def test_a_file_url_cannot_leave_its_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a b" / "r.git").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").touch()
    (root / "same").symlink_to(root / "a b")
    rules = UrlRules((root,))
    assert parse_url(f"file://{root}/a%20b/r.git", rules).directory == root / "a b" / "r.git"
    assert parse_url(f"file://{root}/same/r.git/", rules) == parse_url(f"file://{root}/a%20b/r.git", rules)
    for path in ("link", "../outside", "a%20b/../../outside", "file", "", "."):
        with pytest.raises(UrlRefused):
            parse_url(f"file://{root}/{path}", rules)
    for path in ("/etc/shadow", "/etc/there-is-no-such-file"):  # the answer tells nobody which is there
        with pytest.raises(UrlRefused, match="lies outside of the directories"):
            parse_url(f"file://{path}", rules)
    with pytest.raises(UrlRefused, match="names no directory"):
        parse_url(f"file://{root}/nothing", rules)


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "64:ff9b:1::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),
    ],
)
def test_an_address_inside_is_never_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    with pytest.raises(UrlRefused, match="not public"):
        check_addresses(
            "evil.example", [ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address(text)], PUBLIC_RULES
        )


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "140.82.112.3", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"]
)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    check_addresses("github.com", [ipaddress.ip_address(text)], PUBLIC_RULES)


def test_listed_names_globs_and_networks_may_be_inside() -> None:
    inside = [ipaddress.ip_address("10.1.2.3")]
    for host in ("git.corp", "a.forge.example", "unlisted.example"):
        check_addresses(host, inside, FORGE)
    check_addresses("git.corp", [ipaddress.ip_address("127.0.0.1")], FORGE)
    check_addresses("mapped.example", [ipaddress.ip_address("::ffff:10.1.2.3")], FORGE)
    for address in ("127.0.0.1", "10.2.0.1"):
        with pytest.raises(UrlRefused):
            check_addresses("unlisted.example", [ipaddress.ip_address(address)], FORGE)
    with pytest.raises(UrlRefused, match="not in REPOSITORY_HOSTS"):
        check_addresses("x.example", [ipaddress.ip_address("1.1.1.1")], UrlRules((), hosts=("10.1.0.0/16",)))


class Resolver(trio.abc.HostnameResolver):
    """Answers as the test says."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: object, port: object, *rest: int) -> list[tuple[object, ...]]:  # type: ignore[override]
        """Answer."""
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        """Refuse."""
        raise socket.gaierror(socket.EAI_NONAME, "no name is asked for")


async def test_every_answer_of_the_resolver_is_judged() -> None:
    remote = parse_url("https://evil.example/r", PUBLIC_RULES)
    trio.socket.set_custom_hostname_resolver(Resolver("1.1.1.1", "127.0.0.1"))
    with pytest.raises(UrlRefused, match=r"evil.example is at 127\.0\.0\.1"):
        await resolve_host(remote, PUBLIC_RULES)
    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(RepositoryUnreachable, match="cannot be resolved"):
        await resolve_host(remote, PUBLIC_RULES)
    trio.socket.set_custom_hostname_resolver(Resolver("2606:4700::1111", "1.1.1.1", "1.1.1.1"))
    assert [str(each) for each in await resolve_host(remote, PUBLIC_RULES)] == ["1.1.1.1", "2606:4700::1111"]


async def test_git_speaks_to_the_address_that_was_judged(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    rules = UrlRules((), hosts=("nowhere.invalid",))
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1"))
    gateway = Gateway(
        rules, tmp_path / "askpass", lambda host: "tok-en" if host == "nowhere.invalid" else None
    )
    remote = parse_url(f"https://nowhere.invalid:{port}/r", rules)
    seen: list[bytes] = []

    async def answer() -> None:
        with listener:
            server = trio.socket.from_stdlib_socket(listener)
            listener.setblocking(False)
            connection, _ = await server.accept()
            with connection:
                seen.append(await connection.recv(5))

    async with trio.open_nursery() as both:
        both.start_soon(answer)
        addresses = await gateway.resolve(remote)
        with gateway.open(remote, addresses) as access:
            words = " ".join((access.address, *access.extra.config, *access.extra.env.values()))
            assert "tok-en" not in words
            done = await Git(tmp_path).attempt(
                "ls-remote", "--", access.address, extra=access.extra, deadline_s=20
            )
    assert not done.exit.ok
    assert seen[0][:1] == b"\x16", "no TLS hello came to the pinned address"
    assert b"tok-en" not in done.stderr


def test_the_token_is_given_to_its_host_alone_and_more_than_once(tmp_path: Path) -> None:
    askpass = tmp_path / "askpass"
    write_askpass(askpass)
    rules = UrlRules((), hosts=("git.corp",))
    gateway = Gateway(rules, askpass, lambda host: "tok-en")
    with gateway.open(parse_url("https://git.corp/r", rules), [ipaddress.ip_address("10.1.2.3")]) as access:

        def ask(prompt: str) -> str:
            env = {"PATH": os.environ["PATH"], **access.extra.env}
            done = subprocess.run(
                [access.extra.env["GIT_ASKPASS"], prompt],
                env=env,
                pass_fds=tuple(access.extra.pass_fds),
                capture_output=True,
                text=True,
                check=False,
            )
            return done.stdout

        assert ask("Username for 'https://git.corp': ") == "x-access-token\n"
        for _ in range(2):
            assert ask("Password for 'https://x-access-token@git.corp': ") == "tok-en\n"
        assert ask("Password for 'https://x-access-token@evil.example': ") == ""
        assert ask("Password for 'https://git.corp@evil.example': ") == ""


def test_ssh_is_given_no_way_but_the_pinned_one(tmp_path: Path) -> None:
    rules = UrlRules((), hosts=("git.corp",))
    gateway = Gateway(rules, tmp_path / "askpass", lambda host: None)
    remote = parse_url("ssh://git.corp:2222/r", rules)
    with gateway.open(remote, [ipaddress.ip_address("10.1.2.3")]) as access:
        command = access.extra.env["GIT_SSH_COMMAND"]
    for word in (
        "HostName=10.1.2.3",
        "HostKeyAlias=[git.corp]:2222",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
    ):
        assert f"-o'{word}'" in command
    assert access.extra.env["GIT_ALLOW_PROTOCOL"] == "ssh"
