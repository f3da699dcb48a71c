"""The lines of an export (docs/audit-format.md): one JSON object a line, in UTF-8.

    header    {"format", "org_id", "selection", "first_index", "end_index", "checkpoint", "consistency"}
    tile      {"tile", "hashes", "path"}               before the first decision of each 256 leaves
    decision  {"index", "position", "recorded_at", "subject", "body"}, and perhaps "opened": {"salt", "text"}
    end       {"end", "decisions"}

Hashes are in base64. A body that is no UTF-8 is given in base64 as `body64`. `opened` says what is sealed in the body.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from events.subjects import SALT_BYTES

FORMAT = "data-engine-x audit export 1"
SELECTIONS = ("all", "range", "run", "submission", "company")
"""What an export can be of (`kind`)."""

_OPTIONS = orjson.OPT_APPEND_NEWLINE


def header_line(
    org_id: str,
    selection: Mapping[str, Any],
    indexes: tuple[int, int] | None,
    checkpoint: str,
    consistency: Mapping[int, Sequence[bytes]],
) -> bytes:
    """What the export is of. `indexes`: it has every leaf from the first up to the second, None: only some.

    `consistency` has, by an earlier size, the proof that the checkpoint's tree begins with the one of that size.
    """
    first, end = indexes or (None, None)
    return orjson.dumps(
        {
            "format": FORMAT,
            "org_id": org_id,
            "selection": dict(selection),
            "first_index": first,
            "end_index": end,
            "checkpoint": checkpoint,
            "consistency": [{"size": size, "path": texts(path)} for size, path in consistency.items()],
        },
        option=_OPTIONS,
    )


def tile_line(tile: int, hashes: bytes, path: Sequence[bytes]) -> bytes:
    """The leaf hashes of one tile, and the proof that leads from their root to the checkpoint's."""
    return orjson.dumps({"tile": tile, "hashes": b64encode(hashes).decode(), "path": texts(path)}, option=_OPTIONS)


def decision_line(
    index: int | None, position: int, recorded_at: datetime, subject: str, body: bytes, opening: bytes | None = None
) -> bytes:
    """One decision, as it is stored. `index` is None where the tree has no such leaf; `opening` is salt ‖ JSON of a
    sealed one (events/mapper.py).
    """
    line: dict[str, Any] = {
        "index": index,
        "position": position,
        "recorded_at": recorded_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "subject": subject,
    }
    try:
        line["body"] = body.decode()
    except UnicodeDecodeError:
        line["body64"] = b64encode(body).decode()
    if opening is not None:
        line["opened"] = {"salt": b64encode(opening[:SALT_BYTES]).decode(), "text": opening[SALT_BYTES:].decode()}
    return orjson.dumps(line, option=_OPTIONS)


def end_line(decisions: int) -> bytes:
    """The last line: how many decisions there were."""
    return orjson.dumps({"end": True, "decisions": decisions}, option=_OPTIONS)


def texts(hashes: Sequence[bytes]) -> list[str]:
    """Hashes in base64."""
    return [b64encode(one).decode() for one in hashes]
