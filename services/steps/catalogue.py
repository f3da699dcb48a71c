"""The steps that runs may name."""

from typing import Any

from services.ingest.step import READ_FILE
from services.steps.aggregate import aggregate
from services.steps.assert_quality import assert_quality
from services.steps.base import Step
from services.steps.cast_types import cast_types
from services.steps.classify_email_domain import classify_email_domain
from services.steps.cluster_values import cluster_values
from services.steps.deduplicate import deduplicate
from services.steps.derive import derive
from services.steps.diff_snapshot import diff_snapshot
from services.steps.extract_domain import extract_domain
from services.steps.filter import filter as filter_
from services.steps.flatten import flatten
from services.steps.lookup_join import lookup_join
from services.steps.map_fields import map_fields
from services.steps.map_values import map_values
from services.steps.mask_fields import mask_fields
from services.steps.match_entities import match_entities
from services.steps.merge_records import merge_records
from services.steps.normalize_company_name import normalize_company_name
from services.steps.normalize_country import normalize_country
from services.steps.normalize_email import normalize_email
from services.steps.normalize_phone import normalize_phone
from services.steps.normalize_text import normalize_text
from services.steps.parse_person_name import parse_person_name
from services.steps.parse_us_address import parse_us_address
from services.steps.sort_limit import sort_limit
from services.steps.validate import validate
from services.steps.validate_identifier import validate_identifier

STEPS: tuple[Step[Any], ...] = (
    READ_FILE,
    map_fields,
    flatten,
    cast_types,
    normalize_text,
    extract_domain,
    normalize_country,
    normalize_email,
    classify_email_domain,
    normalize_phone,
    normalize_company_name,
    parse_person_name,
    parse_us_address,
    map_values,
    lookup_join,
    validate,
    validate_identifier,
    derive,
    filter_,
    mask_fields,
    deduplicate,
    cluster_values,
    match_entities,
    merge_records,
    sort_limit,
    aggregate,
    assert_quality,
    diff_snapshot,
)
"""Every step of the catalogue, each key once."""
