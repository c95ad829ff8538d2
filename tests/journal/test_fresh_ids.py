"""Ids are random UUIDs of version 4, none twice, however many are drawn."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from orchestrator.journal.fresh import PAGE_BYTES, new_uuid


def test_ids_are_random_uuids_across_the_pages_they_are_drawn_from() -> None:
    count = 4 * PAGE_BYTES // 16 + 1
    texts = [new_uuid() for _ in range(count)]
    ids = [UUID(text) for text in texts]
    assert [str(one) for one in ids] == texts
    assert {(one.version, one.variant) for one in ids} == {(4, RFC_4122)}
    assert len(set(ids)) == count
