"""The program as a whole: finds the command, runs it, and turns whatever ends it into an exit status.

The invariants: 0 is done, 1 what was asked for failed, 2 usage, 3 the supervisor cannot be reached, and
every failure that is foreseen is one line (one problem document under `--json`) on standard error. A
command's module is imported only when that command runs, so `--help` costs nothing but click. Called by
`orchestrator.__main__`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click

from orchestrator.cli.failure import (
    PIPE_CLOSED,
    SIGNALLED,
    UNREACHABLE,
    USAGE,
    Failed,
    Interrupted,
)
from orchestrator.cli.printable import one_line, to_json

NAME = "orchestrator"
#: How writing to a full, closed or broken standard output fails.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO}


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: where it is (`module:attribute`), and what it does in a few words."""

    where: str
    about: str


class Program(click.Group):
    """A group whose commands are named by a table and imported when called."""

    def __init__(self, table: Mapping[str, Entry], **settings: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(**settings)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where the table has none of that name."""
        if (entry := self._table.get(cmd_name)) is None:
            return None
        module, _, attribute = entry.where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the table's words, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.about) for name, entry in self._table.items()])


def run(table: Mapping[str, Entry], arguments: Sequence[str]) -> int:
    """Run the command that the arguments name and return the exit status."""
    program = Program(
        table,
        name=NAME,
        help="Queue, check out, sandbox, judge and land the work of coding agents.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.params.append(
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_version,
            help="Show the version.",
        )
    )
    _stand_in_for_closed()
    options = list(arguments)
    as_json = "--json" in (options[: options.index("--")] if "--" in options else options)
    try:
        status = _invoke(program, options)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except Failed as failure:
        try:
            _report(failure, as_json=as_json)
            sys.stderr.flush()
        except OSError:  # there is nowhere left to say it
            _forget(sys.stderr)
        return failure.exit_status
    except Interrupted as cut:
        return SIGNALLED + cut.number
    except KeyboardInterrupt:  # before the command listened for it
        return SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        _forget(sys.stdout)  # whoever read has left
        return PIPE_CLOSED
    return status


def _stand_in_for_closed() -> None:
    """Put what cannot be written to where a stream was closed: else a socket would take its number."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), number)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _forget(stream: TextIO) -> None:
    """Send what was not written yet nowhere: the interpreter would complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _output_trouble(error: OSError) -> str:
    """Return why standard output cannot be written, where that is what failed; else nothing."""
    # What failed at a path names it; commands write to nothing else that is open.
    if error.filename is None and error.errno in UNWRITABLE:
        return error.strerror or str(error)
    return ""


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from orchestrator.version import VERSION  # noqa: PLC0415 - it reads the metadata of the installation

        click.echo(f"{NAME} {VERSION}")
        ctx.exit()


def _invoke(program: click.Group, arguments: list[str]) -> int:
    """Parse and run; whatever is foreseen to go wrong leaves as `Failed`."""
    # Not `program.main`: it turns a closed pipe and an interrupt into exit status 1.
    with _foreseen(), program.make_context(NAME, arguments) as context:
        result = program.invoke(context)
        sys.stdout.flush()
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _foreseen() -> Iterator[None]:
    """Turn every foreseen error into `Failed`; one out of an exception group speaks for the group."""
    try:
        yield
    except click.ClickException as error:
        raise _usage(error) from None
    except click.Abort:
        raise KeyboardInterrupt from None
    except (BaseExceptionGroup, Exception) as error:
        first = _first(error)
        if isinstance(
            first, Failed | Interrupted | KeyboardInterrupt | BrokenPipeError | click.exceptions.Exit
        ):
            raise first from None
        if isinstance(first, OSError) and (why := _output_trouble(first)):
            _forget(sys.stdout)
            raise Failed(f"the output cannot be written: {why}", code="output_failed") from None
        if (failure := _translate(first)) is None:
            raise
        raise failure from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _usage(error: click.ClickException) -> Failed:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return Failed(error.message, code="usage", exit_status=USAGE)
    command = getattr(getattr(error, "ctx", None), "command_path", NAME)
    return Failed(error.format_message(), code="usage", fix=f"see {command} --help", exit_status=USAGE)


def _translate(error: BaseException) -> Failed | None:
    """Return what a typed error of the rooms below means here; None for one that nobody foresaw."""
    # Imported late: a command that failed with one of these has imported them already.
    from orchestrator.errors import OrchestratorError, SettingsError  # noqa: PLC0415
    from sandbox.base import SandboxError  # noqa: PLC0415

    if isinstance(error, SandboxError):
        return Failed(str(error), code="sandbox_error")
    if not isinstance(error, OrchestratorError):
        return None
    if isinstance(error, SettingsError):
        return Failed(error.detail, code=error.code, exit_status=USAGE)
    if error.code == "unreachable":
        return Failed(error.detail, code=error.code, exit_status=UNREACHABLE)
    fix = "use --token-file, or set ORCHESTRATOR_API_KEY" if error.status in {401, 403} else ""
    errors = tuple(trouble.model_dump(mode="json") for trouble in getattr(error, "errors", ()))
    return Failed(error.detail, code=error.code, status=error.status, fix=fix, errors=errors)


def _report(failure: Failed, *, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(to_json(failure.problem()) + "\n")
    elif failure.code == "usage" and "\n" in failure.detail:  # the help of a command called without arguments
        sys.stderr.write(failure.detail + "\n")
    else:
        fix = f" ({one_line(failure.fix, 500)})" if failure.fix else ""
        detail = one_line(failure.detail, 2000)
        sys.stderr.write(f"{NAME}: {detail.removesuffix('.') if fix else detail}{fix}\n")
