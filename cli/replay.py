"""`dex replay`: the log again, from any position, as a table, as JSON lines or as CloudEvents."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from cli.api import Api
from cli.render import console

Form = Literal["table", "json", "cloudevents"]
FORMS: dict[str, Form] = {"table": "table", "json": "json", "cloudevents": "cloudevents"}
TEXT_MAX = 60
ID_SHOWN = 8
"""A table shows the beginning of an id; the other forms have all of it."""
NAMESPACE = "data-engine-x"


def replay(api: Api, org_id: str, filters: Mapping[str, Any], form: Form, *, follow: bool) -> int:
    """Print the decisions that the filters let through, as they come; how many. Raises ApiError."""
    shown = 0
    for decision in _decisions(api, {**filters, "follow": follow}):
        shown += 1
        if form == "json":
            print(json.dumps(decision, ensure_ascii=False), flush=True)
        elif form == "cloudevents":
            for event in cloud_events(org_id, decision):
                print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            console.print(_rows(decision, header=shown == 1))
    return shown


def cloud_events(org_id: str, decision: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A decision's events in the JSON format of CloudEvents 1.0.2; `sequence` is the position in the log, as text."""
    for index, event in enumerate(decision["events"]):
        told = {
            "specversion": "1.0",
            "id": f"{decision['decision_id']}/{index}",
            "source": f"urn:{NAMESPACE}:org:{org_id}",
            "type": f"{NAMESPACE}.{event['topic']}.v{event['class_version']}",
            "subject": f"{decision['kind']}/{decision['id']}",
            "time": decision["at"],
            "datacontenttype": "application/json",
            "sequence": str(decision["position"]),
            "correlationid": decision["correlation_id"],
            "causationid": decision["causation_id"],
            "data": event["data"],
        }
        yield {name: value for name, value in told.items() if value is not None}


def _decisions(api: Api, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rest = b""
    for part in api.download("events/stream", dict(body)):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            decision = json.loads(line)
            if "events" in decision:  # else it is a sign of life
                yield decision


def _rows(decision: Mapping[str, Any], *, header: bool) -> Table:
    table = Table(box=None, show_header=header, pad_edge=False)
    for name, width in (("position", 8), ("at", 19), ("thing", 18), ("event", 18)):
        table.add_column(name, min_width=width, no_wrap=True)
    table.add_column("what", ratio=1, overflow="ellipsis", no_wrap=True)
    for index, event in enumerate(decision["events"]):
        first = index == 0
        table.add_row(
            str(decision["position"]) if first else "",
            decision["at"][:19] if first else "",
            f"{decision['kind']} {decision['id'][:ID_SHOWN]}" if first else "",
            event["topic"],
            _facts(event["data"]),
        )
    return table


def _facts(data: Mapping[str, Any]) -> str:
    """The small facts of an event: numbers and short texts."""
    small = {name: value for name, value in data.items() if isinstance(value, str | int | float) and value != ""}
    return " ".join(f"{name}={str(value)[:TEXT_MAX]}" for name, value in small.items())
