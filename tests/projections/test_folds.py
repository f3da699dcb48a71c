"""Given decisions, then rows: the same rows however the log is cut into batches, and when every batch comes twice."""

from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from events import administration as admin
from events import processing
from events.limits import Limits
from events.mapper import CATALOGUE
from projections import runs as runs_model
from projections import step_results
from projections.catalogue import PROJECTIONS
from services.domain import run as runs
from services.domain import verification
from tests.projections.support import (
    AT,
    BLUEPRINT,
    COMPANY,
    ORG,
    PLAN,
    SUBMISSION,
    USER,
    History,
    World,
    an_id,
    done,
    fault,
    payload,
    run_folds,
)

RUN_ID, OTHER_RUN = an_id(50), an_id(51)
TOKEN, OTHER_USER = an_id(60), an_id(61)
SECRET, OTHER_SECRET, THIRD_SECRET = an_id(62), an_id(63), an_id(64)


async def rows_of(world: World, history: History) -> dict:
    """The rows of a history, after checking that no way of cutting and repeating it gives others."""
    recorded = history.recorded
    cuts = [(recorded[:at], recorded[at:]) for at in range(len(recorded) + 1)]
    ways = [[one for cut in pair for one in (cut, cut)] for pair in cuts]  # each batch twice in a row
    ways += [[*pair, *pair] for pair in cuts]  # everything again from the beginning
    ways += [[[one] for one in recorded], [recorded]]
    found = []
    for way in ways:
        tables = ", ".join(f"data_engine.{t.name}" for p in PROJECTIONS for t in p.tables)
        await world.pool.execute(f"TRUNCATE {tables}")
        for batch in way:
            assert not await run_folds(world.pool, PROJECTIONS, batch)
        found.append(await world.everything())
    assert all(rows == found[-1] for rows in found)
    return found[-1]


async def test_an_org_has_its_last_name(world):
    history = History()
    history.on(admin.ORG, ORG, admin.OrgCreated, name="Old")
    history.on(admin.ORG, ORG, admin.OrgRenamed, name="New")
    rows = await rows_of(world, history)
    assert rows["orgs_v2"] == [
        {
            "org_id": ORG, "name": "New", "members_may_work": True, "sign_in_rules": "[]", "limits": "{}",
            "created_at": history.at(1), "position": 2,
        }
    ]  # fmt: skip


async def test_companies_are_listed_under_their_org(world):
    history = History()
    history.on(admin.COMPANY, COMPANY, admin.CompanyCreated, name="A\x00B")
    rows = await rows_of(world, history)
    assert rows["companies_v1"] == [
        {"company_id": COMPANY, "org_id": ORG, "name": "A\ufffdB", "created_at": history.at(1), "position": 1}
    ]


async def test_a_user_and_its_token_stay_when_they_are_out_of_use(world):
    history = History()
    for user_id in (USER, OTHER_USER):
        history.on(
            admin.USER, user_id, admin.UserCreated,
            email="a@b.example", name=None, role="member", company_id=COMPANY, identity="sub",
        )  # fmt: skip
    history.on(admin.TOKEN, TOKEN, admin.TokenCreated, name="ci", user_id=USER, hint="dex_ab", secret_id=SECRET)
    history.on(admin.USER, USER, admin.UserDeactivated)
    history.on(admin.TOKEN, TOKEN, admin.TokenRevoked)
    rows = await rows_of(world, history)
    common = {"org_id": ORG, "company_id": COMPANY, "email": "a@b.example", "role": "member", "identity": "sub"}
    assert rows["users_v2"] == [
        {
            "user_id": USER,
            **common,
            "created_at": history.at(1),
            "deactivated_at": history.at(4),
            "position": 1,
            "last_position": 4,
        },
        {"user_id": OTHER_USER, **common, "created_at": history.at(2), "position": 2, "last_position": 2},
    ]
    assert rows["tokens_v2"] == [
        {
            "token_id": TOKEN, "org_id": ORG, "user_id": USER, "name": "ci", "hint": "dex_ab",
            "created_at": history.at(3), "revoked_at": history.at(5), "position": 3, "last_position": 5,
        }
    ]  # fmt: skip
    assert rows["token_secrets_v2"] == [{"secret_id": SECRET, "org_id": ORG, "token_id": TOKEN, "position": 3}]


