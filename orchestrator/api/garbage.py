"""What can be asked about what lies about on the host, and done about it."""

from __future__ import annotations

from quart import Response

from orchestrator.api.route import Call, Query, Switch, answer
from orchestrator.core.garbage import GarbageFound, GarbageItem
from orchestrator.core.reports import GarbageReport
from orchestrator.journal.store import AuditEntry


class GarbageQuery(Query):
    """Whether only to tell."""

    dry_run: Switch = False


async def collect(call: Call) -> Response:
    """Tell what nobody needs, and remove it unless only asked to tell."""
    asked = call.query(GarbageQuery)
    report = await call.services.collect_garbage(asked.dry_run)
    found = garbage_found(report)
    if not asked.dry_run:
        outcome = f"{sum(item.removed for item in report.items)} of {len(report.items)} removed"
        changed = any(item.removed for item in report.items)
        await call.services.store.audit(AuditEntry(call.principal.name, "gc", "*", outcome), changed=changed)
    return answer(found)


def garbage_found(report: GarbageReport) -> GarbageFound:
    """Return the report as it is answered."""
    items = tuple(
        GarbageItem(
            kind=item.kind,
            name=item.name,
            bytes=item.bytes,
            why=item.why,
            removed=item.removed,
            error=item.error,
        )
        for item in report.items
    )
    freed = sum(item.bytes for item in report.items if item.removed)
    total = sum(item.bytes for item in report.items)
    return GarbageFound(dry_run=report.dry_run, items=items, bytes=total, freed_bytes=freed)
