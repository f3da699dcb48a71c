"""Proof of the history: signed checkpoints, that a decision is in it, that it only grew, and the history itself."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from events.audit import export, merkle
from events.audit.checkpoint import SignedCheckpoint
from events.errors import NotFoundError, StateConflictError
from events.ids import first_run_id
from events.keyring import keyring_of
from gateway import answers
from gateway.calls import Authenticated, Call, CallRoute
from gateway.exports.audit import Part, export_lines, gzipped
from gateway.models import ID_EXAMPLE, TIME_EXAMPLE, Id, Position, Timestamp, example, shown
from gateway.problems import invalid
from gateway.streams import MEDIA_TYPE, LineStream
from gateway.visibility import catch_up
from projections.queries import administration, audit, work
from projections.queries.audit import Tree, TreeNodes
from projections.queries.reader import Row

LIMIT_DEFAULT, LIMIT_MAX = 100, 500
RUNS_MAX = 10_000
PREVIOUS_MAX = 100
SIZE_MAX = 2**53 - 1

NOTE_EXAMPLE = (
    f"history.example/{ID_EXAMPLE}\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nposition 41\nepoch e1\n"
    f"time {TIME_EXAMPLE}\n\n— history.example/{ID_EXAMPLE} Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zh"
    "cyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
HASH_EXAMPLE = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="

Size = Annotated[int, Field(ge=0, le=SIZE_MAX, description="A number of decisions of the org.")]
Hash = Annotated[str, Field(description="SHA-256, in base64.")]
Note = Annotated[str, Field(description="The checkpoint as a signed note (C2SP tlog-checkpoint): keep it as it is.")]

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=CallRoute)


class AuditQuery(BaseModel):
    """What every question about the history takes."""

    model_config = example()

    min_position: Annotated[
        Position | None,
        Field(description="Wait, at most 10 s, until the history is proved up to this position; else 503."),
    ] = None


class GetCheckpoint(AuditQuery):
    """The latest one; or the earliest that was kept (one a minute) with this position in it."""

    model_config = example(min_position=41)

    position: Position | None = None


CHECKPOINT_EXAMPLE: dict[str, Any] = {
    "org_id": ID_EXAMPLE,
    "size": 7,
    "root": HASH_EXAMPLE,
    "position": 41,
    "epoch": "e1",
    "at": TIME_EXAMPLE,
    "checkpoint": NOTE_EXAMPLE,
}


class CheckpointAnswer(BaseModel):
    """The org's history has `size` decisions, of which the last stands at `position`; signed in `checkpoint`."""

    model_config = shown(**CHECKPOINT_EXAMPLE)

    org_id: Id
    size: Size
    root: Hash
    position: Position
    epoch: str
    at: Timestamp
    checkpoint: Note


class GetInclusion(AuditQuery):
    """Of which decisions: that at a position, or those of a run, or of a submission with its runs."""

    model_config = example(run_id=ID_EXAMPLE)

    position: Position | None = None
    run_id: Id | None = None
    submission_id: Id | None = None
    after_position: Position = 0
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT


INCLUSION_EXAMPLE: dict[str, Any] = {
    "position": 41,
    "index": 6,
    "leaf_hash": HASH_EXAMPLE,
    "path": [HASH_EXAMPLE, HASH_EXAMPLE],
}


class Inclusion(BaseModel):
    """That one decision is in the history: the path leads from its leaf hash to the root (RFC 9162, 2.1.3)."""

    model_config = shown(**INCLUSION_EXAMPLE)

    position: Position
    index: Size
    leaf_hash: Hash
    path: list[Hash]


class Inclusions(BaseModel):
    """By position. Go on with `after_position: next_after_position` until that is null."""

    model_config = shown(items=[INCLUSION_EXAMPLE], size=7, checkpoint=NOTE_EXAMPLE, next_after_position=None)

    items: list[Inclusion]
    size: Size
    checkpoint: Note
    next_after_position: Position | None


class GetConsistency(AuditQuery):
    """Of which sizes; the later one is that of the latest checkpoint, if not said."""

    model_config = example(from_size=4)

    from_size: Size
    to_size: Size | None = None


class Consistency(BaseModel):
    """That the history of the later size begins with that of the earlier one (RFC 9162, 2.1.4).

    `checkpoint` is that of the later size; null when it was not kept.
    """

    model_config = shown(from_size=4, to_size=7, path=[HASH_EXAMPLE], root=HASH_EXAMPLE, checkpoint=NOTE_EXAMPLE)

    from_size: Size
    to_size: Size
    path: list[Hash]
    root: Hash
    checkpoint: Note | None


