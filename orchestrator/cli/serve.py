"""The command that is the supervisor: serve. Callers: `orchestrator.__main__`, by its table."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import click

from orchestrator.cli.loading import loading
from orchestrator.cli.output import YOLO_BANNER, Output

if TYPE_CHECKING:
    from orchestrator.assembly import Address


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print where it listens as one line of JSON, once it does."
)
def serve(*, as_json: bool) -> None:
    """Run the supervisor until SIGTERM (lets agents run on a little) or SIGINT; SIGUSR1 freezes.

    Its settings are environment variables; its log goes to standard error.
    """
    with loading():
        import trio  # noqa: PLC0415 - the whole program hangs on it; `--help` need not wait for that

        from orchestrator import assembly  # noqa: PLC0415 - as above
        from orchestrator.config import read_settings  # noqa: PLC0415 - as above
        from orchestrator.errors import SettingsError  # noqa: PLC0415 - as above
        from sandbox.base import SandboxUnavailable  # noqa: PLC0415 - as above

    output, settings = Output(as_json=as_json), read_settings()
    try:
        trio.run(partial(assembly.serve, settings, ready=partial(_announce, output, yolo=settings.yolo_mode)))
    except SandboxUnavailable as error:
        name = settings.sandbox_backend
        if name == "auto":
            raise
        why = str(error).removeprefix("no sandbox works here: ").removeprefix(f"{name}: ")
        raise SettingsError(f"SANDBOX_BACKEND={name!r} cannot be used here: {why}") from None


def _announce(output: Output, address: Address, *, yolo: bool) -> None:
    if output.as_json:
        output.json(
            {
                "url": address.url,
                "socket": str(address.socket),
                "sandbox": address.sandbox,
                "pid": os.getpid(),
                "yolo": yolo,
            }
        )
    elif output.console.is_terminal:
        output.line(
            "listening on ", (address.url, "bold"), f" and {address.socket}, {address.sandbox} sandbox"
        )
        if yolo:
            output.line((YOLO_BANNER, "bold red"))
        output.line(
            ("Ctrl-C stops it; `orchestrator doctor` and `orchestrator spawn --help` go on from here", "dim")
        )
