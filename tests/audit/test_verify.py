"""Exports that were tampered with: each is detected, and the first wrong decision is named."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.audit.findings import Report
from events.audit.verify import verify
from tests.audit.support import (
    KEY,
    ORG,
    OTHER_ORG,
    STRANGER,
    Entry,
    as_lines,
    checkpoint,
    entry,
    history,
    line_of,
    records,
)

SIZE = 600
ENTRIES = history(SIZE)
WHOLE = records(ENTRIES)
NOTE = checkpoint(ENTRIES)
Records = list[dict[str, Any]]


def check(found: Records, note: str | None = NOTE, **given: Any) -> Report:
    return verify(as_lines(found), checkpoint=note, key=given.pop("key", KEY.verifier(ORG)), **given)


def at(index: int) -> int:
    """Where the line of an index is among the records of the whole."""
    return 1 + index + index // 256 + 1


def test_an_export_that_is_all_right() -> None:
    report = check(WHOLE)
    assert report.ok, report.finding
    assert (report.decisions, report.size, report.whole, report.org_id) == (SIZE, SIZE, True, ORG)
    assert report.signature_checked
    assert report.proved_size == SIZE
    assert report.checkpoints_compared == [SIZE]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513])
def test_of_every_length(size: int) -> None:
    entries = ENTRIES[:size]
    assert check(records(entries), checkpoint(entries)).ok
    assert check(records(entries), checkpoint(entries), previous=[checkpoint(entries, (size + 1) // 2)]).ok


def test_what_is_trusted() -> None:
    by_note = check(WHOLE, key=None)
    assert (by_note.ok, by_note.signature_checked, by_note.proved_size) == (True, False, SIZE)
    by_older = check(WHOLE, checkpoint(ENTRIES, 300), key=None)
    assert (by_older.ok, by_older.proved_size, by_older.checkpoints_compared) == (True, 300, [300])
    by_key = check(WHOLE, None)
    assert (by_key.ok, by_key.proved_size, by_key.signature_checked) == (True, SIZE, True)


def test_parts() -> None:
    assert check(records(ENTRIES, part=(250, 520), selection={"kind": "range"})).decisions == 270
    some = records(ENTRIES, [3, 4, 258, 599], selection={"kind": "company"})
    report = check(some)
    assert (report.ok, report.decisions, report.whole) == (True, 4, False)
    assert check(records(ENTRIES, [], selection={"kind": "company"})).decisions == 0


def swapped(found: Records, first: int, second: int) -> Records:
    changed = list(found)
    changed[at(first)], changed[at(second)] = found[at(second)], found[at(first)]
    return changed


def renumbered(found: Records) -> Records:
    """As a thorough forger leaves it: indexes, tiles and the count say what the file has."""
    changed, index = [], 0
    for record in found:
        if "index" in record:
            changed.append({**record, "index": index})
            index += 1
        elif "end" in record:
            changed.append({**record, "decisions": index})
        else:
            changed.append(record)
    return changed


def replaced(found: Records, index: int, one: Entry) -> Records:
    return [*found[: at(index)], line_of(index, one), *found[at(index) + 1 :]]


def without(found: Records, *indexes: int) -> Records:
    gone = {at(index) for index in indexes}
    return [record for number, record in enumerate(found) if number not in gone]


def with_one_more(found: Records, index: int, one: Entry) -> Records:
    return [*found[: at(index)], line_of(index, one), *found[at(index) :]]


NEW = entry(1000 * 3 + 1, name="Forged")
TAMPERED: list[tuple[str, Callable[[], Records], str, int | None, int | None]] = [
    ("a name", lambda: replaced(WHOLE, 300, entry(901, name="Globey")), "altered", 300, 901),
    ("a position", lambda: replaced(WHOLE, 5, entry(17, thing=16)), "altered", 5, 17),
    ("removed", lambda: without(WHOLE, 300), "removed", 300, None),
    ("the first", lambda: without(WHOLE, 0), "removed", 0, None),
    ("two removed", lambda: renumbered(without(WHOLE, 300, 301)), "removed", 300, None),
    ("last of a tile", lambda: renumbered(without(WHOLE, 255)), "removed", 255, None),
    ("removed, renumbered", lambda: renumbered(without(WHOLE, 0)), "removed", 0, None),
    ("inserted", lambda: renumbered(with_one_more(WHOLE, 300, NEW)), "inserted", 300, NEW.position),
    ("inserted at the end of a tile", lambda: with_one_more(WHOLE, 255, NEW), "inserted", 255, NEW.position),
    ("appended", lambda: renumbered([*WHOLE[:-1], line_of(600, NEW), WHOLE[-1]]), "inserted", 600, NEW.position),
    ("without a leaf", lambda: [*WHOLE[: at(300)], line_of(None, NEW), *WHOLE[at(300) :]],
     "inserted", None, NEW.position),
    ("a repeat", lambda: renumbered(with_one_more(WHOLE, 300, ENTRIES[299])), "inserted", 300, ENTRIES[299].position),
    ("reordered", lambda: swapped(WHOLE, 300, 310), "reordered", 300, ENTRIES[310].position),
    ("reordered, renumbered", lambda: renumbered(swapped(WHOLE, 7, 8)), "reordered", 7, ENTRIES[8].position),
    ("another index", lambda: [*WHOLE[: at(9)], {**WHOLE[at(9)], "index": 10}, *WHOLE[at(10) :]], "altered", 9, 28),
    ("another org", lambda: replaced(WHOLE, 20, entry(61, OTHER_ORG)), "wrong_org", 20, 61),
    ("a cut tail", lambda: renumbered(WHOLE[: at(590)] + WHOLE[-1:]), "removed", 590, None),
    ("a broken file", lambda: WHOLE[: at(590)], "truncated", 590, None),
    ("half a claim", lambda: [{**WHOLE[0], "end_index": 590}, *renumbered(WHOLE[: at(590)] + WHOLE[-1:])[1:]],
     "truncated", 590, None),
    ("a whole tile", lambda: renumbered(WHOLE[: at(256) - 1] + WHOLE[at(512) - 1 :]), "removed", 256, None),
    ("tiles moved", lambda: [*WHOLE[:1], *WHOLE[at(256) - 1 : at(512) - 1], *WHOLE[1 : at(256) - 1],
                             *WHOLE[at(512) - 1 :]], "removed", 0, None),
    ("more after the end", lambda: [*WHOLE, line_of(600, NEW)], "malformed", None, None),
    ("a wrong count", lambda: [*WHOLE[:-1], {"end": True, "decisions": 599}], "malformed", None, None),
    ("no header", lambda: WHOLE[1:], "malformed", None, None),
    ("nothing", list, "malformed", None, None),
    ("another org's header", lambda: [{**WHOLE[0], "org_id": OTHER_ORG}, *WHOLE[1:]], "wrong_org", None, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "kind", "index", "position"), [t[1:] for t in TAMPERED], ids=[t[0] for t in TAMPERED]
)
def test_tampering_is_named(build: Callable[[], Records], kind: str, index: int | None, position: int | None) -> None:
    finding = check(build()).finding
    assert finding is not None
    assert (finding.kind, finding.index, finding.position) == (kind, index, position), finding


def test_a_removed_decision_is_placed_between_its_neighbours() -> None:
    entries = history(20, step=1)
    finding = check([r for r in records(entries) if r.get("index") != 7], checkpoint(entries)).finding
    assert finding is not None
    assert (finding.index, finding.position) == (7, 8)
    assert "after position 7 and before position 9" in finding.message


def test_a_forged_tile_is_placed() -> None:
    """A forger who changes a decision and the hashes beside it cannot change what they lead to."""
    forged = list(ENTRIES)
    forged[300] = entry(901, name="Globey")
    lines = records(forged, note=NOTE)
    lines[at(256) - 1]["path"] = WHOLE[at(256) - 1]["path"]
    lines[1] = WHOLE[1]
    finding = check(lines).finding
    assert finding is not None
    assert (finding.kind, finding.index) == ("proof", 256)


def test_a_rewritten_history_is_found_by_an_earlier_checkpoint() -> None:
    forged = list(ENTRIES)
    forged[300] = entry(901, name="Globey")
    lines, earlier = records(forged), [checkpoint(ENTRIES, size) for size in (400, 100, 299)]
    assert check(lines, None).ok, "the operator signs what it likes"
    for note, previous in ((None, earlier), (earlier[0], []), (NOTE, earlier[1:]), (NOTE, [])):
        finding = check(lines, note, previous=previous).finding
        assert finding is not None
        assert finding.kind == "rewritten"
        assert finding.index == (299 if len(previous) > 1 else 0)


def test_a_part_is_compared_by_consistency_proofs() -> None:
    some = {"chosen": [3, 500], "selection": {"kind": "company"}}
    older = checkpoint(ENTRIES, 300)
    assert check(records(ENTRIES, **some, previous=(300,)), older).ok
    missing = check(records(ENTRIES, **some), older).finding
    assert missing is not None
    assert (missing.kind, "--previous-size 300" in missing.message) == ("checkpoint", True)
    forged = [entry(1, name="Globey"), *ENTRIES[1:]]
    finding = check(records(forged, **some, previous=(300,)), older).finding
    assert finding is not None
    assert finding.kind == "rewritten"
    finding = check(records(forged, **some), NOTE).finding
    assert finding is not None
    assert finding.kind == "rewritten"


def test_an_old_checkpoint_is_no_present_one() -> None:
    """Replayed, or the tail was cut off and all of it signed anew."""
    old = records(ENTRIES[:500])
    for note, previous in ((NOTE, []), (None, [NOTE])):
        finding = check(old, note, previous=previous).finding
        assert finding is not None
        assert (finding.kind, finding.index) == ("truncated", 500)
        assert "600 decisions" in finding.message


def test_signatures() -> None:
    for key in (STRANGER.verifier(ORG), STRANGER.verifier(), KEY.verifier(OTHER_ORG)):
        finding = check(WHOLE, None, key=key).finding
        assert finding is not None
        assert finding.kind == "signature"
    finding = check(WHOLE, checkpoint(ENTRIES, key=STRANGER)).finding
    assert finding is not None
    assert finding.kind == "signature"
    for note in (checkpoint(history(600, org_id=OTHER_ORG), org_id=OTHER_ORG), "x"):
        finding = check(WHOLE, note, key=None).finding
        assert finding is not None
        assert finding.kind == "checkpoint"


def run_of(versions: list[int]) -> tuple[list[Entry], Records]:
    entries = [entry(number + 1, thing=number % 2, version=1 + number // 2) for number in range(20)]
    chosen = [(version - 1) * 2 for version in versions]
    run_id = entries[0].subject.split(".")[3]
    return entries, records(entries, chosen, selection={"kind": "run", "run_id": run_id})


def test_a_runs_history_has_no_gap() -> None:
    entries, found = run_of([1, 2, 3])
    assert check(found, checkpoint(entries)).ok
    for versions in ([1, 3], [2, 3]):
        entries, found = run_of(versions)
        finding = check(found, checkpoint(entries)).finding
        assert finding is not None
        assert finding.kind == "removed"
    found = records(entries, [0, 1], selection=found[0]["selection"])
    finding = check(found, checkpoint(entries)).finding
    assert finding is not None
    assert (finding.kind, finding.index) == ("inserted", 1)


def test_some_decisions_in_the_wrong_order() -> None:
    some = records(ENTRIES, [3, 9, 12, 300], selection={"kind": "company"})
    for changed, kind in (
        ([*some[:2], some[3], some[2], *some[4:]], "inserted"),
        ([*some[:3], some[2], *some[3:]], "inserted"),
        ([*some[:2], {**some[2], "index": 4}, *some[3:]], "reordered"),
        ([*some[:2], line_of(3, NEW), *some[3:]], "altered"),
        ([*some[:5], *some[6:]], "malformed"),
        ([some[0], *some[5:7], *some[1:5], some[-1]], "reordered"),
    ):
        finding = check(changed).finding
        assert finding is not None
        assert finding.kind == kind, finding


def test_bodies_that_are_no_text() -> None:
    entries = [*history(5), Entry(100, f"events.{ORG}.run.{ORG}.1.log.x", b"\xff\x00\n\xfe")]
    with pytest.raises(UnicodeDecodeError):
        records(entries)
    full = records([*entries[:5], Entry(100, entries[5].subject, b"")], note=checkpoint(entries))
    hashes = b"".join(one.leaf for one in entries)
    full[1]["hashes"], full[1]["path"] = b64encode(hashes).decode(), []
    del full[7]["body"]
    full[7]["body64"] = b64encode(entries[5].body).decode()
    assert check(full, checkpoint(entries)).ok


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bit_can_be_changed(data: st.DataObject) -> None:
    """Whatever bit of the file; but `recorded_at` is not proved."""
    lines = as_lines(records(ENTRIES[:20]))
    number = data.draw(st.integers(0, len(lines) - 1))
    changed = bytearray(lines[number])
    place = data.draw(st.integers(0, len(changed) - 2))
    bit = 1 << data.draw(st.integers(0, 7))
    label = lines[number].find(b'"recorded_at":"')
    if label >= 0 and label <= place < label + len(b'"recorded_at":"2026-03-01T12:00:00Z",'):
        return
    changed[place] ^= bit
    report = verify([*lines[:number], bytes(changed), *lines[number + 1 :]], checkpoint=checkpoint(ENTRIES[:20]),
                    key=KEY.verifier(ORG))  # fmt: skip
    assert not report.ok, bytes(changed)
