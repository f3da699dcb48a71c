"""The steps that runs may name."""

from typing import Any

from services.ingest.step import READ_FILE
from services.steps.base import Step
from services.steps.classify_email_domain import classify_email_domain
from services.steps.deduplicate import deduplicate
from services.steps.extract_domain import extract_domain
from services.steps.map_fields import map_fields
from services.steps.match_entities import match_entities
from services.steps.normalize_company_name import normalize_company_name
from services.steps.normalize_country import normalize_country
from services.steps.normalize_email import normalize_email
from services.steps.normalize_phone import normalize_phone
from services.steps.normalize_text import normalize_text
from services.steps.parse_person_name import parse_person_name
from services.steps.parse_us_address import parse_us_address

STEPS: tuple[Step[Any], ...] = (
    READ_FILE,
    map_fields,
    normalize_text,
    extract_domain,
    normalize_country,
    normalize_email,
    classify_email_domain,
    normalize_phone,
    normalize_company_name,
    parse_person_name,
    parse_us_address,
    deduplicate,
    match_entities,
)
"""Every step of the catalogue, each key once."""
