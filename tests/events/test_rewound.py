"""Whether the log is still the one that somebody who appends knows."""

import pytest

from events.history import Known, rewound
from events.log import LogState

KNOWN = Known().with_state(LogState("e", 1, 7)).with_appended(9, "the ninth")
SAME = LogState("e", 1, 12)


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
        (KNOWN, LogState("e", 10, 12, trimmed_to=9), ""),  # the archive has it
        (Known(), LogState("e", 0, 0), ""),
        (Known().with_appended(3, "the third").with_appended(2, "repeated"), SAME, "the third"),
    ],
)
def test_the_same_log_is_no_other_one(known: Known, state: LogState, found_id: str) -> None:
    assert rewound(known, state, found_id) is None
