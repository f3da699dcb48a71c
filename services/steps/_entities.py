"""Entities: records that are linked, directly or through others; the same whether they came at once or in many batches.

Why that holds. A link depends on its two records alone. Whether a pair is compared depends on which records there are
(a block may be too large), not on their order. So the links of a set of records are a function of that set, and the
entities are their connected components. What is kept of earlier batches is a maximum spanning forest of the links:
enough to know the components, each record's best link and each entity's weakest one. A batch compares what is new with
all there is; an entity is taken apart, and its records compared again, when one of its records has changed or one of
its blocks has become too large (or has ceased to be).

An entity's id is that of its oldest member. So when entities merge, the oldest id survives; and when one splits, the
part with the oldest member keeps the id.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.steps._blocking import Blocks, Candidates, Rule, blocks_of, candidates
from services.steps._comparing import Flags, Floats, Indices, Links, Scorer, Texts, links_of

Evidence = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """The records of earlier batches, the oldest first; each but its entity's oldest has a link to a parent."""

    keys: Sequence[str]
    entities: Sequence[str]
    parents: Sequence[str | None]
    scores: Sequence[float | None]
    evidence: Sequence[Evidence | None]
    columns: Mapping[str, Texts]
    current: bool = True
    """False: their links were found by other rules, and none of them holds any more."""


@dataclass(frozen=True, slots=True)
class Matching:
    """How records are matched."""

    scorer: Scorer
    rules: Sequence[Rule]
    threshold: float
    block_max: int
    pairs_max: int
    across: str | None = None
    """A field: records that agree on it, or lack it, are never linked directly."""


@dataclass(frozen=True, slots=True)
class Best:
    """A record's best link: how good, with which record, and why."""

    score: float
    other: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Resolution:
    """All records there are now, known ones first; `rows` tells the record of each row of the batch, -1 for none."""

    keys: Sequence[str]
    rows: Indices
    latest: Mapping[int, int]
    """The record's last row in the batch, which has its values."""
    roots: Indices
    """Each record's entity, named by its oldest record."""
    sizes: Indices
    """By root: the number of records."""
    weakest: Floats
    """By root: the weakest link that the entity cannot do without; NaN for a record that is alone."""
    parents: Indices
    parent_scores: Floats
    parent_evidence: Mapping[int, Evidence]
    best: Mapping[int, Best]
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Edges:
    """Links between records. `why` names the evidence: a row of the details, or -1 - r for that of known record r."""

    one: Indices
    other: Indices
    score: Floats
    why: Indices


def resolve(known: Known, keys: Sequence[str | None], columns: Mapping[str, Texts], matching: Matching) -> Resolution:
    """Match a batch against what is known. A row with a known key is that record, with other values perhaps; of rows
    with one key the last one counts. Raises StepError `too_many_pairs`."""
    index = {key: record for record, key in enumerate(known.keys)}
    rows = np.array([-1 if key is None else index.setdefault(key, len(index)) for key in keys], np.int64)
    latest = {record: row for row, record in enumerate(rows.tolist()) if record >= 0}
    state = np.arange(len(index))
    state[list(latest)] = np.array(list(latest.values()), np.int64) + len(known.keys)
    stacked = {name: np.concatenate([known.columns[name], columns[name]]) for name in columns}
    profiles = _Profiles.of(stacked, state, len(known.keys))

    blocks = [blocks_of(rule, profiles.columns) for rule in matching.rules]
    settled = _settled(known, profiles, blocks, matching.block_max)
    same = _same_to_itself(profiles, blocks, matching)
    fresh = profiles.fresh(settled, same.left)
    wanted = candidates(matching.rules, blocks, profiles.present, fresh, matching.block_max, matching.pairs_max)
    left, right = _across(wanted, profiles, matching.across)
    links = links_of(matching.scorer, profiles.columns, left, right, matching.threshold)

    edges = _edges(known, index, profiles, settled, same, links)
    forest = _Forest(edges, len(index))
    details = np.concatenate([same.details, links.details])

    def evidence(edge: int) -> Evidence:
        why = int(edges.why[edge])
        return _evidence(matching.scorer, details[why]) if why >= 0 else known.evidence[-1 - why] or {}

    report = {
        "records": len(index),
        "records_new": len(index) - len(known.keys),
        "records_compared_again": int((~settled[: len(known.keys)]).sum()),
        "entities": int((forest.roots == np.arange(len(index))).sum()),
        "candidate_pairs": len(left),
        "links": len(links.left) + len(same.left),
        "blocks_capped": wanted.capped_count,
        "largest_capped_blocks": list(wanted.capped),
    }
    return Resolution(
        keys=list(index),
        rows=rows,
        latest=latest,
        roots=forest.roots,
        sizes=np.bincount(forest.roots, minlength=len(index)),
        weakest=forest.weakest(),
        parents=forest.parents,
        parent_scores=forest.parent_scores(),
        parent_evidence={record: evidence(edge) for record, edge in forest.parent_edges.items()},
        best=forest.best(profiles.of_record, evidence),
        report=report,
    )


