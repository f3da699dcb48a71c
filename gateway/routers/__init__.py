"""One file a resource: its models, and its endpoints. The hottest come first, because routes are tried in order."""

from fastapi import APIRouter

from gateway.routers import (
    audit,
    blueprints,
    companies,
    entity_sets,
    events,
    orgs,
    preview,
    replay,
    results,
    runs,
    step_results,
    steps,
    submissions,
    tokens,
    users,
    verification,
)

ROUTERS: tuple[APIRouter, ...] = (
    submissions.router,
    runs.router,
    results.router,
    step_results.router,
    events.router,
    audit.router,
    replay.router,
    blueprints.router,
    preview.router,
    steps.router,
    companies.router,
    entity_sets.router,
    users.router,
    tokens.router,
    orgs.router,
    verification.router,
)
