"""match_entities: what is linked and what is not, by the smallest batches that show it, and within a kept set."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.steps.base import Context, StepError
from services.steps.frame import ColumnFrame, Frame
from services.steps.match_entities import MatchEntitiesConfig, match_entities

NAMESPACE = "org/company"
RULES: dict[str, Any] = {
    "blocking": [[{"field": "name", "transform": "prefix", "length": 1}], [{"field": "city"}]],
    "comparisons": [
        {"fields": ["name"], "method": "levenshtein", "weight": 2},
        {"fields": ["city"], "method": "exact", "weight": 1},
    ],
    "threshold": 0.8,
}
WITH_SET = {**RULES, "entity_set": "people", "record_key": ["id"]}


class EntitySet:
    """A company's set of entities: runs the step as the engine must, and keeps what it keeps."""

    def __init__(self, config: dict[str, Any], chunk_rows: int = 100) -> None:
        self.config = MatchEntitiesConfig.model_validate(config)
        self.snapshot: Frame = ColumnFrame.of_records([])
        self.moves: list[dict[str, Any]] = []
        self.report: Any = None
        self._chunk_rows = chunk_rows

    def submit(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The step's output for one more batch."""
        body: Any = match_entities.body
        whole = ColumnFrame.of_records(records)
        frames = [whole.slice(at, self._chunk_rows) for at in range(0, max(len(whole), 1), self._chunk_rows)]
        context = Context(references={"entities:people": self.snapshot}, namespace=NAMESPACE)
        parts = [body.extract(frame, self.config, context) for frame in frames]
        verdicts, self.report = body.combine(parts, self.config, context)
        kept = body.keep(parts, verdicts, self.config, context)
        self.snapshot = kept["entities:people"]
        self.moves = kept["entities:people:moves"].records()
        results = [body.apply(frame, v, self.config, context) for frame, v in zip(frames, verdicts, strict=True)]
        return [record for result in results for record in result.frame.records()]

    def clusters(self) -> set[frozenset[str]]:
        """The entities, as sets of record keys."""
        found: dict[str, set[str]] = {}
        for record in self.snapshot.records():
            found.setdefault(record["entity"], set()).add(record["key"])
        return {frozenset(keys) for keys in found.values()}

    def entity_of(self, key: str) -> str:
        return {record["key"]: record["entity"] for record in self.snapshot.records()}[key]


def matched(records: list[dict[str, Any]], **config: Any) -> list[int]:
    """The entities of a batch without a set."""
    return [r["entity_id"] for r in match_entities.execute(records, {**RULES, **config}).records]


def compared(method: str, one: Any, other: Any, **comparison: Any) -> float | None:
    """The score of two rows that meet in a block and are compared by one field."""
    config = {
        "blocking": [[{"field": "b"}]],
        "comparisons": [{"fields": ["a"], "method": method, "weight": 1, **comparison}],
        "threshold": 0.000001,
    }
    output = match_entities.execute([{"a": one, "b": 1}, {"a": other, "b": 1}], config)
    score: float | None = output.records[0]["match_score"]
    return score


def test_rows_are_linked_through_others() -> None:
    names = ["anna", "annax", "annaxy", "berta"]
    assert matched([{"name": name, "city": "Bern"} for name in names], threshold=0.86) == [0, 0, 0, 3]


def test_the_weakest_link_is_the_one_that_holds_the_entity_together() -> None:
    names = ["abcdefghij", "abcdefghij", "abcdefghix", "abcdefghyx"]
    output = match_entities.execute([{"name": name, "city": "Bern"} for name in names], RULES)
    assert [r["match_score"] for r in output.records] == [1.0, 1.0, 0.933333, 0.933333]
    assert {r["weakest_link"] for r in output.records} == {0.933333}
    assert {r["entity_size"] for r in output.records} == {4}


def test_the_evidence_says_what_fired_and_what_spoke_against() -> None:
    records = [{"name": "Anna", "city": "Bern"}, {"name": "anna", "city": "Basel"}]
    output = match_entities.execute(records, {**RULES, "threshold": 0.6})
    assert output.records[0]["match_evidence"] == {"with": 1, "fired": {"name": 1.0}, "against": {"city": 0.0}}


def test_rows_that_share_no_block_are_never_compared() -> None:
    records = [{"name": "Anna", "city": "Bern"}, {"name": "Xanna", "city": "Basel"}]
    output = match_entities.execute(records, {**RULES, "threshold": 0.01})
    assert output.report is not None
    assert output.report["candidate_pairs"] == 0
    assert [r["entity_id"] for r in output.records] == [0, 1]


def test_what_is_missing_counts_neither_way_but_too_little_is_never_enough() -> None:
    assert matched([{"name": "anna", "city": "Bern"}, {"name": "anna"}]) == [0, 0]
    assert matched([{"name": "anna", "city": "Bern"}, {"city": "Bern"}]) == [0, 1]
    assert matched([{"name": "anna", "city": "Bern"}, {"city": "Bern"}], min_compared=0.3) == [0, 0]


def test_rows_of_one_source_are_linked_only_through_another() -> None:
    records = [{"name": "anna", "city": "Bern", "source": s} for s in ("x", "x", "y", None)]
    assert matched(records, across="source") == [0, 0, 0, 3]
    assert matched(records[:2], across="source") == [0, 1]


@pytest.mark.parametrize(
    ("method", "one", "other", "score"),
    [
        ("exact", "Ä  b", "ä B", 1.0),
        ("exact", "ﬁrm", "FIRM", 1.0),
        ("exact", 7, "7", 1.0),
        ("exact", 7, 7.0, 1.0),
        ("exact", True, "True", None),
        ("jaro_winkler", "martha", "marhta", 0.961111),
        ("levenshtein", "abcd", "abce", 0.75),
        ("token_sort", "john smith", "smith john", 1.0),
        ("token_set", "acme corp", "acme", 1.0),
        ("date", "1980-02-03", "19800203", 1.0),
        ("date", "1980-02-03", "1980-02-04", 0.75),
        ("date", "1980-02-03", "1980-03-02", 0.75),
        ("date", "1980-02-03", "yesterday", None),
    ],
)
def test_similarities(method: str, one: Any, other: Any, score: float | None) -> None:
    assert compared(method, one, other) == score


def test_numbers_fall_evenly() -> None:
    assert compared("numeric", 10, "12.5", scale=10) == 0.75
    assert compared("numeric", 10, "nan", scale=10) is None


def test_a_floor_and_levels_shape_a_similarity() -> None:
    assert compared("levenshtein", "abcd", "abce", floor=0.5) == 0.5
    levels = [{"at_least": 0.7, "counts_as": 0.9}, {"at_least": 1, "counts_as": 1}]
    assert compared("levenshtein", "abcd", "abce", levels=levels) == 0.9


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ({"transform": "soundex"}, "Robert", "Rupert"),
        ({"transform": "soundex"}, "Müller", "muller"),
        ({"transform": "suffix", "length": 3}, "xyz-123", "abc-123"),
        ({"transform": "digits", "length": 7}, "+49 310 246-1501", "310/2461501"),
        ({"transform": "first_word"}, "Hotel Bel-Air", "hotel, the"),
        ({"transform": "last_word"}, "the ritz", "ritz"),
        ({"transform": "each_word"}, "arnie mortons of chicago", "morton in chicago"),
    ],
)
def test_blocks(key: dict[str, Any], one: str, other: str) -> None:
    config = {**RULES, "blocking": [[{"field": "name", **key}]], "threshold": 0.01}
    output = match_entities.execute([{"name": one, "city": "x"}, {"name": other, "city": "x"}], config)
    assert output.report is not None
    assert output.report["candidate_pairs"] == 1


