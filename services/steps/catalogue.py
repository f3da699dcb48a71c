"""The steps that runs may name."""

from typing import Any

from services.steps.base import Step
from services.steps.deduplicate import deduplicate
from services.steps.extract_domain import extract_domain
from services.steps.map_fields import map_fields
from services.steps.match_entities import match_entities
from services.steps.normalize_country import normalize_country
from services.steps.normalize_text import normalize_text

STEPS: tuple[Step[Any], ...] = (
    map_fields,
    normalize_text,
    extract_domain,
    normalize_country,
    deduplicate,
    match_entities,
)
"""Every step of the catalogue, each key once."""
