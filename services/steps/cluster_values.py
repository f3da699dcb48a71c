"""cluster_values: spellings of the same thing, brought together under the one that is most frequent."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

import jellyfish
import pyarrow as pa
from pydantic import ConfigDict, Field
from rapidfuzz.distance import Levenshtein

from services.steps._rowwise import require_fields
from services.steps.base import Context, Example, Exchange, Result, Step, StepConfig
from services.steps.frame import Frame, mapped

VALUE_MAX_CHARACTERS = 500
BLOCK_MAX_VALUES = 1_000
SHOWN = 20

Count = tuple[int, int]
"""How often a value occurs, and the place of its first row in the batch."""


class ClusterValuesConfig(StepConfig):
    """Which field, and when two spellings are one."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"field": "city", "method": "fingerprint", "output_field": "city_clean"}]}
    )

    field: str
    """The field whose texts are brought together; other values, and texts of more than 500 characters, stay apart."""

    method: Literal["fingerprint", "ngram", "phonetic", "levenshtein"] = "fingerprint"
    """What two spellings have in common: `fingerprint` the same words in any order, without regard to case, accents and
    punctuation; `ngram` the same pairs of letters; `phonetic` the same sound in English (Metaphone); `levenshtein` a
    distance of at most `distance_max` between texts that begin alike, which carries over from one to the next."""

    distance_max: int = Field(default=1, ge=1, le=5)
    """For `levenshtein`: insertions, deletions and replacements of a letter."""

    block_characters: int = Field(default=3, ge=1, le=10)
    """For `levenshtein`: only texts whose first so many letters and digits agree are compared. A group of more than
    1,000 such texts is not compared, and told in the report."""

    output_field: str | None = None
    """The field to write the chosen spelling into, which is replaced if there is one; null writes into `field`."""


def _extract(frame: Frame, config: ClusterValuesConfig, _: Context) -> pa.Table:
    """Each text of the chunk once, with how often it occurs and the number of its first row within the chunk."""
    require_fields(frame, [config.field])
    coded = frame.coded(config.field)
    counts: dict[str, list[int]] = {}
    for row, code in enumerate(coded.code_list()):
        value = coded.values[code]
        if isinstance(value, str) and len(value) <= VALUE_MAX_CHARACTERS and not _has_surrogate(value):
            counts.setdefault(value, [0, row])[0] += 1
    values = [*counts]
    return pa.table(
        {
            "value": pa.array(values, pa.string()),
            "count": pa.array([counts[value][0] for value in values], pa.int64()),
            "first": pa.array([counts[value][1] for value in values], pa.int64()),
        }
    )


def _combine(
    parts: Sequence[pa.Table], config: ClusterValuesConfig, _: Context
) -> tuple[list[pa.Table], Mapping[str, Any]]:
    """For each chunk, the spelling that stands for each of its own."""
    counts: dict[str, Count] = {}
    for number, part in enumerate(parts):
        for value, count, first in zip(*(part[name].to_pylist() for name in ("value", "count", "first")), strict=True):
            known = counts.get(value)
            place = (number << 40) + first  # chunks are in the order of the batch
            counts[value] = (count, place) if known is None else (known[0] + count, known[1])
    ordered = sorted(counts, key=lambda value: counts[value][1])
    groups, capped = _levenshtein(ordered, config) if config.method == "levenshtein" else (_keyed(ordered, config), [])
    chosen: dict[str, str] = {}
    clusters: list[dict[str, Any]] = []
    for group in groups:
        best = min(group, key=lambda value: (-counts[value][0], counts[value][1]))
        chosen.update(dict.fromkeys(group, best))
        if len(group) > 1:
            clusters.append({"value": best, "spellings": group[:SHOWN], "rows": sum(counts[v][0] for v in group)})
    verdicts = []
    for part in parts:
        values = part["value"].to_pylist()
        verdicts.append(
            pa.table({"value": part["value"], "chosen": pa.array([chosen[value] for value in values], pa.string())})
        )
    clusters.sort(key=lambda cluster: -cluster["rows"])
    report = {"values": len(counts), "clusters": len(clusters), "largest": clusters[:SHOWN], "capped": capped[:SHOWN]}
    return verdicts, report


