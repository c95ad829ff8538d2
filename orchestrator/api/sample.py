"""The examples in openapi.json: one small story, whose values fit the schemas (a test validates each)."""

from __future__ import annotations

from typing import Any

AGENT_ID = "0b9a5a8e-6d0e-4c57-9d38-5a1f0d3c2b11"
TASK_ID = "US-001.3"
TIME = "2026-01-31T12:00:00.000Z"
COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

TASK: dict[str, Any] = {
    "taskId": TASK_ID,
    "agentType": "worker",
    "gateProfile": "standard",
    "priority": 5,
    "context": {
        "repository": "https://git.example.com/repo.git",
        "branch": "main",
        "workItems": ["US-001"],
        "skills": ["typescript"],
        "instructions": "Make the login page remember the user.",
    },
    "options": {"timeout": 3600, "maxRetries": 3, "runtime": "command", "command": ["./agent.sh"]},
}
SPAWNED = {"agentId": AGENT_ID, "taskId": TASK_ID, "status": "spawning", "queuePosition": 1}
SUBMITTED = {**SPAWNED, "status": "pending"}
REQUEUED = {"requeued": [SUBMITTED], "refused": [], "more": False}
USAGE = {"inputTokens": 1200, "outputTokens": 340, "costUsd": 0.02, "turns": 1, "toolCalls": 4}
AGENT: dict[str, Any] = {
    "agentId": AGENT_ID,
    "taskId": TASK_ID,
    "status": "running",
    "phase": "working",
    "role": "worker",
    "runtime": "command",
    "priority": 5,
    "attempt": 1,
    "spawnedAt": TIME,
    "startedAt": TIME,
    "reason": None,
    "usage": USAGE,
    "branch": "agent/US-001.3",
    "commit": None,
    "pullRequest": None,
    "nextAgentId": None,
}
GATE = {
    "gate": "tests",
    "approved": True,
    "message": "12 tests passed",
    "commit": COMMIT,
    "round": 1,
    "exitCode": 0,
    "durationMs": 2140.5,
    "tests": 12,
    "coverage": None,
}
STATUS = {
    **AGENT,
    "queuePosition": None,
    "waitsFor": [],
    "resources": {
        "memoryBytes": 52428800,
        "cpuSeconds": 1.2,
        "processes": 3,
        "enforced": ["home_mb", "open_files", "pids", "tmp_mb"],
        "watched": ["disk_mb", "memory_mb"],
    },
    "gates": [GATE],
    "aiShare": 1.0,
}
KILLED = {
    "agentId": AGENT_ID,
    "status": "killed",
    "killedProcesses": 7,
    "remaining": 0,
    "elapsedMs": 14.2,
    "tier": "pid-namespace+cgroup",
}
KILLED_ALL = {
    "message": "Kill all completed: 3 killed, 0 failed",
    "total": 3,
    "killed": 3,
    "failed": 0,
    "errors": [],
    "remaining": 0,
    "elapsedMs": 31.7,
    "tier": "pid-namespace+cgroup",
}
GARBAGE = {
    "dryRun": False,
    "items": [
        {
            "kind": "checkout",
            "name": "checkouts/3f0c/9b1d",
            "bytes": 1048576,
            "why": "no agent works on it",
            "removed": True,
            "error": None,
        }
    ],
    "bytes": 1048576,
    "freedBytes": 1048576,
}
SALVAGE = {
    "agentId": "b0c5a1f2-6a52-4d0e-9c41-5f6f0f6d8f11",
    "taskId": "US-001.3",
    "repository": "https://git.example.org/repo.git",
    "reason": "conflict",
    "ref": "refs/salvage/b0c5a1f2-6a52-4d0e-9c41-5f6f0f6d8f11",
    "commit": "9b1d6f3f0c2a4e5d8b7a6c5d4e3f2a1b0c9d8e7f",
    "keptAt": "2026-01-31T12:00:00.000Z",
}
SALVAGES = {"salvages": [SALVAGE], "more": 0, "keepDays": 30}
SALVAGE_DETAIL = {
    **SALVAGE,
    "base": "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d",
    "files": [{"path": "src/app.py", "additions": 12, "deletions": 3}],
    "more": 0,
    "fetch": "git fetch /var/lib/orchestrator/mirrors/3f0c refs/salvage/b0c5a1f2",
}
SALVAGE_DROPPED = {"agentId": SALVAGE["agentId"], "commit": SALVAGE["commit"], "dropped": True}
FROZEN = {
    "frozen": True,
    "draining": False,
    "agents": 2,
    "processes": 17,
    "starting": 0,
    "elapsedMs": 2.1,
}
VERDICTS = {
    "agentId": AGENT_ID,
    "gates": [{**GATE, "testsBase": 11, "command": ["pytest"], "outputTail": "12 passed in 1.9s"}],
    "aiShare": 1.0,
}
EVENT = {
    "seq": 17,
    "id": "5f0c1f6e-9d5e-4a39-8f57-8f6f0f6b7f10",
    "type": "agent.running",
    "time": TIME,
    "agentId": AGENT_ID,
    "taskId": TASK_ID,
    "data": {"sandbox": "bubblewrap", "runtime": "command"},
}
SAYING = {"text": "Leave the public API as it is."}
SAID = {"agentId": AGENT_ID, "message": 1, "status": "waiting"}
TRANSCRIPT = {
    "agentId": AGENT_ID,
    "turns": [
        {
            "seq": 41,
            "time": TIME,
            "kind": "turn",
            "turn": 1,
            "prompt": 1,
            "model": "claude-sonnet-4-5",
            "stopReason": "tool_use",
            "exitCode": None,
            "durationMs": 2310.5,
            "usage": {"inputTokens": 812, "outputTokens": 96, "costUsd": 0.0039},
            "text": "I will look at the tests first.",
            "content": [{"role": "assistant", "content": "I will look at the tests first."}],
        }
    ],
    "next": None,
}
LOG_LINE = {"seq": 42, "time": TIME, "stream": "stdout", "content": "reading src/login.ts"}
TASK_SUMMARY: dict[str, Any] = {
    "taskId": TASK_ID,
    "status": "executing",
    "agentId": AGENT_ID,
    "attempt": 1,
    "agentType": "worker",
    "priority": 5,
    "repository": "https://git.example.com/repo.git",
    "branch": "main",
    "submittedAt": TIME,
    "reason": None,
}
TASK_DETAIL = {**TASK_SUMMARY, "spec": TASK, "attempts": [AGENT], "events": [EVENT]}
CANCELLED = {
    "taskId": TASK_ID,
    "agentId": AGENT_ID,
    "status": "cancelled",
    "killedProcesses": 0,
    "remaining": 0,
    "elapsedMs": 0.0,
}
STATS = {
    "pending": 4,
    "active": 1,
    "completed": 12,
    "failed": 1,
    "delayed": 0,
    "paused": False,
    "concurrency": 1,
}
QUEUE_OPTIONS = {"paused": False, "stop_on_failure": False, "max_concurrent": 4}
QUEUE = {
    "items": [
        {
            "id": 41,
            "taskId": TASK_ID,
            "agentId": AGENT_ID,
            "position": 1,
            "status": "queued",
            "priority": 5,
            "queuedAt": TIME,
            "completedAt": None,
        }
    ],
    "completed": [],
    "settings": QUEUE_OPTIONS,
    "stats": STATS,
}
HEALTH = {
    "status": "healthy",
    "uptime": 12.3,
    "timestamp": TIME,
    "version": "0.1.0",
    "yolo": False,
    "frozen": False,
}
MIRROR = {
    "compared": 412,
    "differing": 1,
    "repaired": 0,
    "differences": [{"key": "orchestrator:task:US-001", "problem": "missing"}],
}
READY = {
    "status": "ready",
    "checks": {
        "journal": "ok",
        "sandbox": "bubblewrap",
        "valkey": "off",
        "coordinator": "off",
        "disk": "ok",
    },
}
DIFF = """\
diff --git a/new.txt b/new.txt
new file mode 100644
--- /dev/null
+++ b/new.txt
@@ -0,0 +1 @@
+new
"""
