"""What a reviewer is asked: our own instructions, and the change as data.

The invariant: the instructions are the templates of ours and nothing else; of the candidate there is only its
change, numbered line by line, in fences that carry a mark drawn for this one question, which no text in them
can know; all of the change is in it, or it is `Unseen`. Caller: `gate`.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.agents.fence import MAX_CODE, Untrusted
from orchestrator.agents.prompt import environment
from orchestrator.core.patch import FileChange, PatchMalformed, Row, parse_patch
from orchestrator.core.review import CONFIDENT, MAX_FINDINGS

#: Bytes of a change that is reviewed in one piece: a byte is a token at worst, and that fits any window.
MAX_CHANGE_BYTES = 128 * 1024
#: Characters of what the task says that are told.
MAX_PURPOSE = 16_000
_TOO_LARGE = (
    f"the change is too large to be reviewed: it has more than {MAX_CHANGE_BYTES // 1024} KiB as it is shown "
    "to the reviewer; make it smaller, or land it in parts"
)


class Unseen(Exception):
    """Something of the change cannot be shown to a reviewer, so nobody can approve it; says what."""


def read_changes(patch: bytes) -> tuple[FileChange, ...]:
    """Return what a patch changes, which was read with room for more than `MAX_CHANGE_BYTES`.

    Raises `Unseen` where it is too large, holds what cannot be shown, or is no patch.
    """
    if len(patch) > MAX_CHANGE_BYTES:
        raise Unseen(_TOO_LARGE)
    try:
        changes = parse_patch(patch)
    except PatchMalformed as error:
        raise Unseen(f"the change cannot be read: {error}") from None
    if hidden := [change.path for change in changes if change.binary and not change.removed]:
        more = f" and {len(hidden) - 5} more" if len(hidden) > 5 else ""
        raise Unseen(f"binary files cannot be reviewed: {', '.join(hidden[:5])}{more}")
    if long := [change.path for change in changes if len(change.path) > MAX_CODE]:
        raise Unseen(f"names of more than {MAX_CODE} characters cannot be reviewed: {long[0][:60]}...")
    return changes


def question(changes: Sequence[FileChange], purpose: str, mark: str) -> tuple[str, str]:
    """Return the instructions and the question; `mark` is nobody else's to know. Raises `Unseen`."""
    shown = [
        (Untrusted(change.path), change.notes, Untrusted(text) if (text := _text(change)) else None)
        for change in changes
    ]
    asked = environment().get_template("review_change.md")
    text = asked.render(
        agent_id=mark,
        task_id="review",
        purpose=Untrusted(purpose) if purpose.strip() else None,
        max_purpose=MAX_PURPOSE,
        files=shown,
        # Nothing of it is ever cut: it is refused as a whole.
        no_limit=MAX_CHANGE_BYTES * 64,
    )
    if len(text.encode()) > MAX_CHANGE_BYTES + MAX_PURPOSE * 4:
        raise Unseen(_TOO_LARGE)
    rules = environment().get_template("review.md").render(confident=CONFIDENT, max_findings=MAX_FINDINGS)
    return rules, text


def _text(change: FileChange) -> str:
    return "\n...\n".join("\n".join(map(_line, hunk)) for hunk in change.hunks)


def _line(row: Row) -> str:
    return f"{row.mark}{'' if row.number is None else row.number:>7} | {row.text}"
