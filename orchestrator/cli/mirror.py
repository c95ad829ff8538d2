"""The command `mirror verify`: is what stands in Valkey what the journal says, and if not, put it right.

Exit status 1 where something differs and was not put right. Callers: `orchestrator.__main__`, by its table.
"""

from __future__ import annotations

import click

from orchestrator.cli.session import Session, supervised


@click.group()
def mirror() -> None:
    """Look at the mirror in Valkey (docs/mirror.md)."""


@mirror.command()
@click.option("--repair", is_flag=True, help="Put right what differs.")
@supervised
def verify(session: Session, *, repair: bool) -> int:
    """Compare Valkey with the journal, key by key.

    The running supervisor does it, while it goes on mirroring: what only is on its way is no difference.
    """
    found = session.run(lambda client: client.verify_mirror(repair=repair), doing="comparing")
    left = found["differing"] - found["repaired"]
    if session.output.as_json:
        session.output.json(found)
        return 1 if left else 0
    if found["differences"]:
        session.output.table(
            ("KEY", "PROBLEM"), [(one["key"], one["problem"]) for one in found["differences"]]
        )
    told = f"{found['compared']} keys compared, {found['differing']} differ, {found['repaired']} repaired"
    session.output.line((told, "red" if left else "green"))
    return 1 if left else 0