def _apply(frame: Frame, verdict: pa.Table, config: ClusterValuesConfig, _: Context) -> Result:
    chosen = dict(zip(verdict["value"].to_pylist(), verdict["chosen"].to_pylist(), strict=True))

    def spelling(value: Any) -> Any:
        return chosen.get(value, value) if isinstance(value, str) else value

    return Result(frame.replace({config.output_field or config.field: mapped(frame.coded(config.field), spelling)}))


cluster_values = Step(
    "cluster_values",
    version=f"1+jellyfish{version('jellyfish')}+rapidfuzz{version('rapidfuzz')}+ucd{unicodedata.unidata_version}",
    summary="Bring spellings of the same value together under the most frequent one.",
    config_model=ClusterValuesConfig,
    body=Exchange(_extract, _combine, _apply, extracts=lambda config: [config.field]),
    reads=lambda config: [config.field],
    isolated=True,  # pairs are many more than values
    holds="Each distinct text of the field, once.",
    examples=[
        Example(
            "Cities as several people wrote them",
            {"field": "city"},
            [{"city": "New York"}, {"city": "york, NEW"}, {"city": "New York"}, {"city": "Bonn"}, {"city": None}],
            [{"city": "New York"}, {"city": "New York"}, {"city": "New York"}, {"city": "Bonn"}, {"city": None}],
        )
    ],
)
"""Write, for each text, the most frequent spelling of its cluster; among equals the one that came first in the batch.

Blank texts, and texts without a letter or digit, stay as they are. The report tells how many clusters there are, the
largest of them, and the groups that were too large to be compared. Raises StepError `unknown_field`.
"""


def _keyed(values: Sequence[str], config: ClusterValuesConfig) -> list[list[str]]:
    """Values in groups of the same key, in the order of their first value; one without a key is alone."""
    key_of: Callable[[str], str] = {"fingerprint": _fingerprint, "ngram": _ngrams, "phonetic": _phonetic}[config.method]
    groups: dict[tuple[str, str], list[str]] = {}
    for value in values:
        key = key_of(value)
        groups.setdefault((key, "" if key else value), []).append(value)
    return list(groups.values())


def _levenshtein(values: Sequence[str], config: ClusterValuesConfig) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Groups of values that a chain of small distances connects; and the blocks that were not compared."""
    blocks: dict[str, list[str]] = {}
    for value in values:
        blocks.setdefault(_letters(value)[: config.block_characters], []).append(value)
    groups: list[list[str]] = []
    capped = []
    for key, block in blocks.items():
        if not key or len(block) > BLOCK_MAX_VALUES:
            groups += [[value] for value in block]
            if key:
                capped.append({"begins_with": key, "values": len(block)})
        else:
            groups += _connected(block, config.distance_max)
    return groups, capped


def _connected(block: list[str], distance_max: int) -> Iterator[list[str]]:
    """The parts of a block that distances of at most `distance_max` connect."""
    rest = list(block)
    while rest:
        group, rest = [rest[0]], rest[1:]
        for value in group:  # grows while it is walked
            near = [o for o in rest if Levenshtein.distance(value, o, score_cutoff=distance_max) <= distance_max]
            group += near
            taken = set(near)
            rest = [other for other in rest if other not in taken]
        yield group


def _words(text: str) -> list[str]:
    """The words of a text, lower-case, without accents and punctuation."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(c))
    return "".join(c if c.isalnum() else " " for c in plain).split()


def _letters(text: str) -> str:
    return "".join(_words(text))


def _fingerprint(text: str) -> str:
    return " ".join(sorted(set(_words(text))))


def _ngrams(text: str) -> str:
    letters = _letters(text)
    return " ".join(sorted({letters[at : at + 2] for at in range(max(len(letters) - 1, 1))})) if letters else ""


def _phonetic(text: str) -> str:
    return " ".join(sorted({sound for word in _words(text) if (sound := jellyfish.metaphone(word))}))


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)
