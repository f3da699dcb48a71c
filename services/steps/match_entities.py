"""match_entities: which rows are the same thing, within the batch and across submissions, and why."""

import json
import uuid
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from typing import Annotated, Any, Final
from unicodedata import unidata_version

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, JsonValue, model_validator

from services.steps._blocking import BlockingKey
from services.steps._comparing import Comparison, Scorer, Weighted, comparable, texts
from services.steps._entities import Known, Matching, Resolution, resolve
from services.steps._entity_set import VALUE, next_set, read_set
from services.steps._rowwise import require_fields
from services.steps._splink_model import SplinkModel
from services.steps.base import Context, Example, Exchange, Reject, Result, Step, StepConfig, StepError
from services.steps.frame import Frame, distinct_rows, mapped

KEY_CHARS_MAX: Final = 512
SET_PREFIX: Final = "entities:"
_IDS = uuid.UUID("0f1c5b1e-6f0e-5d0b-8a55-3d7f6a2f9a10")  # never changed: entity ids derive from it
VERSION: Final = (
    f"1+rapidfuzz{version('rapidfuzz')}+jellyfish{version('jellyfish')}+sqlglot{version('sqlglot')}"
    f"+unicode{unidata_version}"
)


class MatchEntitiesConfig(StepConfig):
    """Which rows are compared, how, and from what score on they are the same."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "blocking": [[{"field": "name", "transform": "soundex"}], [{"field": "website"}]],
                    "comparisons": [
                        {"fields": ["name"], "method": "jaro_winkler", "weight": 3, "floor": 0.6},
                        {"fields": ["city"], "method": "levenshtein", "weight": 1},
                        {"fields": ["website"], "method": "exact", "weight": 2},
                    ],
                    "threshold": 0.75,
                }
            ],
        }
    )

    blocking: list[Annotated[list[BlockingKey], Field(min_length=1, max_length=8)]] = Field(min_length=1, max_length=16)
    """Rules of which rows are compared at all: those that agree on every part of any one rule. A row that lacks a part
    is in no block of that rule."""

    comparisons: list[Comparison] = Field(default=[], max_length=32)
    """What is compared, and how much each counts. The score of a pair is the share of the weight that agrees, of what
    both rows have: 1 is equal in everything."""

    model: dict[str, JsonValue] | None = None
    """Instead of comparisons: a trained Splink model, as `linker.misc.save_model_to_json()` gives it. The score is then
    the probability that the two are the same. Its blocking rules are not used. Its conditions may use AND, OR, NOT,
    IS NULL, = and <> of columns, jaro_winkler_similarity, jaro_similarity, levenshtein and damerau_levenshtein."""

    threshold: float = Field(gt=0, le=1)
    """Two rows with this score or more are linked; linked rows, directly or through others, are one entity."""

    min_compared: float = Field(default=0.5, ge=0, le=1)
    """Two rows that lack too much are never linked: at least this share of the weight must be there to compare. For
    comparisons only; a model has its own weights for what is missing."""

    across: str | None = None
    """A field that tells where a row is from. Rows of one source are then never linked directly."""

    max_block_records: int = Field(default=1000, ge=2, le=100_000)
    """A block with more distinct records than this is left out (and reported): a rule that says so little is no use.
    The pairs may still meet by another rule. Records with equal values are one here, and found in a block of any size.
    With a set, all its records count: a block that grows too large is left out from then on, which may split
    entities that nothing else holds together."""

    max_pairs: int = Field(default=10_000_000, ge=1, le=50_000_000)
    """The step fails with `too_many_pairs` when more would have to be compared."""

    entity_set: str | None = Field(default=None, pattern=r"^[a-z0-9_-]{1,64}$")
    """The name of a set of entities that the company keeps: rows are then matched against all earlier submissions
    with this set too, and get entity ids that stay. Null: within the batch only."""

    record_key: list[str] = Field(default=[], max_length=8)
    """With `entity_set`: the fields that identify a record in the source, such as its CRM id. A row whose key is known
    is that record, with new values. A row without a key is a reject (`no_record_key`)."""

    entity_field: str = "entity_id"
    """Where to write the entity: its id in the set; or without a set, the number of its first row."""

    size_field: str | None = "entity_size"
    """Where to write how many records the entity has, those of earlier submissions included."""

    score_field: str | None = "match_score"
    """Where to write the score of the row's best link; null for a row that has none."""

    weakest_field: str | None = "weakest_link"
    """Where to write the lowest score that the row's entity depends on: without that link it would be two."""

    evidence_field: str | None = "match_evidence"
    """Where to write why: with which record (`with`: row number or record key) the best link is, which comparisons
    fired and which spoke against it, with their similarities, or a model's match weights."""

    @model_validator(mode="after")
    def _check(self) -> "MatchEntitiesConfig":
        if bool(self.comparisons) == (self.model is not None):
            raise ValueError("one of comparisons and model is needed, not both")
        if bool(self.record_key) != (self.entity_set is not None):
            raise ValueError("entity_set and record_key go together")
        if any(sum(key.transform == "each_word" for key in rule) > 1 for rule in self.blocking):
            raise ValueError("a blocking rule can have each_word once")
        labels = [comparison.label for comparison in self.comparisons]
        if len(set(labels)) < len(labels):
            raise ValueError("two comparisons have the same name")
        outputs = [name for name in _outputs(self).values() if name is not None]
        if len(set(outputs)) < len(outputs):
            raise ValueError("two outputs have the same name")
        _scorer(self)
        return self


