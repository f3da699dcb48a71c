"""Whether the log is still the one that somebody who appends knows."""

import pytest

from events.history import Known, rewound
from events.log import LogState

KNOWN = Known().with_state(LogState("e", 1, 7, created="first")).with_appended(9, "the ninth")
SAME = LogState("e", 1, 12, created="first")


@pytest.mark.parametrize(
    ("state", "found_id", "what"),
    [
        (LogState("e", 1, 8), "", "was cut: it had positions up to 9, and ends at 8"),
        (LogState("f", 1, 12, created="today"), "the ninth", "was made anew: it was 'e', and is 'f', made at today"),
        (SAME, "another", "written again: at position 9 the decision the ninth was recorded, and there is another now"),
        (SAME, "", "there is (none) now"),
        (LogState("e", 1, 12, faults=("max_msgs is 3",)), "the ninth", "was reconfigured: max_msgs is 3"),
    ],
)
def test_what_is_told_of_another_log(state: LogState, found_id: str, what: str) -> None:
    told = rewound(KNOWN, state, found_id)
    assert told is not None
    assert what in told
    assert "dex log restore log" in told


@pytest.mark.parametrize(
    ("known", "state", "found_id"),
    [
        (KNOWN, SAME, "the ninth"),
        (KNOWN, LogState("e", 10, 12, trimmed_to=9, created="first"), ""),  # the archive has it
        (KNOWN, LogState("e", 1, 12, created="restored"), "what the archive had"),
        (Known(), LogState("e", 0, 0), ""),
        (Known().with_appended(3, "the third").with_appended(2, "repeated"), SAME, "the third"),
    ],
)
def test_the_same_log_is_no_other_one(known: Known, state: LogState, found_id: str) -> None:
    assert rewound(known, state, found_id) is None


def test_what_was_recorded_before_a_restoration_is_forgotten() -> None:
    """It may have been recorded on the line that the archive did not have, and stand elsewhere now."""
    restored = LogState("e", 1, 12, created="restored")
    known = KNOWN.with_state(restored)
    assert (known.appended, known.last_position) == (0, 12)
    assert rewound(known, restored, "what the archive had") is None
    again = known.with_appended(13, "the thirteenth")
    assert rewound(again, LogState("e", 1, 13, created="restored"), "another") is not None