def test_a_block_that_is_too_large_is_left_out_and_reported() -> None:
    records = [{"name": f"{chr(97 + n)}anna", "city": "Bern"} for n in range(4)]
    capped = match_entities.execute(records, {**RULES, "max_block_records": 3})
    assert [r["entity_id"] for r in capped.records] == [0, 1, 2, 3]
    assert capped.report is not None
    assert capped.report["largest_capped_blocks"] == [{"rule": "city", "block": ["bern"], "records": 4}]
    assert matched(records, max_block_records=4) == [0, 0, 0, 0]


def test_equal_rows_are_found_whatever_their_number() -> None:
    output = match_entities.execute([{"name": "anna", "city": "Bern"}] * 5000, {**RULES, "max_block_records": 2})
    assert {r["entity_size"] for r in output.records} == {5000}
    assert output.report is not None
    assert output.report["candidate_pairs"] == 0


def test_too_many_pairs_fail_the_step_and_name_the_rule() -> None:
    records = [{"name": f"{n}", "city": "Bern"} for n in range(50)]
    with pytest.raises(StepError, match=r"rule city alone makes 1225") as caught:
        match_entities.execute(records, {**RULES, "max_pairs": 1000})
    assert caught.value.code == "too_many_pairs"


def test_very_long_texts_are_cut() -> None:
    records = [{"name": "x" * 1_000_000 + end, "city": "Bern"} for end in "ab"]
    assert matched(records) == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comparisons": []}, "one of comparisons and model"),
        ({"entity_set": "x"}, "go together"),
        ({"score_field": "entity_id"}, "same name"),
        ({"blocking": [[{"field": "a", "transform": "prefix"}]]}, "needs length"),
        ({"blocking": [[{"field": "a", "transform": "each_word"}] * 2]}, "each_word once"),
        ({"comparisons": [{"fields": ["a"], "method": "numeric", "weight": 1}]}, "scale"),
        ({"comparisons": [{"fields": ["a"], "method": "exact", "weight": 1}] * 2}, "two comparisons"),
    ],
)
def test_a_config_that_cannot_work_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MatchEntitiesConfig.model_validate({**RULES, **change})


