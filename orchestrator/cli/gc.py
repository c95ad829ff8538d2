"""The command `gc`: what lies about on the host that nobody needs is told, and removed.

The invariant: two never collect at once, and nothing is collected beside a supervisor that does not know: a
running one does it itself; where none runs, we hold the state directory's lock. Callers:
`orchestrator.__main__`, by its table.
"""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.failure import Failed
from orchestrator.cli.session import Session, supervised


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@supervised
def gc(session: Session, *, dry_run: bool) -> None:
    """Remove what nobody needs: checkouts, leftovers of crashes.

    Each thing is told with its size and why it can go. Without a supervisor the state directory is collected
    under its lock; what an agent still needs stays.
    """
    try:
        found = session.run(lambda client: client.gc(dry_run=dry_run), doing="collecting garbage")
    except Failed as failure:
        if failure.code != "unreachable" or session.url is not None or session.token_file is not None:
            raise
        found = _collect_here(session, dry_run=dry_run)
    _show(session, found)
    if any(item["error"] for item in found["items"]):
        raise Failed("not everything could be removed", code="gc_failed")


def _collect_here(session: Session, *, dry_run: bool) -> dict[str, Any]:
    """Collect without a supervisor; raises `JournalInUse` where there is one after all."""
    import dataclasses  # noqa: PLC0415 - the whole program hangs on these; `--help` need not wait

    import trio  # noqa: PLC0415 - as above

    from orchestrator.api.garbage import garbage_found  # noqa: PLC0415 - as above
    from orchestrator.config import read_settings  # noqa: PLC0415 - as above
    from orchestrator.fitting import open_repositories  # noqa: PLC0415 - as above
    from orchestrator.journal.store import open_store  # noqa: PLC0415 - as above
    from orchestrator.supervise.garbage import collect_garbage  # noqa: PLC0415 - as above
    from orchestrator.supervise.gear import Tools  # noqa: PLC0415 - as above
    from sandbox.base import Limits  # noqa: PLC0415 - as above
    from sandbox.probe import default_user, user_from_name  # noqa: PLC0415 - as above
    from sandbox.trusted import ProcessBackend  # noqa: PLC0415 - as above

    settings = read_settings()
    if session.home is not None:
        settings = dataclasses.replace(settings, home=session.home.absolute())
    if not settings.home.is_dir():
        raise Failed(f"there is no state directory {settings.home}", code="no_home", fix="see --home")
    user = user_from_name(settings.sandbox_user) if settings.sandbox_user else default_user()

    async def collect() -> dict[str, Any]:
        async with open_store(settings.home, settings.database_path) as store:
            repositories = open_repositories(settings, ProcessBackend(user))
            tools = Tools(store, repositories, settings.home / "scratch", Limits(), yolo=False)
            report = await collect_garbage(tools, tuple, dry_run=dry_run)  # nobody runs
        return garbage_found(report).model_dump(mode="json", by_alias=True)

    return trio.run(collect)


def _show(session: Session, found: dict[str, Any]) -> None:
    if session.output.as_json:
        session.output.json(found)
        return
    items = found["items"]
    if not items:
        session.output.line(("there is nothing to remove", "green"))
        return
    rows = [
        (item["name"], item["kind"], _mib(item["bytes"]), item["why"], _fate(item, dry=found["dryRun"]))
        for item in items
    ]
    session.output.table(("NAME", "KIND", "MIB", "WHY", "WHAT"), rows)
    if found["dryRun"]:
        session.output.line(f"{len(items)} things, {_mib(found['bytes'])} MiB: nothing was removed")
    else:
        gone = sum(item["removed"] for item in items)
        session.output.line(f"{gone} of {len(items)} removed, {_mib(found['freedBytes'])} MiB")


def _fate(item: dict[str, Any], *, dry: bool) -> str:
    if item["removed"]:
        return "removed"
    if item["kind"] == "unsalvaged":
        return "stays"
    return "would go" if dry else f"stays: {item['error']}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