@dataclass(frozen=True, slots=True)
class _Profiles:
    """Records with equal values are compared once: each distinct combination of values is a profile."""

    columns: Mapping[str, Texts]
    of_record: Indices
    before: Indices
    """The profiles that the known records had before this batch."""
    present: Flags
    was: Flags

    @classmethod
    def of(cls, stacked: Mapping[str, Texts], state: Indices, known: int) -> "_Profiles":
        codes: dict[tuple[Any, ...], int] = {}
        of_state = np.array(
            [codes.setdefault(values, len(codes)) for values in zip(*stacked.values(), strict=True)], np.int64
        )
        _, first = np.unique(of_state, return_index=True)
        present, was = np.zeros(len(codes), bool), np.zeros(len(codes), bool)
        present[of_state[state]] = True
        was[of_state[:known]] = True
        columns = {name: column[first] for name, column in stacked.items()}
        return cls(columns, of_state[state], of_state[:known], present, was)

    def fresh(self, settled: Flags, same: Indices) -> Flags:
        """Those whose links are not known yet. One more record with values that are known, and are enough to be the
        same as another with them, needs no comparison but that one."""
        has_settled, has_unsettled = np.zeros(len(self.present), bool), np.zeros(len(self.present), bool)
        has_settled[self.of_record[settled]] = True
        has_unsettled[self.of_record[~settled]] = True
        has_unsettled[same] = False
        return self.present & (~has_settled | has_unsettled)


def _settled(known: Known, profiles: _Profiles, blocks: Sequence[Blocks], block_max: int) -> Flags:
    """The records whose links to each other stand as they are: known ones of entities that nothing has touched."""
    touched = np.zeros(len(profiles.present), bool)
    for block in blocks:
        flipped = (block.sizes(profiles.was) > block_max) != (block.sizes(profiles.present) > block_max)
        touched[block.members[flipped[block.codes]]] = True
    count = len(known.keys)
    settled = np.zeros(len(profiles.of_record), bool)
    if known.current:
        after = profiles.of_record[:count]
        disturbed = (after != profiles.before) | touched[after]
        codes: dict[str, int] = {}
        entities = np.array([codes.setdefault(entity, len(codes)) for entity in known.entities], np.int64)
        apart = np.zeros(len(codes), bool)
        apart[entities[disturbed]] = True
        settled[:count] = ~apart[entities]
    return settled


def _same_to_itself(profiles: _Profiles, blocks: Sequence[Blocks], matching: Matching) -> Links:
    """The profiles of several records that reach the threshold with themselves. They need be in some block, but it
    does not matter how large that is: equal values make no pairs to compare."""
    several = np.bincount(profiles.of_record, minlength=len(profiles.present)) > 1
    blocked = np.zeros(len(several), bool)
    for block in blocks:
        blocked[block.members] = True
    which = np.flatnonzero(several & blocked) if matching.across is None else np.empty(0, np.int64)
    return links_of(matching.scorer, profiles.columns, which, which, matching.threshold)


def _across(wanted: Candidates, profiles: _Profiles, field: str | None) -> tuple[Indices, Indices]:
    if field is None:
        return wanted.left, wanted.right
    column = profiles.columns[field]
    one, other = column[wanted.left], column[wanted.right]
    kept = (one != other) & (one != None) & (other != None)  # noqa: E711 - elementwise
    return wanted.left[kept], wanted.right[kept]