def test_a_set_that_is_not_at_hand_is_an_error() -> None:
    with pytest.raises(StepError) as caught:
        match_entities.execute([{"id": 1, "name": "a", "city": "b"}], WITH_SET)
    assert caught.value.code == "no_entity_set"
    assert match_entities.references(MatchEntitiesConfig.model_validate(WITH_SET)) == ("entities:people",)


def person(key: Any, name: str, city: str = "Bern") -> dict[str, Any]:
    return {"id": key, "name": name, "city": city}


def test_a_later_batch_meets_the_entities_that_there_are() -> None:
    people = EntitySet(WITH_SET)
    first = people.submit([person("1", "anna"), person("2", "berta")])
    later = people.submit([person("3", "Annaa"), person("4", "carl")])
    assert later[0]["entity_id"] == first[0]["entity_id"]
    assert later[0]["entity_size"] == 2
    assert later[0]["match_evidence"]["with"] == "1"
    assert later[1]["entity_id"] not in {first[0]["entity_id"], first[1]["entity_id"]}


def test_the_same_rows_again_change_nothing() -> None:
    people = EntitySet(WITH_SET)
    records = [person("1", "anna"), person("2", "annaa"), person("3", "carl")]
    first = people.submit(records)
    snapshot = people.snapshot.records()
    assert people.submit(records) == first
    assert people.snapshot.records() == snapshot
    assert people.moves == []
    assert people.report["candidate_pairs"] == 0


