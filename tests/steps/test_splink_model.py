"""Frozen Splink models: the same probabilities as Splink's own, and nothing of their SQL is ever run."""

import copy
import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pytest
from pydantic import ValidationError

from services.steps.match_entities import MatchEntitiesConfig, match_entities

MODEL: dict[str, Any] = json.loads((files("bench") / "febrl_splink_model.json").read_text())
FIELDS = ("given_name", "surname", "date_of_birth", "soc_sec_id", "address_1", "street_number", "postcode", "suburb")


def persons() -> list[dict[str, Any]]:
    """Pairs that meet most levels: equal, mistyped, shortened, missing."""
    base = ["mitchell", "green", "19560409", "1804974", "wallaby place", "7", "2119", "cleveland"]
    other = ["harley", "mccarthy", "19080419", "6089216", "pridhamstreet", "177", "3165", "marsden"]
    rows = [base, other]
    for at in range(len(base)):
        value = base[at]
        rows += [
            [*base[:at], None, *base[at + 1 :]],
            [*base[:at], value[1] + value[0] + value[2:] if len(value) > 1 else "x", *base[at + 1 :]],
            [*base[:at], value[:-2], *base[at + 1 :]],
            [*other[:at], value, *other[at + 1 :]],
        ]
    return [{**dict(zip(FIELDS, row, strict=True)), "b": 1, "n": n} for n, row in enumerate(rows)]


def config(model: dict[str, Any], threshold: float = 0.5) -> dict[str, Any]:
    return {"blocking": [[{"field": "b"}]], "model": model, "threshold": threshold}


def with_condition(sql: str, **level: Any) -> dict[str, Any]:
    """The model with another second level in its first comparison."""
    model = copy.deepcopy(MODEL)
    model["comparisons"][0]["comparison_levels"][1].update(sql_condition=sql, **level)
    return model


def test_probabilities_are_those_of_splink_itself() -> None:
    script = f"""
import json, sys
import pyarrow as pa, duckdb
from splink import DuckDBAPI, Linker
rows = [dict(row, unique_id=row["n"]) for row in json.loads(sys.stdin.read())]
settings = json.loads({json.dumps(MODEL)!r}) | {{
    "sql_dialect": "duckdb", "unique_id_column_name": "unique_id", "blocking_rules_to_generate_predictions": ["1=1"],
}}
api = DuckDBAPI(duckdb.connect())
linker = Linker(api.register(pa.Table.from_pylist(rows)), settings, log_level="ERROR")
found = linker.inference.predict().as_record_list()
print(json.dumps([[p["unique_id_l"], p["unique_id_r"], p["match_probability"]] for p in found]))
"""
    rows = persons()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], input=json.dumps(rows), capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    splinks = {(one, other): probability for one, other, probability in json.loads(done.stdout.splitlines()[-1])}
    assert len(splinks) == len(rows) * (len(rows) - 1) / 2
    for (one, other), probability in splinks.items():
        pair = [rows[one], rows[other]]
        score = match_entities.execute(pair, config(MODEL, 1e-6)).records[0]["match_score"]
        assert (score or 0.0) == pytest.approx(probability, abs=2e-6)


def test_the_evidence_is_match_weights() -> None:
    rows = persons()
    first = match_entities.execute([rows[0], rows[2]], config(MODEL)).records[0]
    assert first["match_score"] > 0.999
    evidence = first["match_evidence"]
    assert "given_name" not in evidence["fired"] | evidence["against"]
    levels = MODEL["comparisons"][-1]["comparison_levels"]
    assert evidence["fired"]["street_number"] > 0
    assert levels[1]["m_probability"] / levels[1]["u_probability"] > 1


@pytest.mark.parametrize(
    "sql",
    [
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "given_name_l = getenv('HOME')",
        "given_name_l LIKE '%a%'",
        "regexp_matches(given_name_l, '(a+)+$')",
        "l.given_name = r.given_name",
        "jaro_winkler_similarity(given_name_l, 'x') >= 0.9",
        "jaro_winkler_similarity(given_name_l, given_name_r) >= other_l",
        "levenshtein(repeat(given_name_l, 1000000), given_name_r) <= 1",
        "1 = 1; DROP TABLE x",
        "given_name_l = = given_name_r",
        "(" * 400 + "given_name_l IS NULL" + ")" * 400,
        "x" * 1001,
    ],
)
def test_what_is_not_a_known_comparison_is_refused_and_never_run(sql: str) -> None:
    with pytest.raises(ValidationError, match="given_name, level 1"):
        MatchEntitiesConfig.model_validate(config(with_condition(sql)))


@pytest.mark.parametrize(
    "sql",
    [
        "given_name_l = given_name_r AND NOT surname_l <> surname_r",
        '("given_name_l" = "surname_r" AND "surname_l" = "given_name_r") OR given_name_l = given_name_r',
        "given_name_l IS NOT NULL AND jaro_similarity(given_name_l, given_name_r) > 0.99",
        "levenshtein(given_name_l, given_name_r) < 1",
    ],
)
def test_conditions_are_read_as_sql_means_them(sql: str) -> None:
    model = with_condition(sql, m_probability=0.5, u_probability=0.25)
    rows = persons()
    same = match_entities.execute([rows[0], {**rows[0], "street_number": "8"}], config(model)).records[0]
    assert same["match_evidence"]["fired"]["given_name"] == 1.0


def test_null_is_neither_equal_nor_unequal() -> None:
    model = with_condition("NOT given_name_l = given_name_r", m_probability=0.5, u_probability=0.25)
    model["comparisons"][0]["comparison_levels"].pop(0)
    rows = persons()
    missing = match_entities.execute([rows[0], rows[2]], config(model)).records[0]
    assert missing["match_evidence"]["fired"].get("given_name") != 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comparisons": []}, "comparisons must be"),
        ({"probability_two_random_records_match": 1.0}, "probability_two_random"),
        ({"comparisons": [{}]}, "comparison 0: comparison_levels"),
        ({"comparisons": [{"comparison_levels": [{"sql_condition": "ELSE"}]}]}, "not fully trained"),
        (
            {"comparisons": [{"comparison_levels": [{"sql_condition": "ELSE", "tf_adjustment_column": "x"}]}]},
            "term frequencies",
        ),
    ],
)
def test_a_model_that_cannot_be_used_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MatchEntitiesConfig.model_validate(config({**MODEL, **change}))


def test_a_level_that_training_has_not_met_counts_as_splink_counts_it() -> None:
    model = with_condition("given_name_l = given_name_r", m_probability="level not observed in training dataset")
    rows = persons()
    found = match_entities.execute([rows[0], {**rows[0], "street_number": "8"}], config(model)).records[0]
    assert found["match_evidence"]["against"]["given_name"] < -10
