"""cluster_values: which spellings are one, which of them is chosen, and what is not compared."""

import pytest

from services.steps.base import one_result
from services.steps.cluster_values import cluster_values
from services.steps.frame import ColumnFrame


def clustered(values, **config):
    output = cluster_values.execute([{"f": value} for value in values], {"field": "f", **config})
    return [row["f"] for row in output.records], output.report


@pytest.mark.parametrize(
    ("method", "values", "chosen"),
    [
        ("fingerprint", ["Münster", "munster", "MUNSTER!", "munster"], ["munster"] * 4),
        ("fingerprint", ["Acme, Inc.", "inc acme", "Acme Ink"], ["Acme, Inc.", "Acme, Inc.", "Acme Ink"]),
        ("ngram", ["Krzysztof", "Krzy sztof", "Kryszstof"], ["Krzysztof", "Krzysztof", "Kryszstof"]),
        ("phonetic", ["Smith", "Smyth", "Schmidt"], ["Smith", "Smith", "Schmidt"]),
        ("levenshtein", ["Berlin", "Berlim", "Bermim", "Bonn"], ["Berlin", "Berlin", "Berlin", "Bonn"]),
        ("fingerprint", ["", " ", "!!", "??", None, 7, ["x"]], ["", " ", "!!", "??", None, 7, ["x"]]),
    ],
)
def test_what_belongs_together(method, values, chosen):
    assert clustered(values, method=method)[0] == chosen


def test_the_most_frequent_is_chosen_and_among_equals_the_first():
    assert clustered(["b a", "a b", "A B", "A B"])[0] == ["A B"] * 4
    assert clustered(["b a", "a b"])[0] == ["b a"] * 2


def test_the_report_tells_of_clusters_and_of_what_was_not_compared():
    _, report = clustered(["a b", "b a", "c"])
    assert (report["values"], report["clusters"]) == (3, 1)
    assert report["largest"] == [{"value": "a b", "spellings": ["a b", "b a"], "rows": 2}]
    many = [f"same{number:05d}" for number in range(1_001)]
    values, report = clustered(many, method="levenshtein")
    assert values == many
    assert report["capped"] == [{"begins_with": "sam", "values": 1_001}]


def test_chunks_of_any_size_choose_the_same():
    frame = ColumnFrame.of_records([{"f": value} for value in ["b a", "a b", "A B", "c", "A B", "C"] * 5])
    config = cluster_values.config_model.model_validate({"field": "f"})
    found = []
    for size in (1, 4, 30):
        chunks = [frame.slice(start, size) for start in range(0, 30, size)]
        found.append(one_result(cluster_values.run(chunks, config), frame).frame.records())
    assert found[0] == found[1] == found[2]