def test_when_entities_merge_the_oldest_id_survives() -> None:
    people = EntitySet({**WITH_SET, "threshold": 0.9})
    people.submit([person("1", "abcdefgh"), person("2", "abcdefxy")])
    one, two = people.entity_of("1"), people.entity_of("2")
    assert one != two
    people.submit([person("3", "abcdefgy")])
    assert {people.entity_of(key) for key in "123"} == {one}
    assert people.moves == [
        {"key": "2", "before": two, "after": one, "before_size": 1, "after_size": 3},
        {"key": "3", "before": None, "after": one, "before_size": 0, "after_size": 3},
    ]


def test_when_a_record_changes_its_entity_splits_and_the_oldest_part_keeps_the_id() -> None:
    people = EntitySet({**WITH_SET, "threshold": 0.9})
    people.submit([person("1", "abcdefgh"), person("2", "abcdefxy"), person("3", "abcdefgy")])
    one = people.entity_of("1")
    assert people.clusters() == {frozenset("123")}
    people.submit([person("3", "zoe", "Basel")])
    assert people.clusters() == {frozenset("1"), frozenset("2"), frozenset("3")}
    assert people.entity_of("1") == one
    assert [move["key"] for move in people.moves] == ["2", "3"]


def test_other_rules_match_the_whole_set_again() -> None:
    people = EntitySet(WITH_SET)
    people.submit([person("1", "anna"), person("2", "annaa")])
    people.config = MatchEntitiesConfig.model_validate({**WITH_SET, "threshold": 0.99})
    people.submit([person("3", "carl")])
    assert people.clusters() == {frozenset("1"), frozenset("2"), frozenset("3")}
    people.config = MatchEntitiesConfig.model_validate(
        {**WITH_SET, "across": "country"},
    )
    with pytest.raises(StepError, match="country") as caught:
        people.submit([{**person("4", "x"), "country": "CH"}])
    assert caught.value.code == "unknown_field"


def test_a_row_without_a_record_key_is_a_reject() -> None:
    records = [person(None, "anna"), person("1", "anna"), person(["x"], "anna"), person(" ", "anna")]
    context = Context(references={"entities:people": ColumnFrame.of_records([])}, namespace=NAMESPACE)
    config = MatchEntitiesConfig.model_validate(WITH_SET)
    (result,) = match_entities.run([ColumnFrame.of_records(records)], config, context)
    assert [(r.row, r.field, r.code, r.value) for r in result.rejects] == [
        (0, "id", "no_record_key", None),
        (2, "id", "no_record_key", ["x"]),
        (3, "id", "no_record_key", " "),
    ]
    assert result.frame.row_ids() == [1]
    assert result.frame.records()[0]["entity_size"] == 1


def test_of_rows_with_one_key_the_last_one_counts() -> None:
    people = EntitySet(WITH_SET, chunk_rows=1)
    rows = people.submit([person("1", "anna"), person("2", "carl"), person("1", "carla")])
    assert people.clusters() == {frozenset("12")}
    assert len({row["entity_id"] for row in rows}) == 1
    assert [r["value:name"] for r in people.snapshot.records()] == ["carla", "carl"]


# a small world, in which names meet often, blocks are too large at times, and records change
names = st.text(alphabet="ab", min_size=1, max_size=4)
people_strategy = st.builds(person, st.sampled_from("123456789"), names, st.sampled_from(["Bern", "Basel", None]))
histories = st.lists(st.lists(people_strategy, max_size=5), min_size=1, max_size=5)
configs = st.builds(
    lambda cap, threshold, compared, across, prefix: {
        **WITH_SET,
        "max_block_records": cap,
        "threshold": threshold,
        "min_compared": compared,
        "across": across,
        "blocking": [[{"field": "name", "transform": "prefix", "length": prefix}], [{"field": "city"}]],
    },
    st.integers(2, 5), st.sampled_from([0.6, 0.75, 0.9]), st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([None, "city"]), st.integers(1, 2),
)  # fmt: skip