def _edges(
    known: Known, index: Mapping[str, int], profiles: _Profiles, settled: Flags, same: Links, links: Links
) -> _Edges:
    """Links between records: those kept from before, those of equal records, and those found now."""
    found: list[tuple[int, int, float, int]] = []
    for record, parent in enumerate(known.parents):
        if parent is not None and settled[record]:
            found.append((record, index[parent], known.scores[record] or 0.0, -1 - record))
    order = np.argsort(profiles.of_record, kind="stable")
    starts = np.searchsorted(profiles.of_record[order], np.arange(len(profiles.present) + 1))
    records: list[int] = order.tolist()
    bounds: list[int] = starts.tolist()

    def those_of(profile: int) -> list[int]:
        return records[bounds[profile] : bounds[profile + 1]]

    alike = dict(zip(same.left.tolist(), same.score.tolist(), strict=True))
    for row, (profile, score) in enumerate(alike.items()):
        first, *others = those_of(profile)
        found.extend((first, record, score, row) for record in others if not (settled[record] and settled[first]))
    for row, (one, other, score) in enumerate(
        zip(links.left.tolist(), links.right.tolist(), links.score.tolist(), strict=True), start=len(alike)
    ):
        ones, others = those_of(one), those_of(other)
        found.append((ones[0], others[0], score, row))
        if one not in alike:
            found.extend((record, others[0], score, row) for record in ones[1:])
        if other not in alike:
            found.extend((ones[0], record, score, row) for record in others[1:])
    a, b, scores, why = zip(*found, strict=True) if found else ((), (), (), ())
    return _Edges(np.array(a, np.int64), np.array(b, np.int64), np.array(scores, float), np.array(why, np.int64))


def _evidence(scorer: Scorer, details: Floats) -> Evidence:
    """Which comparisons spoke for the link, and which against; what could not be compared is in neither."""
    pairs = [(label, round(value, 4)) for label, value in zip(scorer.labels, details.tolist(), strict=True)]
    return {
        "fired": {label: value for label, value in pairs if value > 0},
        "against": {label: value for label, value in pairs if value <= 0},
    }


class _Forest:
    """A maximum spanning forest: of the links, the best ones that hold everything together."""

    def __init__(self, edges: _Edges, records: int) -> None:
        self._edges = edges
        self.roots = np.arange(records)
        self._tree = self._grow(records)
        self.parents = np.full(records, -1, np.int64)
        self.parent_edges = self._hang()

    def _grow(self, records: int) -> list[int]:
        """Kruskal: the best link first; a link is taken when it joins what was apart. The oldest record is the root."""
        low = np.minimum(self._edges.one, self._edges.other)
        high = np.maximum(self._edges.one, self._edges.other)
        parents = list(range(records))

        def find(record: int) -> int:
            while parents[record] != record:
                parents[record] = parents[parents[record]]
                record = parents[record]
            return record

        taken = []
        ranked = np.lexsort((high, low, -self._edges.score))
        for edge, one, other in zip(ranked.tolist(), low[ranked].tolist(), high[ranked].tolist(), strict=True):
            a, b = find(one), find(other)
            if a != b:
                parents[max(a, b)] = min(a, b)
                taken.append(edge)
        self.roots = np.array([find(record) for record in range(records)], np.int64)
        return taken

    def _hang(self) -> dict[int, int]:
        """Give each record but the roots its parent: the next one on the way to the root."""
        near: dict[int, list[tuple[int, int]]] = {}
        for edge in self._tree:
            one, other = int(self._edges.one[edge]), int(self._edges.other[edge])
            near.setdefault(one, []).append((other, edge))
            near.setdefault(other, []).append((one, edge))
        by: dict[int, int] = {}
        stack = [record for record in near if self.roots[record] == record]
        while stack:
            record = stack.pop()
            for other, edge in near[record]:
                if by.get(record) != edge:
                    self.parents[other] = record
                    by[other] = edge
                    stack.append(other)
        return by

    def parent_scores(self) -> Floats:
        """The score of each record's link to its parent; NaN for a root."""
        found = np.full(len(self.roots), np.nan)
        found[list(self.parent_edges)] = self._edges.score[list(self.parent_edges.values())]
        return found

    def weakest(self) -> Floats:
        """By root: the lowest score in its tree."""
        found = np.full(len(self.roots), np.inf)
        np.minimum.at(found, self.roots[self._edges.one[self._tree]], self._edges.score[self._tree])
        found[np.isinf(found)] = np.nan
        return found

    def best(self, profiles: Indices, evidence: Callable[[int], Evidence]) -> dict[int, Best]:
        """Each record's best link. What holds for one record holds for all with the same values."""
        of_record: dict[int, int] = {}
        of_profile: dict[int, int] = {}
        for edge in self._tree:  # the best first
            for record in (int(self._edges.one[edge]), int(self._edges.other[edge])):
                of_record.setdefault(record, edge)
                of_profile.setdefault(int(profiles[record]), edge)
        found: dict[int, Best] = {}
        for record in of_record:
            profile = int(profiles[record])
            edge = of_record[record]
            if self._edges.score[edge] < self._edges.score[of_profile[profile]]:
                edge = of_profile[profile]
            one, other = int(self._edges.one[edge]), int(self._edges.other[edge])
            partner = one if other == record or (one != record and profiles[other] == profile) else other
            found[record] = Best(float(self._edges.score[edge]), partner, evidence(edge))
        return found
