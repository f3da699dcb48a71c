"""How well rows are matched, on public data with known true matches.

    uv run python -m bench.matching --json

Pairwise precision, recall and F1 of the entities that come out, transitive pairs included. A threshold is tuned on one
half of the entities and scored on the other, both ways round. `weighted_without_number` repeats persons without the
social security number, by which alone most of them could be told. The frozen model was trained on the half 0 of FEBRL 3
without its labels (bench/matching_splink.py); FEBRL 4 is new to it.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.matching_data import Matched, Record, febrl3, febrl4, pairs_of, restaurants
from bench.matching_splink import frozen
from services.steps.base import NO_CONTEXT, Exchange
from services.steps.deduplicate import deduplicate
from services.steps.frame import RecordFrame
from services.steps.match_entities import match_entities

Config = Mapping[str, Any]


def prefix(field: str, length: int) -> dict[str, Any]:
    """A blocking key."""
    return {"field": field, "transform": "prefix", "length": length}


PERSONS: Config = {
    "blocking": [
        [{"field": "date_of_birth"}],
        [{"field": "surname", "transform": "soundex"}, prefix("given_name", 1)],
        [{"field": "postcode"}, prefix("given_name", 2)],
        [{"field": "postcode"}, prefix("surname", 2)],
        [{"field": "address_1"}],
        [{"field": "given_name"}, {"field": "suburb"}],
        [{"field": "surname"}, {"field": "suburb"}],
    ],
    "comparisons": [
        {"fields": ["given_name", "surname"], "method": "token_sort", "weight": 3, "floor": 0.5},
        {"fields": ["date_of_birth"], "method": "date", "weight": 2},
        {"fields": ["address_1"], "method": "token_sort", "weight": 2, "floor": 0.5},
        {"fields": ["street_number"], "method": "levenshtein", "weight": 0.5},
        {"fields": ["suburb", "address_2"], "method": "token_set", "weight": 1, "floor": 0.4},
        {"fields": ["postcode"], "method": "levenshtein", "weight": 1, "floor": 0.4},
    ],
}
PERSONS_WITH_NUMBER: Config = {
    "blocking": [*PERSONS["blocking"], [{"field": "soc_sec_id"}]],
    "comparisons": [
        *PERSONS["comparisons"],
        {"fields": ["soc_sec_id"], "method": "levenshtein", "weight": 3, "floor": 0.5},
    ],
}
EATING_OUT: Config = {
    "across": "source",
    "blocking": [
        [{"field": "phone", "transform": "digits"}],
        [{"field": "name", "transform": "each_word"}],
        [{"field": "addr", "transform": "first_word"}],
    ],
    "comparisons": [
        {"fields": ["name"], "method": "token_set", "weight": 3, "floor": 0.5},
        {"fields": ["phone"], "method": "levenshtein", "weight": 3, "floor": 0.5},
        {"fields": ["addr"], "method": "token_set", "weight": 2, "floor": 0.5},
        {"fields": ["city"], "method": "levenshtein", "weight": 0.5},
    ],
}
PERSON_KEYS: Sequence[Sequence[str]] = [
    ["soc_sec_id", "date_of_birth"],
    ["soc_sec_id", "given_name"],
    ["soc_sec_id", "surname"],
    ["given_name", "surname", "date_of_birth"],
    ["surname", "date_of_birth", "postcode"],
    ["given_name", "date_of_birth", "postcode"],
    ["given_name", "surname", "address_1"],
    ["address_1", "street_number", "date_of_birth"],
]
SCORES = [round(0.3 + 0.04 * at, 2) for at in range(16)]
PROBABILITIES = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]


def measured(found: Mapping[str, Any], data: Matched) -> dict[str, float]:
    """Pairwise precision, recall and F1 of an assignment of records to entities."""
    pairs, true = pairs_of(found), data.true_pairs()
    hits = len(pairs & true)
    precision, recall = hits / max(len(pairs), 1), hits / len(true)
    return {"precision": precision, "recall": recall, "f1": 2 * hits / (len(pairs) + len(true))}


def matched(data: Matched, config: Config) -> tuple[dict[str, float], float, Mapping[str, Any]]:
    """The figures of one run of match_entities, its wall time, its report."""
    started = time.perf_counter()
    output = match_entities.execute(data.records, config)
    elapsed_s = time.perf_counter() - started
    found = {record["rec_id"]: record["entity_id"] for record in output.records}
    return measured(found, data), elapsed_s, output.report or {}


def held_out(data: Matched, config: Config, thresholds: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Tune on one half, score on the other; then the other way round."""
    for tuned in (0, 1):
        f1 = {at: matched(data.half(tuned), {**config, "threshold": at})[0]["f1"] for at in thresholds}
        best = [at for at, value in f1.items() if value == max(f1.values())]
        threshold = best[len(best) // 2]  # the middle of the plateau
        scored = data.half(1 - tuned)
        figures, elapsed_s, report = matched(scored, {**config, "threshold": threshold})
        yield {
            "tuned_on": tuned,
            "threshold": threshold,
            **{name: round(value, 4) for name, value in figures.items()},
            "rows": len(scored.records),
            "candidate_pairs": report["candidate_pairs"],
            "elapsed_s": round(elapsed_s, 3),
        }


def composite_keys(data: Matched) -> dict[str, Any]:
    """`deduplicate` by several keys; its groups are told from the keys that it takes of each row."""
    config = {"keys": [list(names) for names in PERSON_KEYS], "count_field": "copies"}
    started = time.perf_counter()
    output = deduplicate.execute(data.records, config)
    elapsed_s = time.perf_counter() - started
    groups = _groups(data.records, config)
    if len(set(groups)) != len(output.records):
        raise RuntimeError(f"{len(set(groups))} groups by their keys, but {len(output.records)} rows stayed")
    found = {record["rec_id"]: group for record, group in zip(data.records, groups, strict=True)}
    figures = {name: round(value, 4) for name, value in measured(found, data).items()}
    return {**figures, "rows": len(data.records), "kept": len(output.records), "elapsed_s": round(elapsed_s, 3)}


def _groups(records: Sequence[Record], config: Config) -> list[int]:
    """Each row's group: the connected components of equal keys, found by spreading the lowest number."""
    assert isinstance(deduplicate.body, Exchange)
    model = deduplicate.config_model.model_validate(config)
    keys = deduplicate.body.extract(RecordFrame(records), model, NO_CONTEXT)
    groups = np.arange(len(records))
    while True:
        before = groups.copy()
        for column in keys.columns:
            members: dict[bytes, list[int]] = {}
            for row, key in enumerate(column.to_pylist()):
                if key is not None:
                    members.setdefault(key, []).append(row)
            for rows in members.values():
                groups[rows] = groups[rows].min()
        if (groups == before).all():
            return groups.tolist()


def figures() -> dict[str, Any]:
    """Everything that is measured."""
    persons = (febrl3(), febrl4())
    splink = {"blocking": PERSONS_WITH_NUMBER["blocking"], "model": frozen()}
    return {
        "deduplicate": {data.name: composite_keys(data) for data in persons},
        "weighted": {
            **{data.name: list(held_out(data, PERSONS_WITH_NUMBER, SCORES)) for data in persons},
            "restaurants": list(held_out(restaurants(), EATING_OUT, SCORES)),
        },
        "weighted_without_number": {data.name: list(held_out(data, PERSONS, SCORES)) for data in persons},
        "splink_frozen": {data.name: list(held_out(data, splink, PROBABILITIES)) for data in persons},
    }


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    found = figures()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for method, by_data in found.items():
        for name, runs in by_data.items():
            for run in runs if isinstance(runs, list) else [runs]:
                print(f"{method:23} {name:12} P {run['precision']:.4f}  R {run['recall']:.4f}  F1 {run['f1']:.4f}")


if __name__ == "__main__":
    main()