def _scorer(config: MatchEntitiesConfig) -> Scorer:
    """What scores pairs. Raises ModelError, a ValueError."""
    if config.model is None:
        return Weighted(config.comparisons, config.min_compared)
    return SplinkModel(config.model)


def _outputs(config: MatchEntitiesConfig) -> dict[str, str | None]:
    """A verdict's column → the field that it is written to."""
    return {
        "entity": config.entity_field,
        "size": config.size_field,
        "score": config.score_field,
        "weakest": config.weakest_field,
        "evidence": config.evidence_field,
    }


def _compared(config: MatchEntitiesConfig) -> list[str]:
    """The fields whose values decide."""
    blocked = (key.field for rule in config.blocking for key in rule)
    across = () if config.across is None else (config.across,)
    return list(dict.fromkeys((*_scorer(config).fields, *blocked, *across)))


def _extract(frame: Frame, config: MatchEntitiesConfig, _: Context) -> pa.Table:
    """Each row's compared values, as texts; its record key, null where it has none; its id."""
    names = _compared(config)
    require_fields(frame, [*names, *config.record_key])
    columns = {"row": pa.array(frame.row_ids(), pa.int64())}
    if config.entity_set is None:
        columns["key"] = columns["row"].cast(pa.string())
    else:
        keys = mapped(distinct_rows(frame, config.record_key), _record_key)
        columns["key"] = pa.array(keys.values, pa.string()).take(pa.array(keys.codes, pa.int64()))
    for name in names:
        coded = mapped(frame.coded(name), comparable)
        columns[VALUE + name] = pa.array(coded.values, pa.string()).take(pa.array(coded.codes, pa.int64()))
    return pa.table(columns)


def _record_key(values: Sequence[Any]) -> str | None:
    """A record's key: the one text itself, several as a JSON list. None when a part is missing or is no text."""
    parts = [
        str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else "" for value in values
    ]
    key = parts[0] if len(parts) == 1 else json.dumps(parts, ensure_ascii=False)
    usable = all(parts) and len(key) <= KEY_CHARS_MAX
    return key.encode("utf-8", "backslashreplace").decode() if usable else None


def _combine(
    parts: Sequence[pa.Table], config: MatchEntitiesConfig, context: Context
) -> tuple[list[pa.Table], Mapping[str, Any]]:
    """A verdict on each chunk's rows. With a set, the first has more rows: the known records of which something
    changed, for `_keep`."""
    if not parts:
        return [], {}
    whole = pa.concat_tables(parts)
    matching = Matching(
        scorer=_scorer(config),
        rules=config.blocking,
        threshold=config.threshold,
        block_max=config.max_block_records,
        pairs_max=config.max_pairs,
        across=config.across,
    )
    known = _known(config, context)
    columns = {name: texts(whole[VALUE + name].to_pylist()) for name in _compared(config)}
    found = resolve(known, whole["key"].to_pylist(), columns, matching)
    verdict = _verdict(config, context, found, found.rows, whole["row"].to_pylist())
    starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    chunks = [verdict.slice(start, len(part)) for start, part in zip(starts[:-1], parts, strict=True)]
    if known.keys:
        others = np.setdiff1d(np.arange(len(known.keys)), found.rows)
        more = _verdict(config, context, found, others, [])
        chunks[0] = pa.concat_tables([chunks[0], more.filter(pa.array(_differs(more, known, others), pa.bool_()))])
    return chunks, {"rows": len(whole), **found.report}


