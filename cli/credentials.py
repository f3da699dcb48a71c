"""The API tokens that the command line made for itself, in a file that only its owner can read."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from events.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Credentials:
    """A token and the org that it is for."""

    org_id: str
    user_id: str
    token: str


def save(home: Path, credentials: Credentials) -> None:
    """Keep credentials for the next command."""
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(credentials), file)


def load(home: Path) -> Credentials | None:
    """The credentials that were kept, or None."""
    try:
        return Credentials(**json.loads(_path(home).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{_path(home)} is damaged; delete it and run `dex org create`.") from error


def _path(home: Path) -> Path:
    return home / "credentials.json"
