"""What clients send by mistake or in malice: a clear 4xx, or given back unchanged; and the next one goes through."""

import pytest

REFUSED = {
    "not JSON": (b"{", 422),
    "NaN": (b'{"records":[{"a":NaN}]}', 422),
    "an integer beyond 64 bits": (b'{"records":[{"a":99999999999999999999}]}', 422),
    "a lone surrogate": (b'{"records":[{"a":"\\ud800"}]}', 422),
    "too deep": (b'{"records":[{"a":' + b"[" * 500 + b"]" * 500 + b"}]}", 422),
    "an empty batch": (b'{"records":[]}', 422),
    "records that are no objects": (b'{"records":[1,2]}', 422),
    "an unknown field": (b'{"records":[{}],"org_id":"x"}', 422),
    "a wrong type": (b'{"records":"all of them"}', 422),
    "a body too large": (b'{"records":[{"a":"' + b"x" * 5_000_000 + b'"}]}', 413),
}

ODD = [
    {"nul": "a\u0000b", "emoji": "👩‍👩‍👧", "rtl": "\u202eabc", "": None, "big": 18446744073709551615, "tiny": 5e-324},
    {f"key {number}": number for number in range(10_000)},
    {"nested": [[[{"deep": [1, 2.5, True, None, "x"]}]]]},
]


def with_ids(org, blueprint: str, body: bytes) -> bytes:
    ids = f'"company_id":"{org.company_id}","blueprint_id":"{blueprint}",'.encode()
    return body.replace(b"{", b"{" + ids, 1) if body.startswith(b'{"') else body


@pytest.mark.parametrize(("body", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_bad_bodies_are_refused_and_the_next_submission_goes_through(org, body, status):
    blueprint = await org.blueprint("test_count")
    response = await org.http.post(
        "submissions/create", content=with_ids(org, blueprint, body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    assert (await org.call("submissions/list"))["items"] == []
    made = await org.submit(blueprint, wait_s=30)
    assert made["run"]["status"] == "succeeded"


async def test_odd_values_come_back_unchanged(org):
    identity = {"key": "map_fields", "config": {}}
    made = await org.submit(await org.blueprint(identity), ODD, wait_s=30)
    assert made["run"]["status"] == "succeeded"
    assert (await org.call("results/get", {"run_id": made["run_id"], "kind": "input"}))["records"] == ODD
    assert (await org.call("results/get", {"run_id": made["run_id"]}))["records"] == ODD


@pytest.mark.parametrize("name", ["a\u0000b", "", "x" * 10_000, "new\nline"])
async def test_names_that_no_table_could_show_are_refused(org, name):
    assert (await org.post("companies/create", {"name": name})).status_code == 422
    listed = await org.call("companies/list", {"min_position": org.position})
    assert len(listed["items"]) == 1


@pytest.mark.parametrize("token", ["a.b", "*", ">", "a b", "..", "'; DROP TABLE runs_v2; --", "\u0000"])
async def test_ids_that_would_mean_something_to_a_subject_or_to_sql_are_refused(org, token):
    for endpoint, field in (("runs/get", "run_id"), ("submissions/get", "submission_id"), ("events/list", "run_id")):
        assert (await org.post(endpoint, {field: token})).status_code in (404, 422)