def _verdict(
    config: MatchEntitiesConfig, context: Context, found: Resolution, records: np.ndarray[Any, Any], ids: Sequence[int]
) -> pa.Table:
    """What is to be told of these records, one a row; -1: a row without a key, of which there is nothing to tell."""
    best = [found.best.get(record) for record in records.tolist()]
    roots = [int(found.roots[record]) if record >= 0 else None for record in records.tolist()]
    kept = config.entity_set is not None
    entity = {root: _entity_id(config, context, found.keys[root]) for root in set(roots) if kept and root is not None}
    weakest = [None if root is None or np.isnan(found.weakest[root]) else float(found.weakest[root]) for root in roots]
    shown: Sequence[Any] = found.keys if kept else ids
    columns = {
        "entity": [None if root is None else entity[root] if kept else ids[root] for root in roots],
        "size": [None if root is None else int(found.sizes[root]) for root in roots],
        "score": [None if link is None else link.score for link in best],
        "weakest": weakest,
        "evidence": [
            None if link is None else json.dumps({"with": shown[link.other], **link.evidence}) for link in best
        ],
    }
    types = [pa.string() if kept else pa.int64(), pa.int64(), pa.float64(), pa.float64(), pa.string()]
    made = {name: pa.array(column, kind) for (name, column), kind in zip(columns.items(), types, strict=True)}
    if kept:
        made |= _links(found, records)
    return pa.table(made)


def _links(found: Resolution, records: np.ndarray[Any, Any]) -> dict[str, pa.Array]:
    """What is kept of the records for later batches, beside their entity."""
    parents = [int(found.parents[record]) if record >= 0 else -1 for record in records.tolist()]
    evidence = [found.parent_evidence.get(record) for record in records.tolist()]
    scores = [
        float(found.parent_scores[record]) if at >= 0 else None for record, at in zip(records, parents, strict=True)
    ]
    return {
        "key": pa.array([found.keys[record] if record >= 0 else None for record in records.tolist()], pa.string()),
        "parent": pa.array([found.keys[at] if at >= 0 else None for at in parents], pa.string()),
        "parent_score": pa.array(scores, pa.float64()),
        "parent_evidence": pa.array([None if e is None else json.dumps(e) for e in evidence], pa.string()),
    }


def _differs(verdict: pa.Table, known: Known, records: np.ndarray[Any, Any]) -> list[bool]:
    """Whether what is kept of a known record is another than before."""
    if not known.current:
        return [True] * len(records)
    now = zip(*(verdict[name].to_pylist() for name in ("entity", "parent", "parent_score")), strict=True)
    before = ((known.entities[at], known.parents[at], known.scores[at]) for at in records.tolist())
    return [one != other for one, other in zip(now, before, strict=True)]


def _entity_id(config: MatchEntitiesConfig, context: Context, key: str) -> str:
    """The id of the entity whose oldest record has this key (UUID version 5, RFC 9562)."""
    return str(uuid.uuid5(_IDS, "\x1f".join((context.namespace, config.entity_set or "", key))))


def _known(config: MatchEntitiesConfig, context: Context) -> Known:
    """The set's records of earlier batches."""
    names = _compared(config)
    if config.entity_set is None:
        return Known([], [], [], [], [], {name: texts([]) for name in names})
    frame = context.references.get(SET_PREFIX + config.entity_set)
    if frame is None or not context.namespace:
        raise StepError(
            f"the entity set {config.entity_set!r} was not handed to the step: it cannot be used here",
            code="no_entity_set",
        )
    return read_set(frame, names, _rules_digest(config))


