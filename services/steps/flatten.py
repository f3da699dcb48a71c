"""flatten: nested objects and lists to fields, and rows."""

from collections.abc import Iterator
from typing import Any, Final, Self

from pydantic import ConfigDict, Field, model_validator

from services.steps._jmespath import VERSION, compiled, evaluate, fields_read
from services.steps._rowwise import Fault, RowFault, RowwiseConfig, failed, require_fields
from services.steps._size import size_of
from services.steps.base import Context, Example, Record, Reject, Result, StepError, frame_step
from services.steps.frame import Frame

ID_FACTOR: Final = 65_536
ROW_ID_MAX: Final = (2**63 - 1) // ID_FACTOR - 1
ROW_SIZE_MAX: Final = 64 * 1024 * 1024
CHUNK_SIZE_MAX: Final = 512 * 1024 * 1024
CHUNK_ROWS_MAX: Final = 1_000_000
FIELDS_MAX: Final = 1_000
CHUNK_FIELDS_MAX: Final = 5_000


class FlattenConfig(RowwiseConfig):
    """What is taken out of nested values. It is done in this order: `select`, `explode`, then `max_depth`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"select": {"contacts": "contacts[].{name: name, mail: emails[0]}"}, "explode": "contacts"},
                {"max_depth": 2, "separator": "_", "fields": ["address", "owner"]},
            ]
        }
    )

    select: dict[str, str] = Field(default={}, max_length=100)
    """Output field to JMESPath expression (https://jmespath.org), such as `emails[?primary].value | [0]`. All of them
    see the row as it came in; what there is not gives null. A field of that name is replaced. At most 1,000
    characters each, and none whose result could hold its input more than 64 times over."""

    explode: str | None = None
    """A field that holds a list: the row becomes one row for each element, with the element in place of the list. Every
    row of the output then has a new row number, number × 65,536 + place of the element from 0, which is unique and
    tells where the row is from; rows that were not exploded too. Rejects keep the number that they had."""

    keep_empty: bool = True
    """Whether a row goes on whose list is empty, null or missing, with null in its place; it is left out if not, and
    is no reject."""

    max_elements: int = Field(default=1_000, ge=1, le=ID_FACTOR)
    """A list with more elements is the fault `too_many_elements`."""

    source_row_field: str | None = None
    """With `explode`: where to write the row number before, so that the rows can be brought together again; null writes
    none."""

    max_depth: int = Field(default=8, ge=0, le=32)
    """How many levels of objects become fields of the row: {"a": {"b": 1}} becomes "a.b" with 1. Lists, and what is
    nested deeper, stay as they are; so does an empty object. 0 leaves objects alone."""

    separator: str = Field(default=".", min_length=1, max_length=10)
    """What stands between the names of nested fields."""

    fields: list[str] | None = Field(default=None, min_length=1, max_length=1000)
    """The fields whose objects become fields; null: all."""

    @model_validator(mode="after")
    def _expressions_are_valid(self) -> Self:
        for name, expression in self.select.items():
            try:
                compiled(expression)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        if self.source_row_field is not None and self.explode is None:
            raise ValueError("source_row_field goes with explode")
        return self


@frame_step(
    "flatten",
    version=f"1+{VERSION}",
    summary="Take values out of nested objects and lists: to fields, or to a row for each element.",
    config=FlattenConfig,
    isolated=True,  # a small batch may become a large one
    examples=[
        Example(
            "A company with its contacts: one row for each contact, addresses to fields",
            {
                "select": {"city": "address.city"},
                "explode": "contacts",
                "fields": ["contacts"],
                "on_error": "reject",
            },
            [
                {
                    "name": "Acme",
                    "address": {"city": "Bonn"},
                    "contacts": [{"name": "Ann", "mail": {"work": "ann@acme.com"}}, {"name": "Bo"}],
                },
                {"name": "Hooli", "address": None, "contacts": []},
                {"name": "Globex", "address": {}, "contacts": "n/a"},
            ],
            [
                {
                    "name": "Acme",
                    "address": {"city": "Bonn"},
                    "contacts.name": "Ann",
                    "contacts.mail.work": "ann@acme.com",
                    "city": "Bonn",
                },
                {"name": "Acme", "address": {"city": "Bonn"}, "contacts.name": "Bo", "city": "Bonn"},
                {"name": "Hooli", "address": None, "contacts": None, "city": None},
            ],
            [Reject(2, "contacts", "not_list", "n/a")],
        )
    ],
)
def flatten(frame: Frame, config: FlattenConfig, _: Context) -> Result:
    """Work out the selections, then explode, then turn objects into fields; new fields stand where their object stood.

    Under `on_error: null`, a selection at fault is null, and so is a list that cannot be exploded (one row goes on).
    Faults: `expression_error` (a function was given the wrong type), `not_json` (a number that is not finite or beyond
    64 bits), `too_deep`, `too_large` (a selection of more than 4,000,000 characters; rows from one row of more than 64
    MiB together), `not_list`, `too_many_elements`, `name_conflict` (two values for one field: a field that there is
    stays; of two nested ones that of the field that sorts first), `too_many_fields` (more than 1,000 from one row; its
    objects stay). Raises StepError `unknown_field`; `batch_too_large` when the rows made of one chunk are more than
    1,000,000 or about 512 MiB, or have more than 5,000 fields; `row_numbers_exhausted` when rows were exploded three
    times over; and with a fault's code under `on_error: fail`.
    """
    _check_fields(frame, config)
    made: list[Record] = []
    made_ids: list[int] = []
    rejects: list[Reject] = []
    size, names = 0, set[str]()
    for row, record in zip(frame.row_ids(), frame.records(), strict=True):
        rows, size_chars, fault = _flattened(record, row, config)
        if fault is not None and config.on_error == "fail":
            raise failed(row, fault)
        if fault is not None and config.on_error == "reject":
            rejects.append(Reject(row, *fault))
            continue
        size += size_chars
        made += rows
        made_ids += [row] if config.explode is None else [row * ID_FACTOR + at for at in range(len(rows))]
        names.update(*rows)
        if size > CHUNK_SIZE_MAX or len(made) > CHUNK_ROWS_MAX or len(names) > CHUNK_FIELDS_MAX:
            raise _too_large(len(made), size, len(names))
    return Result(frame.of(made, made_ids), rejects)


def _too_large(rows: int, size: int, names: int) -> StepError:
    return StepError(
        f"part of the batch would become {rows} rows, {size} characters, {names} fields or more; lower max_elements or "
        "max_depth, name fields, or leave out fields before",
        code="batch_too_large",
    )


def _check_fields(frame: Frame, config: FlattenConfig) -> None:
    names = [name for expression in config.select.values() for name in fields_read(expression)]
    others = [*(config.fields or ()), *([] if config.explode is None else [config.explode])]
    require_fields(frame, [*names, *(name for name in others if name not in config.select)])


def _flattened(record: Record, row: int, config: FlattenConfig) -> tuple[list[Record], int, RowFault | None]:
    """The rows that a row becomes, about how many characters they have (0 where they are no more than the row had), and
    the first fault."""
    faults: list[RowFault] = []
    selected = dict(record)
    for name, expression in config.select.items():
        found = evaluate(expression, record)
        if isinstance(found, Fault):
            faults.append(RowFault(name, found.code, record.get(name)))
            found = None
        selected[name] = found
    rows, size = [selected], 0
    if config.explode is not None:
        rows, size = _exploded(selected, row, config.explode, config, faults)
    if config.max_depth:
        rows = [_fields(one, config, faults) for one in rows]
    return rows, size, faults[0] if faults else None


def _exploded(
    record: Record, row: int, name: str, config: FlattenConfig, faults: list[RowFault]
) -> tuple[list[Record], int]:
    if row > ROW_ID_MAX:
        raise StepError("the rows were exploded so often that row numbers run out", code="row_numbers_exhausted")
    source = {} if config.source_row_field is None else {config.source_row_field: row}
    elements = record.get(name)
    rest_size = 0
    code = None
    if isinstance(elements, list):
        rest = {field: value for field, value in record.items() if field != name} if len(elements) > 1 else {}
        rest_size = _size(rest) * len(elements)
        if len(elements) > config.max_elements:
            code = "too_many_elements"
        elif rest_size > ROW_SIZE_MAX:
            code = "too_large"
    elif elements is not None:
        code = "not_list"
    if code is not None:
        faults.append(RowFault(name, code, elements))
        return [{**record, name: None, **source}], 0
    if not elements:
        return [{**record, name: None, **source}] if config.keep_empty else [], 0
    return [{**record, name: element, **source} for element in elements], rest_size


def _size(record: Record) -> int:
    found = size_of(record, ROW_SIZE_MAX)
    return ROW_SIZE_MAX + 1 if isinstance(found, Fault) else found


def _fields(record: Record, config: FlattenConfig, faults: list[RowFault]) -> Record:
    """The record with its objects' fields as its own."""
    nested = [
        name
        for name, value in record.items()
        if isinstance(value, dict) and value and (config.fields is None or name in config.fields)
    ]
    if not nested:
        return record
    parts: dict[str, dict[str, Any]] = {}
    taken = set(record) - set(nested)
    # in the order of names, which does not depend on how the batch is held
    for name in sorted(nested):
        parts[name] = {}
        for path, value in _leaves(name, record[name], config.max_depth, config.separator):
            if path in taken:
                faults.append(RowFault(name, "name_conflict", record[name]))
            else:
                taken.add(path)
                parts[name][path] = value
            if len(taken) > FIELDS_MAX + len(record):
                faults.append(RowFault(name, "too_many_fields", record[name]))
                return record
    return {path: inner for name, value in record.items() for path, inner in parts.get(name, {name: value}).items()}


def _leaves(path: str, value: Any, depth: int, separator: str) -> Iterator[tuple[str, Any]]:
    if depth and isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{path}{separator}{name}", inner, depth - 1, separator)
    else:
        yield path, value
