"""Names of fields out of what a header says: none empty, none twice, not even in another letter case."""

from collections.abc import Sequence

from services.steps.base import StepError

NAME_MAX_CHARS = 500
HEADER_SHOWN_CHARS = 1_000
# Byte order mark, zero-width space and word joiner: a second byte order mark inside the file's first name is common.
INVISIBLE = dict.fromkeys((0xFEFF, 0x200B, 0x2060))


def field_names(found: Sequence[str | None], max_columns: int) -> list[str]:
    """The names that are used for a header as it was found.

    Outer and doubled whitespace, control and invisible characters go; an empty name becomes `column_3` (its place, from
    1); one that was there before, letter case aside, gets `_2`, `_3` and so on. Raises StepError `too_many_columns`.
    """
    if len(found) > max_columns:
        raise StepError(
            f"The file has {len(found)} columns; at most {max_columns} (max_columns).", code="too_many_columns"
        )
    cleaned = [_clean(name or "") or f"column_{place}" for place, name in enumerate(found, 1)]
    taken = {name.casefold() for name in cleaned}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    names = []
    for name in cleaned:
        used, key = name, name.casefold()
        if key in seen:
            number = counts.get(key, 2)
            while f"{key}_{number}" in taken:
                number += 1
            used, counts[key] = f"{name}_{number}", number + 1
            taken.add(used.casefold())
        seen.add(used.casefold())
        names.append(used)
    return names


def _clean(name: str) -> str:
    spaced = " ".join(name.translate(INVISIBLE).split())
    return "".join(c for c in spaced if c.isprintable() or c == " ")[:NAME_MAX_CHARS].strip()
