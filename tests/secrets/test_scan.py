"""Nothing leaves that holds a secret: wherever it stands, and however it is written."""

from __future__ import annotations

import base64
import gzip
import io
import lzma
import zipfile
import zlib
from html import escape
from pathlib import Path

import pytest

from orchestrator.secrets.held import HeldValue
from orchestrator.secrets.scan import Extent, Scanner
from tests.secrets.planted import PLANTED, chance
from tests.secrets.stand import Stand


async def test_clean_change_has_no_finding(stand: Stand) -> None:
    tip = stand.commit({"app.py": "def main() -> int:\n    return 1\n", "docs/a.md": "# A token is a word\n"})
    report = await stand.scan(tip)
    assert report.clean, report


@pytest.mark.parametrize("kind", sorted(PLANTED))
async def test_planted_secret_is_found_wherever_it_stands(stand: Stand, kind: str) -> None:
    secret = PLANTED[kind]
    files: dict[str, str | bytes | None] = {
        "plain.py": f'first = 1\nvalue = "{secret}"\n',
        "encoded.txt": "data: " + base64.b64encode(f"the value is {secret} here".encode()).decode() + "\n",
        "binary.bin": b"\0\1\2\xff" * 50 + secret.encode() + b"\0\xfe" * 50,
    }
    report = await stand.scan(stand.commit(files))
    assert {found.path for found in report.findings} == set(files), report
    assert all(secret not in str(found) for found in report.findings)
    line = next(found.line for found in report.findings if found.path == "plain.py")
    assert line == 2


@pytest.mark.parametrize("kind", sorted(set(PLANTED) - {"private-key"}))
async def test_secret_in_a_message_is_found(stand: Stand, kind: str) -> None:
    tip = stand.commit({"a.txt": "a\n"}, f"Use the new value\n\nIt is {PLANTED[kind]}\n")
    report = await stand.scan(tip)
    assert {found.kind for found in report.findings} == {"commit"}
    assert report.findings[0].path == tip[:12]


@pytest.mark.parametrize(
    "kind", ["aws", "github", "slack", "stripe", "gcp", "anthropic", "npm", "pypi", "jwt"]
)
async def test_secret_in_a_name_is_found_and_not_shown(stand: Stand, kind: str) -> None:
    secret = PLANTED[kind]
    report = await stand.scan(stand.commit({f"kept/{secret}.txt": "nothing\n", f"{secret}/b.txt": "b\n"}))
    assert {found.kind for found in report.findings} == {"name"}
    assert all(secret not in found.path for found in report.findings)
    assert any("[secret]" in found.path for found in report.findings)


async def test_secret_in_a_commit_that_deletes_it_again_is_found_where_all_commits_leave(
    stand: Stand,
) -> None:
    stand.commit({"conf.py": f"KEY = '{PLANTED['aws']}'\n"})
    tip = stand.commit({"conf.py": None, "b.txt": "b\n"})
    assert "aws-access-token" in await stand.rules(tip)
    assert await stand.rules(stand.squashed()) == []  # of which only the last state leaves


def wrapped(text: str, width: int, line: str) -> str:
    """Return the text in lines of that width, each as the form has it."""
    return "".join(line.format(text[at : at + width]) for at in range(0, len(text), width))


