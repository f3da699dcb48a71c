"""mask_fields: personal data made unreadable, or replaced by pseudonyms that only this org can make again."""

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Literal

import orjson
from pydantic import ConfigDict, Field

from services.steps._rowwise import Rowwise, require_fields
from services.steps.base import Context, Example, Result, StepConfig, StepError, frame_step
from services.steps.frame import Frame

PSEUDONYM_CHARACTERS = 32


class MaskFieldsConfig(StepConfig):
    """Which fields, and what is left of their values."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"fields": ["email"], "method": "pseudonym"},
                {"fields": ["phone"], "method": "partial", "keep_last": 3},
            ]
        }
    )

    fields: list[str] = Field(min_length=1, max_length=1000)
    """The fields to mask, in place. Null stays null."""

    method: Literal["pseudonym", "redact", "partial", "remove"]
    """`pseudonym` writes 32 hexadecimal digits that are the same for the same value within the org, in every run, and
    that nobody can make without its key (HMAC-SHA-256, RFC 2104); `redact` writes `replacement`; `partial` leaves the
    last `keep_last` characters and writes `*` for the others; `remove` writes null."""

    keep_last: int = Field(default=4, ge=0, le=100)
    """For `partial`: characters that stay. A text that is not longer is masked altogether."""

    replacement: str = "***"
    """For `redact`: what is written instead."""


@frame_step(
    "mask_fields",
    version="1",
    summary="Replace personal data by pseudonyms of the org's own, or make it unreadable.",
    config=MaskFieldsConfig,
    uses_tenant_key=True,
    reads=lambda config: config.fields,
    examples=[
        Example(
            "Telephone numbers of which three digits are left",
            {"fields": ["phone"], "method": "partial", "keep_last": 3},
            [{"name": "Ada", "phone": "+49 228 555 017"}, {"name": "Max", "phone": None}],
            [{"name": "Ada", "phone": "************017"}, {"name": "Max", "phone": None}],
        )
    ],
)
def mask_fields(frame: Frame, config: MaskFieldsConfig, context: Context) -> Result:
    """Mask values of any kind; numbers, lists and objects by their JSON text.

    It masks the fields of its own output only: the step's input, and what earlier steps made, stay readable to those
    who may read them. Raises StepError `unknown_field`, and `no_tenant_key` for pseudonyms where the operator has set
    no key.
    """
    require_fields(frame, config.fields)
    if config.method == "pseudonym" and not context.tenant_key:
        raise StepError(
            "There is no key to make pseudonyms with; the operator sets DATA_ENGINE_TENANT_KEY.", code="no_tenant_key"
        )
    mask = _mask(config, context.tenant_key)
    work = Rowwise(frame, "null")
    for field in config.fields:
        work.map(field, lambda value: None if value is None else mask(_text(value)))
    return work.result()


def _mask(config: MaskFieldsConfig, key: bytes) -> Callable[[str], str | None]:
    """The function that masks one text."""
    keep = config.keep_last

    def pseudonym(text: str) -> str:
        digest = hmac.new(key, text.encode("utf-8", "surrogatepass"), sha256)
        return digest.hexdigest()[:PSEUDONYM_CHARACTERS]

    def partial(text: str) -> str:
        left = text[-keep:] if 0 < keep < len(text) else ""
        return "*" * (len(text) - len(left)) + left

    functions: dict[str, Callable[[str], str | None]] = {
        "pseudonym": pseudonym,
        "partial": partial,
        "redact": lambda _: config.replacement,
        "remove": lambda _: None,
    }
    return functions[config.method]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
