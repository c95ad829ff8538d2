"""What may be reached: by the operator's list, narrowed by the task; all other forms are refused."""

from __future__ import annotations

import ipaddress

import pytest

from orchestrator.core.egress import PRESETS, Beyond, Place, Rules, check_answers, read_entries, read_place

LISTED = Rules.of(
    ["pypi", "*.example.org", "registry.corp:8081", "127.0.0.1:8081", "[::1]:9", "10.1.2.3", "localhost:7"]
)


@pytest.mark.parametrize(
    "authority",
    [
        "pypi.org:443",
        "PyPI.org:80",
        "files.pythonhosted.org:443",
        "a.example.org:443",
        "a.b.example.org:80",
        "registry.corp:8081",
        "127.0.0.1:8081",
        "[::1]:9",
        "[0:0::1]:9",
        "10.1.2.3:443",
        "localhost:7",
    ],
)
def test_what_is_listed_may_be_reached(authority: str) -> None:
    assert LISTED.find(read_place(authority))


@pytest.mark.parametrize(
    "authority",
    [
        "evil.org:443",
        "pypi.org.evil.org:443",
        "xpypi.org:443",
        "example.org:443",  # the glob names hosts below it
        "aexample.org:443",
        "pypi.org:22",
        "pypi.org:8443",
        "pypi.org:0",
        "pypi.org:65536",
        "pypi.org:99999999",
        "pypi.org:443:443",
        "pypi.org:+443",
        "pypi.org: 443",
        "pypi.org:\uff14\uff14\uff13",
        "pypi.org",
        "pypi.org:",
        ":443",
        "pypi.org.:443",
        "pypi..org:443",
        "user@pypi.org:443",
        "user:pw@pypi.org:443",
        "pypi.org/:443",
        "pypi.org?:443",
        "pypi.org#:443",
        "pypi.org%00.example.org:443",
        "pypi\u3002org:443",
        "xn--pyp-7na.org:443",
        "p\u0443pi.org:443",  # a Cyrillic letter
        "127.0.0.1:80",
        "127.0.0.1:8082",
        "127.0.0.2:8081",
        "127.1:8081",
        "2130706433:8081",
        "0x7f000001:8081",
        "0x7f.0.0.1:8081",
        "0177.0.0.1:8081",
        "017700000001:8081",
        "127.0.0.1.:8081",
        "[::ffff:127.0.0.1]:8081",
        "[::127.0.0.1]:8081",
        "[64:ff9b::7f00:1]:8081",
        "[::1%lo]:9",
        "[::1]:10",
        "[::]:9",
        "[127.0.0.1]:8081x",
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
        "registry.corp:443",
        "localhost:8081",
        "localhost.:7",
        "1.1.1.1:443",
        "http://a.example.org:443",
    ],
)
def test_every_other_host_form_and_port_is_refused(authority: str) -> None:
    with pytest.raises(Beyond):
        LISTED.find(read_place(authority))


def test_nothing_is_listed_by_default() -> None:
    with pytest.raises(Beyond, match="not in SANDBOX_EGRESS"):
        Rules().find(Place("pypi.org", 443))


@pytest.mark.parametrize(
    ("allow", "reached"),
    [
        (None, {"pypi.org", "a.example.org"}),
        ([], set()),
        (["pypi"], {"pypi.org"}),
        (["PyPI.org"], {"pypi.org"}),
        (["*"], {"pypi.org", "a.example.org"}),
        (["a.*.org"], {"a.example.org"}),
        (["npm", "evil.org"], set()),
        (["pypi.org:80"], set()),
        (["::::"], set()),
    ],
)
def test_task_can_only_narrow(allow: list[str] | None, reached: set[str]) -> None:
    rules = LISTED.narrow(allow)
    found = set()
    for host in ("pypi.org", "a.example.org", "evil.org", "registry.npmjs.org"):
        try:
            rules.find(Place(host, 443))
            found.add(host)
        except Beyond:
            continue
    assert found == reached


PUBLIC = ("1.1.1.1", "2606:4700::1111")
PRIVATE = [
    *("10.0.0.1", "127.0.0.1", "192.168.1.1", "100.64.0.1"),
    *("::1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"),
]
NEVER = [
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "192.0.0.192"),
    *("0.0.0.0", "::", "224.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
]


@pytest.mark.parametrize(
    "place", [Place("pypi.org", 443), Place("a.example.org", 443), Place("registry.corp", 8081)]
)
def test_every_answer_of_the_resolver_is_judged(place: Place) -> None:
    entry = LISTED.find(place)
    check_answers(entry, map(ipaddress.ip_address, PUBLIC))
    for answer in (*PRIVATE, *NEVER):
        both = [ipaddress.ip_address(each) for each in (*PUBLIC, answer)]
        if answer in PRIVATE and place.port == 8081:
            check_answers(entry, both)  # the operator named just that host and port
            continue
        with pytest.raises(Beyond, match="not public"):
            check_answers(entry, both)


def test_address_that_is_listed_is_that_address_and_no_other() -> None:
    entry = LISTED.find(Place("127.0.0.1", 8081))
    check_answers(entry, [ipaddress.ip_address("127.0.0.1")])
    (metadata,) = read_entries("169.254.169.254:80")
    check_answers(metadata, [ipaddress.ip_address("169.254.169.254")])
    with pytest.raises(Beyond):
        check_answers(metadata, [ipaddress.ip_address("169.254.169.253")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://x.org",
        "a b",
        "*x.org",
        "x.*.org",
        "x.org.",
        "10.0.0.0/8",
        "x.org:0",
        "x.org:65536",
        "127.1",
        "ü.org",
    ],
)
def test_entry_that_could_mean_anything_is_no_entry(text: str) -> None:
    with pytest.raises(ValueError, match=r"will not do|has a port"):
        read_entries(text)


def test_presets_are_entries() -> None:
    for hosts in PRESETS.values():
        for host in hosts:
            assert [entry.host for entry in read_entries(host)] == [host]