def final_state(history: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each record as it was last handed in, in the order of first appearance."""
    state: dict[str, dict[str, Any]] = {}
    for batch in history:
        for record in batch:
            state[record["id"]] = record
    return list(state.values())


@settings(derandomize=True, deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(config=configs, history=histories)
def test_batches_give_what_all_at_once_gives(config: dict[str, Any], history: list[list[dict[str, Any]]]) -> None:
    """Clusters, ids, sizes and weakest links: incremental is a full rebuild."""
    step_by_step = EntitySet(config)
    for batch in history:
        step_by_step.submit(batch)
    rebuilt = EntitySet(config)
    everything = final_state(history)
    rows = rebuilt.submit(everything)
    assert step_by_step.clusters() == rebuilt.clusters()
    assert {r["key"]: r["entity"] for r in step_by_step.snapshot.records()} == {
        r["key"]: r["entity"] for r in rebuilt.snapshot.records()
    }
    again = step_by_step.submit(everything)
    assert [{**r, "match_evidence": None} for r in again] == [{**r, "match_evidence": None} for r in rows]


@settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(config=configs, history=histories, data=st.data())
def test_any_order_gives_the_same_clusters(
    config: dict[str, Any], history: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    records = final_state(history)
    shuffled = data.draw(st.permutations(records))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3)))
    one, other = EntitySet(config), EntitySet(config, chunk_rows=2)
    one.submit(records)
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        other.submit(shuffled[start:end])
    assert one.clusters() == other.clusters()


@settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(config=configs, history=histories)
def test_entities_are_the_connected_components_of_all_links(
    config: dict[str, Any], history: list[list[dict[str, Any]]]
) -> None:
    """Against the definition itself: every pair scored alone, every block counted by hand."""
    people = EntitySet(config)
    for batch in history:
        people.submit(batch)
    assert people.clusters() == by_definition(config, final_state(history))


def by_definition(config: dict[str, Any], records: list[dict[str, Any]]) -> set[frozenset[str]]:
    length, cap = config["blocking"][0][0]["length"], config["max_block_records"]
    keys = [lambda r: r["name"][:length], lambda r: r["city"]]
    blocks: dict[tuple[int, str], set[tuple[Any, ...]]] = {}
    for record in records:
        for rule, key in enumerate(keys):
            blocks.setdefault((rule, key(record)), set()).add((record["name"], record["city"]))
    group = {r["id"]: {r["id"]} for r in records}
    for one in records:
        for other in records:
            same = (one["name"], one["city"]) == (other["name"], other["city"])
            shared = [(n, k(one)) for n, k in enumerate(keys) if k(one) == k(other) is not None]
            if not any(same or len(blocks[block]) <= cap for block in shared):
                continue
            if config["across"] and (one["city"] == other["city"] or not one["city"] or not other["city"]):
                continue
            alone = {**RULES, **{k: config[k] for k in ("threshold", "min_compared")}}
            pair = [{**one, "b": 1}, {**other, "b": 1}]
            found = match_entities.execute(pair, {**alone, "blocking": [[{"field": "b"}]]}).records
            if one["id"] != other["id"] and found[0]["entity_size"] == 2:
                merged = group[one["id"]] | group[other["id"]]
                group |= dict.fromkeys(merged, merged)
    return {frozenset(members) for members in group.values()}


def test_the_bytes_are_the_same_in_every_process_and_with_any_number_of_threads() -> None:
    script = (
        "import json\n"
        "from services.steps.match_entities import match_entities as m\n"
        "rows = [{'name': f'{n * 7919 % 400:04d} jansen', 'city': f'c{n % 9}'} for n in range(600)]\n"
        "config = {'blocking': [[{'field': 'city'}]], 'threshold': 0.8, 'comparisons':\n"
        "  [{'fields': ['name'], 'method': 'jaro_winkler', 'weight': 2.1}]}\n"
        "print(json.dumps(m.execute(rows, config).records))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True, check=True, timeout=60,
        ).stdout
        for threads in ("1", "2", "4")
    }  # fmt: skip
    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == 600