class Export(AuditQuery):
    """What: the whole history, the positions of a part, or one run, submission or company.

    A caller of one company gets the decisions of its company. `previous_sizes` are those of earlier checkpoints: proofs
    that the history begins with them are put in. With `open_sealed` it also has what sealed decisions say, small
    records among it, to be read offline and compared with what is proved; but not what an erased company's said.
    """

    model_config = example(gzip=True)

    run_id: Id | None = None
    submission_id: Id | None = None
    company_id: Id | None = None
    from_position: Position | None = None
    to_position: Position | None = None
    previous_sizes: Annotated[list[Size], Field(max_length=PREVIOUS_MAX)] = []
    gzip: bool = False
    open_sealed: bool = False


EXPORT_TYPES: dict[str, Literal["ndjson", "gz"]] = {"application/x-ndjson": "ndjson", "application/gzip": "gz"}
EXPORT_CONTENT = {
    media_type: {"schema": {"type": "string", "format": "binary"}, "example": "…"} for media_type in EXPORT_TYPES
}


@router.post("/checkpoint", response_model=CheckpointAnswer)
async def checkpoint(body: GetCheckpoint, call: Authenticated) -> Response:
    """The org's signed checkpoint."""
    if body.position is not None and body.position > call.gateway.proved.position:
        end = (await call.gateway.log.state()).last_position
        if body.position > end:
            raise invalid("/position", f"The log has no position {body.position} yet; its last one is {end}.")
    tree = await _tree(call, max(body.min_position or 0, body.position or 0))
    if body.position is not None:
        tree = await audit.checkpoint_from(call.gateway.reader, call.scope, body.position) or tree
    found = _signed(tree).checkpoint
    return answers.json_response(
        {
            "org_id": call.org_id,
            "size": found.size,
            "root": export.texts([found.root])[0],
            "position": found.position,
            "epoch": found.epoch,
            "at": found.at,
            "checkpoint": tree.note,
        }
    )


@router.post("/inclusion", response_model=Inclusions)
async def inclusion(body: GetInclusion, call: Authenticated) -> Response:
    """That decisions are in the history which the checkpoint is of."""
    given = [value for value in (body.position, body.run_id, body.submission_id) if value is not None]
    if len(given) != 1:
        raise invalid("/position", "Give one of position, run_id and submission_id.")
    if body.position is not None:
        if body.position > call.gateway.proved.position:
            end = (await call.gateway.log.state()).last_position
            answers.found_any([end] if body.position <= end else [], "decision at position", str(body.position))
        tree = await _tree(call, max(body.position, body.min_position or 0))
        row = await audit.leaf_at(call.gateway.reader, call.scope, body.position)
        found = [answers.found(row, "decision at position", str(body.position))]
    else:
        histories, last = await _histories(call, body.run_id, body.submission_id)
        tree = await _tree(call, max(last, body.min_position or 0))
        found = await audit.leaves_of(
            call.gateway.reader, call.scope, histories, body.after_position, tree.size, body.limit + 1
        )
    note = _signed(tree).checkpoint
    leaves = found[: body.limit]
    nodes = TreeNodes(call.gateway.reader, call.scope, note.size)
    paths = await nodes.proofs([merkle.inclusion_ranges(row["leaf_index"], note.size) for row in leaves])
    items = [_inclusion(row, path) for row, path in zip(leaves, paths, strict=True)]
    following = leaves[-1]["position"] if len(found) > body.limit else None
    return answers.json_response(
        {"items": items, "size": note.size, "checkpoint": tree.note, "next_after_position": following}
    )


@router.post("/consistency", response_model=Consistency)
async def consistency(body: GetConsistency, call: Authenticated) -> Response:
    """That the history only grew between two sizes."""
    reader, tree = call.gateway.reader, await _tree(call, body.min_position or 0)
    note, size = _signed(tree), tree.size if body.to_size is None else body.to_size
    if size > note.checkpoint.size:
        raise invalid("/to_size", f"The history has {note.checkpoint.size} decisions.")
    if body.from_size > size:
        raise invalid("/from_size", f"A history of {size} decisions never had {body.from_size}.")
    nodes = TreeNodes(reader, call.scope, size)
    whole = [(0, size)] if size else []
    path, root = await nodes.proofs([merkle.consistency_ranges(body.from_size, size), whole])
    kept = tree.note if size == tree.size else await audit.checkpoint_of_size(reader, call.scope, size)
    return answers.json_response(
        {
            "from_size": body.from_size,
            "to_size": size,
            "path": export.texts(path),
            "root": export.texts(root or [merkle.EMPTY_ROOT])[0],
            "checkpoint": kept,
        }
    )