def _rules_digest(config: MatchEntitiesConfig) -> str:
    """Names the rules by which links were found; links of other rules are found again."""
    fields = {"blocking", "comparisons", "model", "threshold", "min_compared", "across", "max_block_records"}
    rules = {"version": VERSION, **config.model_dump(mode="json", include=fields)}
    return sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def _apply(frame: Frame, verdict: pa.Table, config: MatchEntitiesConfig, _: Context) -> Result:
    mine = verdict.slice(0, len(frame))
    columns = {
        name: [json.loads(text) if text is not None else None for text in mine[column].to_pylist()]
        if column == "evidence"
        else mine[column].to_pylist()
        for column, name in _outputs(config).items()
        if name is not None
    }
    made = frame.replace(columns)
    faulty = np.flatnonzero(mine["entity"].is_null().to_numpy()).tolist()
    if not faulty:
        return Result(made)
    ids, raw = frame.row_ids(), frame.values(config.record_key[0])
    rejects = [Reject(ids[row], config.record_key[0], "no_record_key", raw[row]) for row in faulty]
    return Result(made.take(np.flatnonzero(mine["entity"].is_valid().to_numpy()).tolist()), rejects)


def _keep(
    parts: Sequence[pa.Table], verdicts: Sequence[pa.Table], config: MatchEntitiesConfig, context: Context
) -> Mapping[str, Frame]:
    """The set with this batch in it, and the records whose entity is another than before."""
    if config.entity_set is None:
        return {}
    reference = SET_PREFIX + config.entity_set
    now, moves = next_set(_known(config, context), parts, verdicts, _rules_digest(config))
    return {reference: now, f"{reference}:moves": moves}


_ALONE: Final = {"match_score": None, "weakest_link": None, "match_evidence": None}

match_entities = Step(
    "match_entities",
    version=VERSION,
    summary="Find the rows that are the same thing, here and in earlier submissions, and say why.",
    config_model=MatchEntitiesConfig,
    body=Exchange(_extract, _combine, _apply, _keep),
    references=lambda config: () if config.entity_set is None else (SET_PREFIX + config.entity_set,),
    isolated=True,  # pairs are many more than rows
    holds="The compared fields of every row and of every record of the set; 8 bytes a candidate pair, some times over.",
    examples=[
        Example(
            "The same company under two spellings; a namesake elsewhere stays apart",
            {
                "blocking": [[{"field": "name", "transform": "soundex"}]],
                "comparisons": [
                    {"fields": ["name"], "method": "jaro_winkler", "weight": 3, "floor": 0.6},
                    {"fields": ["city"], "method": "levenshtein", "weight": 2},
                ],
                "threshold": 0.8,
            },
            [
                {"name": "Jansen Logistics", "city": "Rotterdam"},
                {"name": "JANSSEN LOGISTICS", "city": "Roterdam"},
                {"name": "Jansen Logistics", "city": "Utrecht"},
                {"name": ["Jansen"], "city": "Rotterdam"},
            ],
            [
                {
                    "name": "Jansen Logistics",
                    "city": "Rotterdam",
                    "entity_id": 0,
                    "entity_size": 2,
                    "match_score": 0.825408,
                    "weakest_link": 0.825408,
                    "match_evidence": {"with": 1, "fired": {"name": 0.7831, "city": 0.8889}, "against": {}},
                },
                {
                    "name": "JANSSEN LOGISTICS",
                    "city": "Roterdam",
                    "entity_id": 0,
                    "entity_size": 2,
                    "match_score": 0.825408,
                    "weakest_link": 0.825408,
                    "match_evidence": {"with": 0, "fired": {"name": 0.7831, "city": 0.8889}, "against": {}},
                },
                {"name": "Jansen Logistics", "city": "Utrecht", "entity_id": 2, "entity_size": 1, **_ALONE},
                {"name": ["Jansen"], "city": "Rotterdam", "entity_id": 3, "entity_size": 1, **_ALONE},
            ],
        )
    ],
)
"""Rows that are linked, directly or through others, get one entity. All rows go on, in input order; with an entity set,
rows without a record key are rejects (`no_record_key`).

Texts are compared without case, width and runs of spaces, and up to 512 characters of them; numbers as their decimal
text; booleans, lists and objects count as missing. Raises StepError `unknown_field`, `too_many_pairs`, and
`no_entity_set` where the set is not at hand.
"""
