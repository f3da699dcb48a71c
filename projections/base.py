"""What a projection is: a name with its generation, the tables it owns, and a pure fold from decisions to SQL."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from events.model import Recorded

LIVE_SCHEMA = "data_engine"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a read model and the columns of its primary key."""

    name: str
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One bulk statement: SQL with `{schema}` in it, and one array for each of its parameters, a value a row.

    A statement returns the keys that it could not find, as rows of text; none when all went well.
    """

    sql: str
    columns: tuple[Sequence[Any], ...]

    @classmethod
    def of(cls, sql: str, rows: Iterable[Sequence[Any]]) -> "Statement | None":
        """The statement for these rows (a value a parameter), or None when there are none."""
        columns = tuple(zip(*rows, strict=True))
        return cls(sql, columns) if columns else None


@dataclass(frozen=True, slots=True)
class Projection:
    """A read model of the decisions of one kind of aggregate.

    `fold` is pure. It takes decisions of `kind` in the order of the log. Its statements, run in their order, give the
    same rows when they are run twice, however the log was cut into batches. `requires` names the read models, without
    their generation, that the statements read; they are applied before this one. `erase` is SQL that removes all of
    some companies ($1, uuid[]): run after the statements of a batch in which they were erased.
    """

    name: str
    kind: str
    tables: tuple[Table, ...]
    fold: Callable[[Sequence[Recorded]], list[Statement]]
    requires: tuple[str, ...] = ()
    erase: tuple[str, ...] = ()

    @property
    def view(self) -> str:
        """The read model's name without its generation: `runs` of `runs_v2`."""
        return self.name.rpartition("_v")[0]


def rows_of_company(table: str) -> str:
    """The SQL that removes a company's rows from a table that has its id."""
    return f"DELETE FROM {{schema}}.{table} WHERE company_id = ANY($1::uuid[])"


def statements(*made: Statement | None) -> list[Statement]:
    """Those that have rows."""
    return [statement for statement in made if statement is not None]


def storable(text: str | None) -> str | None:
    """The text as Postgres can keep it: U+0000, which it refuses, is replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd") if text is not None and "\x00" in text else text