@router.post(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"description": "The file", "content": EXPORT_CONTENT}},
)
async def export_(body: Export, call: Authenticated) -> Response:
    """The history as a file that is verified offline (`dex audit verify`), written while it goes out.

    It counts as one of the org's streams.
    """
    part, tree = await _part(body, call)
    if any(size > tree.size for size in body.previous_sizes):
        raise invalid("/previous_sizes", f"The history has {tree.size} decisions.")
    if body.open_sealed:
        part = replace(part, keyring=keyring_of(call.gateway.connection))
    leave = call.gateway.streams.enter(call.org_id)
    lines = export_lines(call.gateway.reader, tree, part, body.previous_sizes, call.still_allowed)
    media_type = "application/gzip" if body.gzip else MEDIA_TYPE
    name = f"audit-{call.org_id}-{tree.size}.ndjson{'.gz' if body.gzip else ''}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return LineStream(gzipped(lines) if body.gzip else lines, leave, media_type, headers)


async def _part(body: Export, call: Call) -> tuple[Part, Tree]:
    """What is to be exported, of which tree."""
    named = {name: getattr(body, name) for name in ("run_id", "submission_id", "company_id") if getattr(body, name)}
    if len(named) > 1:
        raise invalid("/run_id", "Give one of run_id, submission_id and company_id, or none of them.")
    histories, last = None, body.min_position or 0
    if body.run_id is not None or body.submission_id is not None:
        histories, reached = await _histories(call, body.run_id, body.submission_id)
        last = max(last, reached)
    if body.company_id is not None:
        row = await administration.company(call.gateway.reader, call.scope, body.company_id)
        answers.found(row, "company", body.company_id)
    tree = await _tree(call, last)
    _signed(tree)
    bounds = {"from_position": body.from_position, "to_position": body.to_position}
    positions = {name: value for name, value in bounds.items() if value is not None}
    company_id = body.company_id or call.within
    after = max(0, (body.from_position or 0) - 1)
    until = tree.position if body.to_position is None else min(body.to_position, tree.position)
    scope = answers.narrowed(call, call.scope, company_id)
    if histories is not None:
        kind = next(iter(named)).removesuffix("_id")
        return Part({"kind": kind, **named, **positions}, scope, after, until, histories, None), tree
    if company_id is not None:
        return Part({"kind": "company", "company_id": company_id, **positions}, scope, after, until, None, None), tree
    indexes = [
        await audit.index_from(call.gateway.reader, scope, position + 1, tree.size) for position in (after, until)
    ]
    kind = "range" if positions else "all"
    return Part({"kind": kind, **positions}, scope, after, until, None, (indexes[0], max(indexes))), tree


async def _histories(call: Call, run_id: str | None, submission_id: str | None) -> tuple[list[str], int]:
    """The runs of what is named, and the last position of them. Raises NotFoundError."""
    reader, scope = call.gateway.reader, call.scope
    last = await audit.last_position_of(reader, scope, run_id, submission_id)
    if last is None:  # it may have been made a moment ago
        await catch_up(call)
        last = await audit.last_position_of(reader, scope, run_id, submission_id)
    if submission_id is None:
        answers.found_any([] if last is None else [last], "run", str(run_id))
        return [str(run_id)], int(last or 0)
    row = await work.submission(reader, scope, submission_id)
    submission = answers.found(row, "submission", submission_id)
    runs = await audit.run_ids_of(reader, scope, submission_id, RUNS_MAX)
    first = first_run_id(submission_id)
    return [first, *(run for run in runs if run != first)], max(last or 0, submission["position"])


async def _tree(call: Call, position: int) -> Tree:
    """The org's tree, when it has reached a position. Raises NotProvedYetError."""
    await call.gateway.proved.wait(position)
    return await audit.tree(call.gateway.reader, call.scope)


def _signed(tree: Tree) -> SignedCheckpoint:
    """Raises NotFoundError when the org's history is empty, and StateConflictError when nobody signs it."""
    if not tree.size:
        raise NotFoundError("There is no checkpoint: nothing of the org is in the archive yet.")
    if tree.note is None:
        raise StateConflictError(
            "The org's history is not signed: the operator has set no DATA_ENGINE_AUDIT_KEY.", code="not_signed"
        )
    return SignedCheckpoint.parse(tree.note)


def _inclusion(row: Row, path: list[bytes]) -> dict[str, Any]:
    return {
        "position": row["position"],
        "index": row["leaf_index"],
        "leaf_hash": export.texts([row["leaf_hash"]])[0],
        "path": export.texts(path),
    }
