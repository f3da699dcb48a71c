"""`dex status`: is every part there, and how far behind is each projection."""

from dataclasses import asdict, dataclass, field
from typing import Any

from cli.render import console, facts_table
from cli.system import read_state
from events import strictjson, subjects
from events.archive import Archive
from events.connection import connect
from events.errors import DataEngineError
from events.health import ask_health
from events.log import EventLog
from events.settings import Settings
from migrations.database import applied, versions
from migrations.streams import check_streams
from projections.database import create_pool
from projections.projector import ProjectionStatus, projection_status
from projections.queries.audit import PROVED_POSITION
from projections.scrubbing import not_scrubbed

HEALTH_WITHIN_S = 0.5
PROCESSES = ("gateway", "command-service", "worker", "projector", "archiver")


@dataclass(slots=True)
class Status:
    """What was found. `faults` is empty when all is well."""

    faults: list[str] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    log_position: int | None = None
    tasks_waiting: int | None = None
    """Quick ones; those of orgs with many open runs are `bulk_tasks_waiting`."""
    bulk_tasks_waiting: int | None = None
    commands_waiting: int | None = None
    dead_letters: int | None = None
    archive_position: int | None = None
    proved_position: int | None = None
    """Up to where the orgs' trees go, and so what checkpoints can say."""
    projections: list[dict[str, Any]] = field(default_factory=list)
    erased_not_scrubbed: int | None = None
    """Erased companies of which Postgres's files may still hold something."""

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        return {"healthy": not self.faults, **asdict(self)}


async def gather_status(settings: Settings) -> Status:
    """Ask every part; what does not answer is a fault, never an exception."""
    status = Status()
    for part in (_gather_nats, _gather_database):
        try:
            await part(settings, status)
        except (DataEngineError, OSError) as error:
            status.faults.append(str(error))
    return status


async def _gather_nats(settings: Settings, status: Status) -> None:
    connection = await connect(settings.nats_servers, "dex")
    try:
        status.faults += await check_streams(connection, settings.nats_replicas, settings.events_max_bytes)
        serving = read_state(settings.home).get("metrics", {})
        for alive in await ask_health(connection, HEALTH_WITHIN_S):
            status.processes.append({**asdict(alive), "metrics_url": serving.get(alive.process)})
        present = {process["process"] for process in status.processes}
        status.faults += [f"{name}: no process answers" for name in PROCESSES if name not in present]
        status.log_position = (await EventLog(connection).state()).last_position
        counts = {}
        for stream in (subjects.TASKS, subjects.BULK_TASKS, subjects.COMMANDS, subjects.DEAD_LETTERS):
            info = strictjson.loads((await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)).data)
            counts[stream] = info["state"]["messages"]
        status.tasks_waiting, status.bulk_tasks_waiting = counts[subjects.TASKS], counts[subjects.BULK_TASKS]
        status.commands_waiting = counts[subjects.COMMANDS]
        status.dead_letters = counts[subjects.DEAD_LETTERS]
        if status.dead_letters:
            status.faults.append(f"{status.dead_letters} messages in {subjects.DEAD_LETTERS}: see `dex dead-letters`")
    finally:
        await connection.close()


async def _gather_database(settings: Settings, status: Status) -> None:
    pool = await create_pool(settings)
    try:
        missing = set(versions()) - set(await applied(pool))
        status.faults += [f"migration {version} is not applied: run `dex migrate`" for version in sorted(missing)]
        if missing:
            return
        status.archive_position = (await Archive(pool).head()).position
        status.proved_position = await pool.fetchval(PROVED_POSITION)
        status.erased_not_scrubbed = await not_scrubbed(pool)
        for projection in await projection_status(pool):
            behind = None if status.log_position is None else status.log_position - projection.position
            remaining_s = _remaining_s(projection, behind)
            status.projections.append({**asdict(projection), "lag": behind, "remaining_s": remaining_s})
            if projection.building_message:
                status.faults.append(f"{projection.name} is built and cannot take over: {projection.building_message}")
            if projection.dead_letters:
                status.faults.append(f"{projection.name} could not apply {projection.dead_letters} decisions")
    finally:
        await pool.close()


def _remaining_s(projection: ProjectionStatus, behind: int | None) -> float | None:
    """How long a generation that is being built will take, at its rate so far."""
    if projection.building_since is None or behind is None or not projection.position:
        return None
    seconds = (projection.updated_at - projection.building_since).total_seconds()
    return round(behind * seconds / projection.position, 1)


def _service(projection: dict[str, Any]) -> str:
    if not projection["building"]:
        return "in service"
    left_s = projection["remaining_s"]
    return "being built" if left_s is None else f"being built, {left_s:,.0f} s left"


def show_status(status: Status) -> None:
    """The tables for people."""
    console.print(
        facts_table(
            "Processes",
            ("process", "host", "pid", "since", "metrics"),
            ([p["process"], p["host"], p["pid"], p["started_at"], p["metrics_url"]] for p in status.processes),
        )
    )
    console.print(
        facts_table(
            "Projections",
            ("projection", "", "position", "lag (positions)", "failed decisions"),
            ([p["name"], _service(p), p["position"], p["lag"], p["dead_letters"]] for p in status.projections),
        )
    )
    console.print(
        f"The log is at position {status.log_position}; {status.tasks_waiting} tasks, "
        f"{status.bulk_tasks_waiting} bulk tasks and {status.commands_waiting} deferred commands wait."
    )
    if status.archive_position is not None and status.log_position is not None:
        behind = max(0, status.log_position - status.archive_position)
        proved = f", and proved up to {status.proved_position}" if status.proved_position is not None else ""
        console.print(f"The archive is at position {status.archive_position}, {behind} behind{proved}.")
    if status.erased_not_scrubbed:
        console.print(
            f"[yellow]{status.erased_not_scrubbed} companies were erased, and their bytes may still be in Postgres's "
            "files: run `dex keys scrub`.[/]"
        )
    for fault in status.faults:
        console.print(f"[red]✗[/] {fault}")
    faults = "1 fault" if len(status.faults) == 1 else f"{len(status.faults)} faults"
    console.print("[green]All is well.[/]" if not status.faults else f"[red]{faults}.[/]")
