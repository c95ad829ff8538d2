"""The exception family: a class docstring is the default message; each class says whether a retry can help.

Everything that the orchestrator raises on purpose is an `OrchestratorError`; `sandbox` has a family of its
own. The API turns `code` into a problem document, and `supervise` turns `reason` into the reason of an
agent's end.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Something went wrong in the orchestrator."""

    #: Whether the same call may succeed later without anybody changing anything.
    retryable = False
    #: The stable word for clients.
    code = "internal_error"
    #: The HTTP status that says the same.
    status = 500
    #: The reason of an agent's end, where this error ends one.
    reason = "sandbox_error"

    def __init__(self, detail: str = "") -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        super().__init__(self.detail)


class SettingsError(OrchestratorError):
    """A setting has a value that cannot be used."""

    code = "bad_setting"


class CommandRefused(OrchestratorError):
    """The command does not fit the present state."""

    code = "refused"
    status = 409


class FieldRefused(CommandRefused):
    """A field of the task asks for what this orchestrator cannot do."""

    code = "field_refused"
    status = 422

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        #: The field's path in the request, for the problem document's `errors`.
        self.field = field


class AgentUnknown(CommandRefused):
    """There is no such agent."""

    code = "agent_not_found"
    status = 404


class TaskUnknown(CommandRefused):
    """There is no such task."""

    code = "task_not_found"
    status = 404


class TaskActive(CommandRefused):
    """That task has a live agent already."""

    code = "task_active"


class AlreadyEnded(CommandRefused):
    """That agent has ended already."""

    code = "already_ended"


class NotEnded(CommandRefused):
    """That agent has not ended yet."""

    code = "not_ended"


class QueueFull(CommandRefused):
    """The queue holds as many tasks as MAX_QUEUED_TASKS allows; submit again later."""

    code = "queue_full"
    status = 429
    retryable = True


class MailboxFull(QueueFull):
    """That agent has as many messages waiting as there may be; send this one when it has heard them."""

    code = "mailbox_full"


class Frozen(CommandRefused):
    """The orchestrator is frozen and admits nothing until it is thawed."""

    code = "frozen"
    status = 503
    retryable = True


class Draining(CommandRefused):
    """The orchestrator is draining and admits nothing."""

    code = "draining"
    status = 503
    retryable = True


class NoSlot(CommandRefused):
    """Every slot for a live agent is taken, or the queue is paused."""

    code = "no_slot"
    retryable = True


class KeyInUse(CommandRefused):
    """A request with that idempotency key is being answered right now; ask again for its answer."""

    code = "idempotency_key_in_use"
    retryable = True


class IllegalTransition(OrchestratorError):
    """An event does not follow from the state: the code and the state machine disagree."""

    code = "illegal_transition"


class JournalError(OrchestratorError):
    """The journal cannot be used."""

    code = "journal_error"
    status = 503


class JournalInUse(JournalError):
    """Another orchestrator runs on this state directory."""


class JournalMisplaced(JournalError):
    """The journal lies on a file system that cannot keep its promises."""


class JournalCorrupt(JournalError):
    """The journal failed its integrity check."""


class JournalBroken(JournalError):
    """A commit failed, so its outcome is unknown: the process must end and read the journal anew."""


class FreezeNotLatched(JournalError):
    """Every process was stopped, but that could not be journaled: a restart will not find it frozen."""

    code = "freeze_not_latched"


class DiskFull(JournalError):
    """There is no room on the disk for new work."""

    code = "disk_full"
    status = 507
    retryable = True


class RoomKept(DiskFull):
    """The disk is full, and the room left is kept for kills and ends: make room on it, and ask again."""


# --- repositories


class RepositoryError(OrchestratorError):
    """The repository cannot be used."""

    code = "repository_error"
    status = 422
    reason = "repository_error"


class UrlRefused(RepositoryError):
    """That repository URL is not allowed here."""

    code = "repository_refused"


class DirectoryMissing(UrlRefused):
    """The directory of a file:// URL is not there, or cannot be read, now."""

    retryable = True


class RepositoryUnreachable(RepositoryError):
    """The repository did not answer."""

    retryable = True
    status = 502


class BranchMissing(RepositoryError):
    """The repository has no such branch."""


class GitFailed(RepositoryError):
    """Git failed on one of our own repositories."""

    status = 500


class GitTimeout(RepositoryUnreachable):
    """Git did not end within its deadline."""


class RoomUnusable(RepositoryError):
    """The worktree that an earlier life left cannot be worked on again."""

    status = 500


class RoomForsaken(RoomUnusable):
    """Its removal had begun, so what was worth keeping of it was kept before."""


class ImportRefused(RepositoryError):
    """What the agent pushed cannot be taken into quarantine."""

    reason = "policy_violation"


class PushRejected(RepositoryError):
    """The remote refused the push."""

    reason = "push_failed"


class BranchBlocked(PushRejected):
    """Another branch's name leaves no room for this one."""

    reason = "conflict"


class LeaseLost(PushRejected):
    """Somebody else moved the branch since it was last seen."""

    retryable = True
    reason = "conflict"


class AgentError(OrchestratorError):
    """The agent's program failed."""

    code = "agent_error"
    reason = "agent_error"


class ResultMalformed(AgentError):
    """What the agent gave as its result is none."""


class BudgetExceeded(AgentError):
    """The budget allows no more."""

    code = "budget_exceeded"
    reason = "budget_exceeded"


class ModelUnpriced(AgentError):
    """Nobody knows what the model costs, and there is a budget of money."""

    code = "model_unpriced"


class ProviderUnavailable(AgentError):
    """The model's provider cannot be used."""

    code = "provider_unavailable"
    reason = "provider_unavailable"
    retryable = True


class ProviderRefused(ProviderUnavailable):
    """The provider refuses what was asked of it, and would again."""

    retryable = False


class RuntimeUnknown(OrchestratorError):
    """There is no such runtime in this version."""

    code = "runtime_unknown"
    status = 422
    reason = "agent_error"
