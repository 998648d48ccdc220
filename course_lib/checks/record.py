"""What a learner has done so far, kept in one small file in `COURSE_HOME`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from course_lib.checkpoint import write_atomically

_VERSION = 1
_STATUSES = ("not yet", "correct")


def home() -> Path:
    """The folder for progress and caches: `COURSE_HOME`, by default the user's data folder of this platform."""
    return Path(os.environ.get("COURSE_HOME") or platformdirs.user_data_dir("course_lib"))


def load() -> dict[str, dict[str, Any]]:
    """Records by task key: `{"instance/msdnet/exit_shares": {"status": ..., "attempts": ..., "last": date}}`.

    A file that cannot be understood is renamed to `progress.unreadable-N.json` beside it, and counting starts anew.
    """
    path = home() / "progress.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        _keep_aside(path)
        return {}
    if not _understood(content):
        _keep_aside(path)
        return {}
    return content["tasks"]


def _understood(content: Any) -> bool:
    if (
        not isinstance(content, dict)
        or content.get("version") != _VERSION
        or not isinstance(content.get("tasks"), dict)
    ):
        return False
    return all(
        isinstance(entry, dict) and entry.get("status") in _STATUSES and isinstance(entry.get("attempts"), int)
        for entry in content["tasks"].values()
    )


def _keep_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"progress.unreadable-{number}.json")).exists():
        number += 1
    path.replace(aside)


def add(key: str, status: str) -> dict[str, dict[str, Any]]:
    """Count one attempt at the task `key` and return all records; *correct* is never taken back.

    Raises:
        ValueError: `status` is neither "not yet" nor "correct".
        OSError: the file cannot be written.
    """
    if status not in _STATUSES:
        raise ValueError(f"status: got {status!r}, expected one of {_STATUSES}")
    tasks = load()
    old = tasks.get(key, {"status": "not yet", "attempts": 0})
    best = "correct" if "correct" in (old["status"], status) else "not yet"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    tasks[key] = {"status": best, "attempts": old["attempts"] + 1, "last": now}
    content = json.dumps({"version": _VERSION, "tasks": tasks}, indent=1, sort_keys=True)
    write_atomically(home() / "progress.json", lambda file: file.write(content.encode()))
    return tasks
