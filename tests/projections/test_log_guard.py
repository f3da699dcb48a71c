"""Whether a log is the one that was followed: every way in which it can differ has its sentence."""

import pytest

from events.errors import LogRewoundError
from events.log import LogState
from projections.checkpoints import Checkpoint
from projections.log_guard import LogGuard, decision_id_of, fault_of
from tests.projections.support import make_log_anew, whole_run


@pytest.mark.parametrize(
    ("state", "found_id", "checkpoint", "fault"),
    [
        (LogState("e", 1, 9), "d", Checkpoint("p", 9, "e", "d"), None),
        (LogState("e", 1, 9), "d", Checkpoint("p", 5, "e", "d"), None),
        (LogState("e", 0, 0), "", Checkpoint("p"), None),
        (LogState("e", 1, 9), "", Checkpoint("p"), None),
        (LogState("e", 6, 9), "", Checkpoint("p", 5, "e", "d"), None),
        (LogState("f", 1, 9), "d", Checkpoint("p", 5, "e", "d"), "made anew"),
        (LogState("f", 1, 9), "", Checkpoint("p"), None),
        (LogState("e", 1, 9), "", Checkpoint("p", 10, "e", "d"), "cut"),
        (LogState("e", 1, 0), "", Checkpoint("p", 1, "e", "d"), "cut"),
        (LogState("e", 7, 9), "", Checkpoint("p", 5, "e", "d"), "lost its beginning"),
        (LogState("e", 2, 9), "", Checkpoint("p"), "lost its beginning"),
        (LogState("e", 1, 9), "x", Checkpoint("p", 5, "e", "d"), "rewound"),
        (LogState("e", 1, 9), "", Checkpoint("p", 5, "e", "d"), "rewound"),
    ],
)
def test_what_differs_is_named(state, found_id, checkpoint, fault):
    found = fault_of(state, found_id, checkpoint)
    assert found is None if fault is None else fault in found


def test_every_message_has_an_id():
    assert decision_id_of(b'{"id":"d"}') == "d"
    for body in (b"", b"\xff", b"[]", b"{}", b"null", b'"id"'):
        assert decision_id_of(body).startswith("sha256:")


async def test_the_real_log_is_verified(world):
    position = await world.append(whole_run(1))
    guard = LogGuard(world.nats)
    state = await guard.state()
    good = Checkpoint("p", position, state.epoch, await guard.decision_id_at(position))
    assert await guard.verify([good, Checkpoint("q")]) == state
    assert await guard.decision_id_at(position + 1) == ""
    await make_log_anew(world.nats)
    with pytest.raises(LogRewoundError, match=r"made anew.*dex rebuild --accept-log"):
        await guard.verify([good])
