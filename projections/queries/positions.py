"""How far the read models are."""

from projections.queries.reader import Reader

PROJECTED_POSITION = """
SELECT coalesce(min(position), 0)::bigint FROM data_engine.projection_checkpoints WHERE NOT building
"""


async def projected_position(reader: Reader) -> int:
    """The log position that every projection has reached; 0 before there is any."""
    position: int = (await reader.platform_rows(PROJECTED_POSITION))[0][0]
    return position
