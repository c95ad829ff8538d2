"""A registry of packages on the loopback: a wheel and an npm package, each with a program that says hello."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

WHEEL = "hello_wheel-1.0-py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class Registry:
    """Where it is, and what was asked of it."""

    host: str
    asked: list[str] = field(default_factory=list)

    def python_files(self) -> dict[str, str]:
        """Return what makes a project need the wheel."""
        return {"requirements.txt": f"--index-url http://{self.host}/simple/\nhello-wheel==1.0\n"}

    def node_files(self) -> dict[str, str]:
        """Return what makes a project need the npm package."""
        url, content = f"http://{self.host}/hello-npm-1.0.0.tgz", _npm_package()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
        wanted = {"name": "project", "version": "1.0.0", "dependencies": {"hello-npm": url}}
        package = {
            "version": "1.0.0",
            "resolved": url,
            "integrity": integrity,
            "bin": {"hello-npm": "cli.js"},
        }
        lock = {
            "name": "project",
            "version": "1.0.0",
            "lockfileVersion": 3,
            "requires": True,
            "packages": {"": wanted, "node_modules/hello-npm": package},
        }
        return {"package.json": json.dumps(wanted), "package-lock.json": json.dumps(lock)}


def _wheel() -> bytes:
    about = "hello_wheel-1.0.dist-info"
    files = {
        "hello_wheel.py": "def main():\n    print('hello from the wheel')\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: hello-wheel\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\nhello-wheel = hello_wheel:main\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return made.getvalue()


def _npm_package() -> bytes:
    manifest = {"name": "hello-npm", "version": "1.0.0", "bin": {"hello-npm": "cli.js"}}
    files = {
        "package/package.json": json.dumps(manifest),
        "package/cli.js": "#!/usr/bin/env node\nconsole.log('hello from npm')\n",
    }
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


@contextmanager
def open_registry() -> Iterator[Registry]:
    """Serve for as long as the block."""
    content: Mapping[str, tuple[str, bytes]] = {
        "/simple/hello-wheel/": ("text/html", f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()),
        f"/{WHEEL}": ("application/octet-stream", _wheel()),
        "/hello-npm-1.0.0.tgz": ("application/octet-stream", _npm_package()),
    }

    class Answer(http.server.BaseHTTPRequestHandler):
        """Answers with what is there."""

        def do_GET(self) -> None:
            found.asked.append(self.path)
            kind, body = content.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("content-type", kind or "text/plain")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    found = Registry(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