async def test_an_invited_user_is_whoever_accepts(world):
    history = History()
    history.on(
        admin.USER, USER, admin.UserCreated,
        email="a@b.example", name=None, role="member", company_id=COMPANY, identity=None,
    )  # fmt: skip
    history.on(admin.USER, USER, admin.UserInvited, invitation_id=SECRET, expires_at=history.at(99))
    [invited] = (await rows_of(world, history))["users_v2"]
    assert (invited["invitation_id"], invited["invitation_expires_at"]) == (SECRET, history.at(99))
    history.on(admin.USER, USER, admin.UserIdentityLinked, identity="sub", invitation_id=SECRET)
    assert (await rows_of(world, history))["users_v2"] == [
        {
            "user_id": USER, "org_id": ORG, "company_id": COMPANY, "email": "a@b.example", "role": "member",
            "identity": "sub", "created_at": history.at(1), "position": 1, "last_position": 3,
        }
    ]  # fmt: skip


async def test_a_rotated_token_has_two_secrets_until_the_overlap_ends(world):
    history = History()
    scope = {"role": "member", "company_id": COMPANY, "expires_at": history.at(50)}
    history.on(admin.TOKEN, TOKEN, admin.TokenCreated, name="ci", user_id=USER, hint="dex_1", secret_id=SECRET, **scope)
    [made] = history.recorded
    history.recorded[0] = replace(made, decision=replace(made.decision, company_id=COMPANY))
    for number, secret in enumerate((OTHER_SECRET, THIRD_SECRET)):
        history.on(
            admin.TOKEN, TOKEN, admin.TokenRotated, hint=f"dex_{number + 2}", secret_id=secret,
            previous_valid_until=history.at(20 - number), expires_at=history.at(60),
        )  # fmt: skip
    rows = await rows_of(world, history)
    [token] = rows["tokens_v2"]
    assert (token["hint"], token["expires_at"], token["rotated_at"]) == ("dex_3", history.at(60), history.at(3))
    assert (token["role"], token["company_id"], token["last_position"]) == ("member", COMPANY, 3)
    ends = {row["secret_id"]: row.get("valid_until") for row in rows["token_secrets_v2"]}
    assert ends == {SECRET: history.at(19), OTHER_SECRET: history.at(19), THIRD_SECRET: None}


async def test_an_org_is_as_it_was_last_configured(world):
    history = History()
    history.on(admin.ORG, ORG, admin.OrgCreated, name="Old")
    rule = admin.SignInRule(
        name="staff", claim="app.org", match="equals", value="acme", role="member", company_id=COMPANY
    )
    history.on(admin.ORG, ORG, admin.OrgConfigured, members_may_work=False, sign_in_rules=())
    history.on(admin.ORG, ORG, admin.OrgRenamed, name="New")
    history.on(admin.ORG, ORG, admin.OrgConfigured, members_may_work=False, sign_in_rules=(rule,))
    history.on(admin.ORG, ORG, admin.OrgLimitsSet, limits=Limits(org_open_runs=5))
    [org] = (await rows_of(world, history))["orgs_v2"]
    assert (org["name"], org["members_may_work"], org["position"]) == ("New", False, 5)
    assert orjson.loads(org["limits"]) == {"org_open_runs": 5}
    assert orjson.loads(org["sign_in_rules"]) == [rule.model_dump()]


async def test_a_step_is_as_it_was_last_registered(world):
    history = History(org_id="platform")
    given = {"summary": "s", "config_schema": {"type": "object", "title": "\x00"}, "has_effects": False}
    for version in ("1", "2"):
        history.on(admin.STEP, "first", admin.StepRegistered, version=version, **given)
    rows = await rows_of(world, history)
    assert rows["steps_v1"] == [
        {
            "step_key": "first", "version": "2", "summary": "s", "has_effects": False, "position": 2,
            "config_schema": orjson.dumps(given["config_schema"]).decode(), "registered_at": history.at(2),
        }
    ]  # fmt: skip


