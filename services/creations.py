"""Parts of the events by which commands create things."""

from datetime import UTC, datetime, timedelta
from typing import Any

from events import administration as admin
from events import commands as cmd
from events.commands import Command


def first(command: Command) -> dict[str, Any]:
    """Where the first event of what a command creates stands."""
    return {"originator_id": command.aggregate_id, "originator_version": 1}


def new_user(command: cmd.CreateUser | cmd.InviteUser) -> admin.UserCreated:
    """The user that a command creates."""
    return admin.UserCreated(
        **first(command),
        email=command.email,
        name=command.name,
        role=command.role,
        company_id=command.company_id,
        identity=None,
    )


def after(seconds: int | None) -> datetime | None:
    """The time so many seconds from now; None: never."""
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