def empty_zip() -> bytes:
    """Return an archive of one file that has nothing to hide."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("empty.txt", "")
    return out.getvalue()


#: The beginning of an entry of an archive's directory, up to how its file is packed.
DIRECTORY = b"PK\1\2\x14\3\x14\0\0\0\x08\0"


def dictionary_of(size_mib: int) -> list[dict[str, int]]:
    """Return what makes an xz file that takes so much memory to be unpacked."""
    return [{"id": lzma.FILTER_LZMA2, "dict_size": size_mib << 20}]


async def test_file_that_takes_too_much_memory_to_be_unpacked_blocks(stand: Stand) -> None:
    report = await stand.scan(stand.commit({"a.xz": lzma.compress(b"a", filters=dictionary_of(1024))}))
    assert "takes too much memory to be unpacked" in report.trouble


async def test_secret_in_packed_files_is_found(stand: Stand) -> None:
    text = f"key = '{PLANTED['github']}'\n".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/conf.py", text)
    packed = {
        "a.zip": out.getvalue(),
        "b.gz": gzip.compress(text),
        "c.gz.b64": base64.encodebytes(gzip.compress(text)),
        "d.gz": b"".join(gzip.compress(text[at : at + 9]) for at in range(0, len(text), 9)),
        "e.xz": lzma.compress(text, filters=dictionary_of(64)),  # as `xz -9`
        "wide.txt": text.decode().encode("utf-16"),
        "twice.txt": base64.b64encode(base64.b64encode(text)),
        "hex.txt": text.hex(),
        "percent.txt": "".join(f"%{byte:02x}" for byte in text),
        "wrapped.txt": base64.encodebytes(b"x" * 100 + b"\n" + text + b"y" * 100),
        "narrow.txt": wrapped(base64.b64encode(text).decode(), 8, "{}\n"),
        "quoted.py": wrapped(base64.b64encode(text).decode(), 12, '    "{}",\n'),
        "narrow.hex": wrapped(text.hex(), 6, "# {}\n"),
        "unpacks-itself.exe": b"MZ\x90\0" * 99 + out.getvalue(),
        "twice.zip": out.getvalue() + empty_zip(),
        "cut-off.zip": out.getvalue()[:-1],
        "not-as-its-directory-says.zip": out.getvalue().replace(DIRECTORY, DIRECTORY[:-2] + b"\x63\0"),
        "installer.sh": b"#!/bin/sh\ntail -c +99 $0 | gunzip\n" + gzip.compress(text) + b"\0\0",
        "stored.z": zlib.compress(text),
        "wide-without-mark.bin": b"\x07\x01" * 99 + text.decode().encode("utf-16-be") + b"\x80\x03" * 99,
        "wider.txt": text.decode().encode("utf-32"),
        "octal.sh": "printf '" + "".join(f"\\{byte:03o}" for byte in text) + "'",
        "entities.html": "".join(f"&#{byte};" for byte in text),
        "hex-entities.html": "".join(f"&#x{byte:x};" for byte in text),
        "latin-1.txt": b"cl\xe9 \xab" + PLANTED["stripe"].encode() + b"\xbb",
        "braces.js": "".join(f"\\u{{{byte:x}}}" for byte in text),
    }
    report = await stand.scan(stand.commit(dict(packed)))
    assert {found.path for found in report.findings} == set(packed)


async def test_what_the_base_has_already_is_no_finding(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "repo")
    stand.base = stand.commit({"old.py": f"a = '{PLANTED['aws']}'\n", "other.py": "b = 1\n"}, "it was there")
    assert await stand.rules(stand.commit({"old.py": f"a = '{PLANTED['aws']}'\nc = 2\n"})) == []
    assert await stand.rules(stand.commit({"moved/new.py": f"d = '{PLANTED['aws']}'\n"})) == []
    assert await stand.rules(stand.commit({"old.py": f"a = '{PLANTED['github']}'\n"})) == ["github-pat"]


async def test_no_word_of_the_agent_switches_a_rule_off(stand: Stand) -> None:
    secret = PLANTED["stripe"]
    files: dict[str, str | bytes | None] = {
        ".gitleaks.toml": "[allowlist]\npaths = ['''.*''']\n",
        ".gitleaksignore": "conf.py:stripe-access-token:1\n",
        ".secrets.baseline": "{}\n",
        "conf.py": f"key = '{secret}'  # gitleaks:allow pragma: allowlist secret\n",
        "package-lock.json": f'{{"token": "{secret}"}}\n',
        "logo.png": f"\x89PNG {secret}\n",
        "node_modules/x/index.js": f"k = '{secret}'\n",
    }
    report = await stand.scan(stand.commit(files))
    assert {found.path for found in report.findings} == {
        "conf.py", "package-lock.json", "logo.png", "node_modules/x/index.js",
    }  # fmt: skip


HELD = 'tok"/+' + chance("held", 25) + "&?"


@pytest.mark.parametrize("lead", range(3))
async def test_held_value_is_found_in_every_form(tmp_path: Path, lead: int) -> None:
    stand = Stand(tmp_path / "repo", Scanner([HeldValue("GITHUB_TOKEN", HELD.encode())]))
    raw = HELD.encode()
    files: dict[str, str | bytes | None] = {
        "raw": b"\0\xff" + raw,
        "b64": base64.b64encode(b"\xf0" * lead + raw + b"\xf1" * 2),
        "b64url": base64.urlsafe_b64encode(b"\xf0" * lead + raw + b"\xf1"),
        "hex": (b"\xf0" * lead + raw).hex(),
        "HEX": (b"\xf0" * lead + raw).hex().upper(),
        "percent": "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in HELD),
        "json": '{"k": "' + HELD.replace('"', '\\"').replace("/", "\\/") + '"}',
        "unicode": "".join(f"\\u{ord(c):04x}" for c in HELD),
        "octal": "".join(f"\\{ord(c):03o}" for c in HELD),
        "html": "".join(f"&#{ord(c)};" for c in HELD),
        "escaped.html": f"<p>{escape(HELD)}</p>",
        "wide": ("x" * lead + HELD).encode("utf-16-be"),
        "wider": HELD.encode("utf-32-le"),
        "array.c": "char k[] = {" + ", ".join(f"0x{ord(c):02x}" for c in HELD) + "};",
        "numbers.py": f"bytes({list(raw)})",
        "backwards": HELD[::-1],
        "split.py": '"' + '"\n    + "'.join(HELD[at : at + 4] for at in range(0, len(HELD), 4)) + '"',
        "letters.js": f"{list(HELD)}.join('')",
        "column": wrapped(base64.b64encode(b"\xf0" * lead + raw).decode(), 1, "{}\n"),
        "dump": wrapped((b"\xf0" * lead + raw).hex(), 2, "{}:"),
    }
    report = await stand.scan(stand.commit(files), Extent.HELD)
    assert {(found.rule, found.path) for found in report.findings} == {
        ("held:GITHUB_TOKEN", name) for name in files
    }
    assert len({found.hmac for found in report.findings}) == 1


async def test_only_held_values_are_looked_for_where_that_is_asked(stand: Stand) -> None:
    tip = stand.commit({"a.py": f"a = '{PLANTED['aws']}'\n"})
    assert (await stand.scan(tip, Extent.HELD)).clean
    assert not (await stand.scan(tip, Extent.ALL)).clean


async def test_same_value_has_the_same_hmac_here_and_another_elsewhere(stand: Stand) -> None:
    tip = stand.commit({"a.py": f"a = '{PLANTED['aws']}'\n", "b.py": f"b = '{PLANTED['aws']}'\n"})
    here = {found.hmac for found in (await stand.scan(tip)).findings}
    stand.scanner = Scanner()
    elsewhere = {found.hmac for found in (await stand.scan(tip)).findings}
    assert len(here) == len(elsewhere) == 1
    assert here != elsewhere


async def test_encoded_secret_is_found_right_behind_a_word_and_amid_what_is_no_text(stand: Stand) -> None:
    secret = PLANTED["aws"].encode()
    noise = bytes(range(128, 256)) * 8
    hidden: dict[str, str | bytes | None] = {
        "path.txt": b"https://x.example/a/" + base64.urlsafe_b64encode(secret),
        "word.txt": b"token_" + base64.b64encode(secret),
        "letter.txt": b"x" + base64.b64encode(secret),
        "binary.txt": base64.b64encode(noise + b" '" + secret + b"' " + noise),
        "hex.txt": b"a" + (b" " + secret + b" ").hex().encode(),
    }
    report = await stand.scan(stand.commit(hidden))
    assert sorted(found.path for found in report.findings) == sorted(hidden), report
