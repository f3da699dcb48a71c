"""The OpenAPI document: what FastAPI says, with the headers, problems and examples that every endpoint shares."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from gateway.auth import ORG_HEADER
from gateway.calls import IDEMPOTENCY_HEADER
from gateway.models import CURSOR_EXAMPLE, ID_EXAMPLE, LIMIT_EXAMPLE, DeferredAnswer, Page, Problem
from gateway.permissions import ENDPOINTS
from gateway.problems import MEDIA_TYPE

DESCRIPTION = """
Operator teams hand in raw company data (a *submission*); a *blueprint*, an ordered list of *steps*, says how it is
processed; a *run* executes it; *step results* say what became of every step. Every fact is in an immutable log.

- Every endpoint is a `POST` with a JSON object, but `GET /health`, which platforms ask with GET.
- Send `Authorization: Bearer …` with an API token (`dex_…`) or a JWT session.
- An answer to a command has a `position`; give it as `min_position` to a query to read what you wrote.
- `Idempotency-Key` makes a command safe to repeat, for ever; the same key with another body is an error (409).
- 202 means: no service answers now, the command is on disk and will be done; repeat the call for its answer.
- There are limits of requests, bytes, rows and open runs: 429 says which one (`code`, `limit`) and when to come again
  (`Retry-After`, and `retry_after_s`); nothing was done, and the same call may be repeated.
- Errors are problem details (RFC 9457) with a stable `code`.
"""

_IDEMPOTENCY = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": False,
    "description": "1 to 255 visible ASCII characters, unique to what you want done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
    "example": "order-17",
}
_ORG = {
    "name": ORG_HEADER,
    "in": "header",
    "required": False,
    "description": "For a session whose identity has users in several orgs: which one.",
    "schema": {"type": "string", "format": "uuid"},
    "example": ID_EXAMPLE,
}
_REQUEST_ID_HEADER = {"X-Request-Id": {"schema": {"type": "string"}, "description": "Yours, or one that we made."}}
_RETRY_AFTER_HEADER = {
    "Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds after which it will be taken."}
}


def install(app: FastAPI) -> None:
    """Make `app.openapi` answer with our document, built once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to replace it


def build(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for model in (Problem, DeferredAnswer):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API token (dex_…) or a JWT session."}
    }
    for ours in _models(BaseModel):
        if ours.__module__.startswith("gateway.") and ours.__name__ in schemas:
            schemas[ours.__name__] |= ours.model_config.get("json_schema_extra") or {}  # FastAPI drops their nulls
    for path, rule in ENDPOINTS.items():
        operation = document["paths"][path]["post"]
        operation["security"] = [{"bearer": []}]
        operation["description"] += f"\n\nRoles: {', '.join(sorted(rule.roles))}."
        headers = [_IDEMPOTENCY, _ORG] if rule.command else [_ORG]
        operation["parameters"] = [*operation.get("parameters", ()), *headers]
        _complete_responses(operation, deferrable=rule.command and path != "/v1/tokens/create", schemas=schemas)
    return document


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _complete_responses(operation: dict[str, Any], *, deferrable: bool, schemas: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        content = response["content"].get("application/json")
        if content is not None:  # a file's example stands with its endpoint
            content["example"] = _example(content["schema"], schemas)
        response["headers"] = _REQUEST_ID_HEADER
    if deferrable:
        responses["202"] = _json("Deferred", "application/json", DeferredAnswer)
    responses["429"] = _json("More than a limit allows; nothing was done", MEDIA_TYPE, Problem)
    responses["429"]["headers"] = _REQUEST_ID_HEADER | _RETRY_AFTER_HEADER
    responses["429"]["content"][MEDIA_TYPE]["example"] = LIMIT_EXAMPLE
    responses["default"] = _json("A problem", MEDIA_TYPE, Problem)


def _json(description: str, media_type: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    extra = model.model_config.get("json_schema_extra")
    assert isinstance(extra, dict)
    examples = extra["examples"]
    assert isinstance(examples, list)
    return {
        "description": description,
        "headers": _REQUEST_ID_HEADER,
        "content": {media_type: {"schema": schema, "example": examples[0]}},
    }


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """The example of an answer's model; that of a page is made of its item's."""
    named = schemas[schema["$ref"].rpartition("/")[2]]
    if "examples" in named:
        return named["examples"][0]
    assert named["title"].startswith(Page.__name__), f"{named['title']} has no example"
    return {"items": [_example(named["properties"]["items"]["items"], schemas)], "next_cursor": CURSOR_EXAMPLE}