async def test_a_blueprint_is_archived_and_never_changed(world):
    history = History()
    history.on(admin.BLUEPRINT, BLUEPRINT, admin.BlueprintCreated, name="b", description="d", steps=PLAN)
    history.on(admin.BLUEPRINT, BLUEPRINT, admin.BlueprintArchived)
    [row] = (await rows_of(world, history))["blueprints_v1"]
    assert [step["key"] for step in orjson.loads(row.pop("steps"))] == ["first", "second", "third"]
    assert row == {
        "blueprint_id": BLUEPRINT, "org_id": ORG, "name": "b", "description": "d", "created_at": history.at(1),
        "archived_at": history.at(2), "position": 1,
    }  # fmt: skip


@pytest.mark.parametrize("inline", [True, False])
async def test_a_submission_knows_where_its_records_are(world, inline):
    history = History()
    records = payload("in", inline=inline)
    event = processing.SubmissionCreated(
        originator_id=RUN_ID, originator_version=1, submission_id=SUBMISSION, company_id=COMPANY,
        blueprint_id=BLUEPRINT, name="n", records=records,
    )  # fmt: skip
    history.decide(processing.RUN, RUN_ID, event, user_id=USER)
    assert (await rows_of(world, history))["submissions_v1"] == [
        {
            "submission_id": SUBMISSION, "org_id": ORG, "company_id": COMPANY, "blueprint_id": BLUEPRINT, "name": "n",
            "records_digest": records.digest, "records_size_bytes": records.size_bytes, "records_rows": 1,
            "records_inline": inline, "records_format": "json", "created_by": USER, "created_at": history.at(1),
            "position": 1,
        }
    ]  # fmt: skip


async def test_a_submission_and_its_first_run_are_one_decision(world):
    history = History()
    events = runs.submit(
        RUN_ID, company_id=COMPANY, submission_id=SUBMISSION, blueprint_id=BLUEPRINT, name="n", records=payload("in"),
        plan=PLAN,
    )  # fmt: skip
    state = history.run(RUN_ID, events, user_id=USER)
    assert state.input_of(0) == payload("in")
    rows = await rows_of(world, history)
    assert [row["submission_id"] for row in rows["submissions_v1"]] == [SUBMISSION]
    assert rows["runs_v2"] == [run_row(current_step=0, current_attempt=1)]


def run_row(run_id: str = RUN_ID, position: int = 1, **changes: object) -> dict:
    return {
        "run_id": run_id, "org_id": ORG, "company_id": COMPANY, "submission_id": SUBMISSION,
        "blueprint_id": BLUEPRINT, "status": "running", "step_keys": ["first", "second", "third"],
        "created_by": USER, "started_at": History.at(position), "position": position, "last_position": position,
        "input_rows": 1,
    } | changes  # fmt: skip


def step_row(index: int, run_id: str = RUN_ID, **columns: object) -> dict:
    return {
        "run_id": run_id, "step_index": index, "org_id": ORG, "company_id": COMPANY, "submission_id": SUBMISSION,
        "step_key": PLAN[index].key, "output_format": "json", "rejects_format": "json",
    } | columns  # fmt: skip


def succeeded_row(index: int, position: int, **columns: object) -> dict:
    source, output = payload("in") if index == 0 else payload(f"out {index - 1}"), payload(f"out {index}")
    return step_row(
        index, step_version="7", status="succeeded", attempt=1, started_at=AT,
        ended_at=AT + timedelta(microseconds=1500), duration_us=1500, input_digest=source.digest, input_rows=1,
        output_digest=output.digest, output_size_bytes=output.size_bytes, output_rows=1, output_inline=True,
        output_position=position, position=position,
    ) | columns  # fmt: skip


async def test_a_run_that_has_only_started_waits_for_its_first_step(world):
    history = History()
    history.start(RUN_ID)
    rows = await rows_of(world, history)
    assert rows["runs_v2"] == [run_row(current_step=0, current_attempt=1)]
    assert rows["step_results_v1"] == []


