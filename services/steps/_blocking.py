"""Which records are compared at all: those that share a block; and blocks that have grown too large to be any use.

A block is judged by all the records that there are, by what they hold and not by the order in which they came. So the
pairs that are compared are the same for one large batch and for the same records in many small ones.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

import jellyfish
import numpy as np
from pydantic import Field, model_validator

from services.steps._comparing import Flags, Indices, Texts
from services.steps.base import StepConfig, StepError

WORDS_MAX: Final = 16
BLOCKS_SHOWN: Final = 20

_WORD = re.compile(r"\w+")


class BlockingKey(StepConfig):
    """A part of a blocking rule: a field, and what of it must be equal."""

    field: str
    """The field."""

    transform: Literal["exact", "prefix", "suffix", "soundex", "digits", "first_word", "last_word", "each_word"] = (
        "exact"
    )
    """What must be equal: `exact`: the text (case and spaces never count). `prefix`, `suffix`: its first or last
    `length` characters. `soundex`: how it sounds in English. `digits`: its digits, the last `length` of them where that
    is given. `first_word`, `last_word`: one word of it. `each_word`: any one word (of the first 16)."""

    length: int | None = Field(default=None, ge=1, le=64)
    """For `prefix`, `suffix` and `digits`."""

    @model_validator(mode="after")
    def _check(self) -> "BlockingKey":
        if self.transform in ("prefix", "suffix") and self.length is None:
            raise ValueError(f"{self.transform} needs length")
        if self.length is not None and self.transform not in ("prefix", "suffix", "digits"):
            raise ValueError(f"{self.transform} takes no length")
        return self


Rule = Sequence[BlockingKey]


@dataclass(frozen=True, slots=True)
class Blocks:
    """One rule's blocks: member i, an index into the columns, is in the block codes[i], which `names` names."""

    members: Indices
    codes: Indices
    names: Sequence[tuple[str, ...]]

    def sizes(self, counted: Flags) -> Indices:
        """How many members each block has, of those that are counted."""
        return np.bincount(self.codes[counted[self.members]], minlength=len(self.names))


def blocks_of(rule: Rule, columns: Mapping[str, Texts]) -> Blocks:
    """Put each record into the blocks that the rule gives it: none when a part is missing, or it has no such word."""
    keys = [_keys(key, columns[key.field]) for key in rule]
    known: dict[tuple[str, ...], int] = {}
    members: list[int] = []
    codes: list[int] = []
    for member, parts in enumerate(zip(*keys, strict=True)):
        for name in product(*parts):
            members.append(member)
            codes.append(known.setdefault(name, len(known)))
    return Blocks(np.array(members, np.int64), np.array(codes, np.int64), list(known))


def _keys(key: BlockingKey, column: Texts) -> Iterator[tuple[str, ...]]:
    """What of each record's field must be equal: nothing, one text, or any one of several."""
    made: dict[str | None, tuple[str, ...]] = {None: ()}
    transform = _TRANSFORMS[key.transform]
    for text in column:
        found = made.get(text)
        if found is None:
            found = made[text] = tuple(dict.fromkeys(part for part in transform(text, key.length) if part))
        yield found


def _soundex(text: str, _: Any) -> tuple[str, ...]:
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if "a" <= c <= "z")
    return (jellyfish.soundex(letters),) if letters else ()


def _digits(text: str, length: int | None) -> tuple[str, ...]:
    digits = "".join(c for c in text if "0" <= c <= "9")
    return (digits[-length:],) if length is not None else (digits,)


_TRANSFORMS: Final[Mapping[str, Callable[[str, Any], Sequence[str]]]] = {
    "exact": lambda text, _: (text,),
    "prefix": lambda text, length: (text[:length],),
    "suffix": lambda text, length: (text[-length:],),
    "soundex": _soundex,
    "digits": _digits,
    "first_word": lambda text, _: _WORD.findall(text)[:1],
    "last_word": lambda text, _: _WORD.findall(text)[-1:],
    "each_word": lambda text, _: _WORD.findall(text)[:WORDS_MAX],
}


@dataclass(frozen=True, slots=True)
class Candidates:
    """The pairs to compare (left < right), and the blocks that were too large to be compared."""

    left: Indices
    right: Indices
    capped: Sequence[Mapping[str, Any]]
    capped_count: int


def candidates(
    rules: Sequence[Rule], blocks: Sequence[Blocks], present: Flags, fresh: Flags, block_max: int, pairs_max: int
) -> Candidates:
    """Each pair of present records once that shares a block which is not too large, if one at least is fresh.

    Raises StepError `too_many_pairs`, with the rule that makes most of them.
    """
    count = max(len(fresh), 1)
    parts = [np.empty(0, np.int64)]
    total = 0
    for rule, block in zip(rules, blocks, strict=True):
        usable = (block.sizes(present) <= block_max)[block.codes] & present[block.members]
        left, right = _pairs_within(block, usable, fresh, pairs_max - total, rule)
        total += len(left)
        parts.append(np.minimum(left, right) * count + np.maximum(left, right))
    pairs = np.unique(np.concatenate(parts))
    return Candidates(pairs // count, pairs % count, *_capped(rules, blocks, present, block_max))


def _pairs_within(block: Blocks, usable: Flags, fresh: Flags, pairs_max: int, rule: Rule) -> tuple[Indices, Indices]:
    """Members of one block, two and two: a fresh one with all that follow it, the fresh ones standing first."""
    members, codes = block.members[usable], block.codes[usable]
    order = np.lexsort((members, ~fresh[members], codes))
    members, codes = members[order], codes[order]
    ends = np.searchsorted(codes, codes, side="right")
    following = np.where(fresh[members], ends - np.arange(len(members)) - 1, 0)
    total = int(following.sum())
    if total > pairs_max:
        raise StepError(
            f"more than max_pairs pairs would have to be compared; the blocking rule {described(rule)} alone makes "
            f"{total}: make it narrower, or lower max_block_records",
            code="too_many_pairs",
        )
    left = np.repeat(np.arange(len(members)), following)
    right = left + 1 + np.arange(total) - np.repeat(np.cumsum(following) - following, following)
    return members[left], members[right]


def _capped(
    rules: Sequence[Rule], blocks: Sequence[Blocks], present: Flags, block_max: int
) -> tuple[list[dict[str, Any]], int]:
    """The largest of the blocks that were left out, to be told; and how many there were."""
    found: list[dict[str, Any]] = []
    for rule, block in zip(rules, blocks, strict=True):
        sizes = block.sizes(present)
        found.extend(
            {"rule": described(rule), "block": list(block.names[code]), "records": int(sizes[code])}
            for code in np.flatnonzero(sizes > block_max).tolist()
        )
    found.sort(key=lambda block: (-block["records"], block["rule"], block["block"]))
    return found[:BLOCKS_SHOWN], len(found)


def described(rule: Rule) -> str:
    """The rule in words, as reports and errors name it."""
    return " and ".join(
        key.field
        if key.transform == "exact"
        else f"{key.transform}({key.field}{f', {key.length}' if key.length else ''})"
        for key in rule
    )