async def test_a_run_that_succeeds_in_one_decision(world):
    history = History()
    history.record(history.start(RUN_ID), *(done(index) for index in range(3)))
    rows = await rows_of(world, history)
    assert rows["runs_v2"] == [run_row(status="succeeded", output_rows=1, ended_at=history.at(2), last_position=2)]
    assert rows["step_results_v1"] == [succeeded_row(index, 2) for index in range(3)]


async def test_a_run_that_succeeds_step_by_step_with_large_outputs_and_rejects(world):
    history = History()
    large, rejects = payload("out 0", inline=False), payload("no", inline=False)
    state = history.record(history.start(RUN_ID), done(0, output=large, rejects=rejects))
    state = history.record(state, done(1))
    history.record(state, done(2))
    rows = await rows_of(world, history)
    assert rows["runs_v2"] == [run_row(status="succeeded", output_rows=1, ended_at=history.at(4), last_position=4)]
    of_rejects = {
        "rejects_digest": rejects.digest, "rejects_size_bytes": rejects.size_bytes, "rejects_rows": 1,
        "rejects_inline": False,
    }  # fmt: skip
    assert rows["step_results_v1"] == [
        succeeded_row(0, 2, output_inline=False, **of_rejects), succeeded_row(1, 3), succeeded_row(2, 4),
    ]  # fmt: skip


async def test_a_step_that_takes_long_is_running(world):
    history = History()
    state = history.start(RUN_ID)
    history.run(RUN_ID, runs.mark_started(state, 0, 1, AT))
    rows = await rows_of(world, history)
    assert rows["runs_v2"] == [run_row(current_step=0, current_attempt=1, last_position=2)]
    assert rows["step_results_v1"] == [step_row(0, status="running", attempt=1, started_at=AT, position=2)]


def failed_row(position: int, **columns: object) -> dict:
    return step_row(
        0, step_version="7", attempt=1, started_at=AT, ended_at=AT + timedelta(microseconds=2500), duration_us=2500,
        input_digest=payload("in").digest, input_rows=1, error_code="boom", error_message="it broke",
        position=position,
    ) | columns  # fmt: skip


async def test_an_attempt_that_failed_and_will_be_repeated_is_retrying(world):
    history = History()
    history.record(history.start(RUN_ID), fault(0))
    rows = await rows_of(world, history)
    not_before = history.at(2) + timedelta(seconds=5)
    assert rows["runs_v2"] == [run_row(current_step=0, current_attempt=2, not_before=not_before, last_position=2)]
    assert rows["step_results_v1"] == [failed_row(2, status="retrying")]


async def test_a_step_that_succeeds_at_its_second_attempt_has_no_error(world):
    history = History()
    state = history.record(history.start(RUN_ID), fault(0))
    state = history.run(RUN_ID, runs.mark_started(state, 0, 2, AT))
    history.record(state, done(0, attempt=2))
    rows = await rows_of(world, history)
    assert rows["runs_v2"] == [run_row(current_step=1, current_attempt=1, last_position=4)]
    assert rows["step_results_v1"] == [succeeded_row(0, 4, attempt=2)]


async def test_a_run_that_failed_says_where_and_why_and_skips_the_rest(world):
    history = History()
    history.record(history.start(RUN_ID), fault(0, retryable=False, message="bad \x00 byte"))
    rows = await rows_of(world, history)
    error = {"error_step": 0, "error_code": "boom", "error_message": "bad \ufffd byte"}
    assert rows["runs_v2"] == [run_row(status="failed", ended_at=history.at(2), last_position=2, **error)]
    assert rows["step_results_v1"] == [
        failed_row(2, status="failed", error_message="bad \ufffd byte"),
        step_row(1, status="skipped", attempt=0, position=2),
        step_row(2, status="skipped", attempt=0, position=2),
    ]


async def test_an_attempt_that_nobody_timed_ends_with_its_decision(world):
    history = History()
    history.record(
        history.start(RUN_ID), fault(0, retryable=False, started_at=None, duration_us=None, step_version=None)
    )
    [row, *_] = (await rows_of(world, history))["step_results_v1"]
    assert row["ended_at"] == history.at(2)
    assert "started_at" not in row


async def test_a_run_that_was_cancelled_skips_what_it_waited_for(world):
    history = History()
    state = history.record(history.start(RUN_ID), done(0))
    history.run(RUN_ID, runs.cancel(state, "enough"))
    rows = await rows_of(world, history)
    assert rows["runs_v2"] == [run_row(status="cancelled", ended_at=history.at(3), last_position=3)]
    assert rows["step_results_v1"] == [
        succeeded_row(0, 2),
        step_row(1, status="skipped", attempt=0, position=3),
        step_row(2, status="skipped", attempt=0, position=3),
    ]


async def test_a_retried_run_has_the_results_of_the_first(world):
    history = History()
    state = history.record(history.start(RUN_ID), done(0))
    state = history.record(state, fault(1, retryable=False))
    history.run(OTHER_RUN, runs.start_again(state, OTHER_RUN), user_id=USER)
    rows = await rows_of(world, history)
    retried = [row for row in rows["runs_v2"] if row["run_id"] == OTHER_RUN]
    assert retried == [run_row(OTHER_RUN, 4, retry_of=RUN_ID, current_step=1, current_attempt=1)]
    [reused] = [row for row in rows["step_results_v1"] if row["run_id"] == OTHER_RUN]
    expected = succeeded_row(0, 4, run_id=OTHER_RUN, attempt=0, reused_from_run_id=RUN_ID)
    assert reused == {k: v for k, v in expected.items() if k not in ("started_at", "ended_at", "duration_us")}


async def test_a_verification_ends_as_verified_or_where_it_diverged(world):
    history = History()
    history.record(history.start(RUN_ID), *(done(index) for index in range(3)))
    verified, diverged = an_id(70), an_id(71)
    for run_id, outputs in ((verified, 3), (diverged, 1)):
        state = history.run(run_id, verification.start(RUN_ID, history.recorded[:2], run_id), user_id=USER)
        outcomes = [done(index) for index in range(outputs)]
        history.record(state, *outcomes, *([] if outputs == 3 else [done(1, output=payload("other"))]))
    rows = await rows_of(world, history)
    by_id = {row["run_id"]: row for row in rows["runs_v2"]}
    assert by_id[verified] == run_row(
        verified, 3, status="verified", output_rows=1, ended_at=history.at(4), last_position=4
    )
    message = f"The output is not what was recorded: {payload('out 1').digest} then, {payload('other').digest} now."
    assert by_id[diverged] == run_row(
        diverged, 5, status="diverged", error_step=1, error_code="diverged", error_message=message,
        ended_at=history.at(6), last_position=6,
    )  # fmt: skip
    assert rows["verifications_v1"] == [
        {"run_id": run_id, "org_id": ORG, "company_id": COMPANY, "verifies": RUN_ID, "position": position}
        for run_id, position in ((verified, 3), (diverged, 5))
    ]


async def test_many_runs_in_one_batch_do_not_touch_each_other(world):
    history = History()
    states = [history.start(an_id(100 + number)) for number in range(4)]
    history.record(states[0], done(0))
    history.record(states[2], fault(0, retryable=False))
    history.record(states[1], *(done(index) for index in range(3)))
    rows = await rows_of(world, history)
    assert [row["status"] for row in rows["runs_v2"]] == ["running", "succeeded", "failed", "running"]
    assert len(rows["step_results_v1"]) == 1 + 3 + 3


async def test_another_org_cannot_change_a_run(world):
    history = History()
    state = history.start(RUN_ID)
    await run_folds(world.pool, PROJECTIONS, history.recorded)
    intruder = History(org_id=an_id(99))
    intruder.recorded = [history.recorded[0]]
    intruder.run(RUN_ID, runs.cancel(state, None))
    runs_projection = [projection for projection in PROJECTIONS if projection.name == "runs_v2"]
    assert await run_folds(world.pool, runs_projection, intruder.recorded[1:])
    assert (await world.rows("runs_v2"))[0]["status"] == "running"


def test_every_event_of_a_run_is_read():
    """A new event must be thought of: it tells of a step, or where its run stands."""
    of_runs = {kind for kind in CATALOGUE if kind.__module__ == processing.__name__} - {processing.SubmissionCreated}
    assert of_runs == set(step_results._KNOWN) | set(runs_model._RULES) | {processing.RunStarted}
