"""validate_identifier: registration numbers of companies, banks and securities, by their formats and check digits."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from stdnum import get_cc_module
from stdnum.exceptions import InvalidChecksum, InvalidFormat, InvalidLength, ValidationError

from services.steps._rowwise import Fault, Rowwise, RowwiseConfig, reads_unless_rejecting, require_fields
from services.steps.base import Context, Example, Reject, Result, frame_step
from services.steps.frame import Frame

Scheme = Literal[
    "vat", "lei", "isin", "iban", "bic", "cusip", "figi", "imo", "isni", "ean", "us.ein", "us.ssn", "gb.utr",
    "fr.siren", "fr.siret", "de.handelsregisternummer", "ch.uid", "es.cif", "it.codicefiscale", "se.orgnr",
    "no.orgnr", "dk.cvr", "pl.regon", "au.abn", "br.cnpj", "in_.gstin", "ca.bn",
]  # fmt: skip
"""`vat`, and python-stdnum's names of the others."""

VALUE_MAX_CHARACTERS = 200
_FAULTS: Final[Mapping[type[Exception], str]] = {
    InvalidChecksum: "invalid_checksum",
    InvalidLength: "invalid_length",
    InvalidFormat: "invalid_format",
}


class ValidateIdentifierConfig(RowwiseConfig):
    """Which field, and what sort of number it is to hold."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"field": "lei", "scheme": "lei"},
                {"field": "vat_id", "scheme": "vat", "country_field": "country", "output_field": "vat"},
            ]
        }
    )

    field: str
    """The field with the number; spaces, dots and dashes in it do not matter."""

    scheme: Scheme
    """What it is to be: `vat` (a VAT number), `lei` (ISO 17442), `isin` (ISO 6166), `iban` (ISO 13616), `bic` (ISO
    9362), or a register's number, such as `us.ein`."""

    country_field: str | None = None
    """For `vat`: the field with the country's ISO 3166 alpha-2 code. Null: the number begins with it."""

    output_field: str | None = Field(default=None)
    """The field to write the number's compact form into; null writes into `field` itself."""

    @model_validator(mode="after")
    def _a_country_is_of_vat(self) -> Self:
        if self.country_field is not None and self.scheme != "vat":
            raise ValueError("country_field goes with the scheme vat only")
        return self


@frame_step(
    "validate_identifier",
    version=f"1+stdnum{version('python-stdnum')}",
    summary="Check registration numbers (VAT, LEI, ISIN, IBAN, and others) and write their compact form.",
    config=ValidateIdentifierConfig,
    reads=reads_unless_rejecting(
        lambda config: [config.field, *([config.country_field] if config.country_field else [])]
    ),
    examples=[
        Example(
            "VAT numbers as people write them, one with a digit changed",
            {"field": "vat_id", "scheme": "vat", "on_error": "reject"},
            [{"vat_id": "DE 136,695 976"}, {"vat_id": None}, {"vat_id": "DE136695978"}],
            [{"vat_id": "DE136695976"}, {"vat_id": None}],
            [Reject(2, "vat_id", "invalid_checksum", "DE136695978")],
        )
    ],
)
def validate_identifier(frame: Frame, config: ValidateIdentifierConfig, _: Context) -> Result:
    """Write the compact form of what is valid; null and blank stay null. Nothing is looked up in a register.

    Faults: `not_text`, `invalid_length`, `invalid_format`, `invalid_checksum`, `unknown_country` (of a VAT number: none
    is given, or it has no VAT numbers that are known). Raises StepError `unknown_field`, and a fault's code under
    `on_error: fail`.
    """
    work = Rowwise(frame, config.on_error)
    output = config.output_field or config.field
    if config.country_field is not None:
        require_fields(frame, [config.field, config.country_field])
        work.map_many([config.field, config.country_field], _tupled(_vat), [output])
    else:
        require_fields(frame, [config.field])
        work.map(config.field, _vat if config.scheme == "vat" else _checker(config.scheme), into=output)
    return work.result()


def _vat(value: Any, country: Any = None) -> str | Fault | None:
    """A VAT number with its country's code before it."""
    text = _text(value)
    if not isinstance(text, str):
        return text
    prefix = text[:2] if country is None else country
    if not isinstance(prefix, str) or len(prefix) != 2:
        return Fault("unknown_country")
    code = {"EL": "GR", "UK": "GB", "XI": "GB"}.get(prefix.upper(), prefix.upper())
    module = _vat_module(code)
    if module is None:
        return Fault("unknown_country")
    number = text[2:] if text[:2].upper() == prefix.upper() else text
    found = _validated(module, number)
    if isinstance(found, Fault):
        return found
    written = "EL" if code == "GR" else code  # as the EU writes Greece's
    return found if found.startswith(written) else f"{written}{found}"


@cache
def _vat_module(code: str) -> Any:
    return get_cc_module(code, "vat") if code.isascii() and code.isalpha() else None


def _checker(scheme: str) -> Callable[[Any], str | Fault | None]:
    module = import_module(f"stdnum.{scheme}")

    def check(value: Any) -> str | Fault | None:
        text = _text(value)
        return _validated(module, text) if isinstance(text, str) else text

    return check


def _validated(module: Any, text: str) -> str | Fault:
    try:
        return str(module.validate(text))
    except ValidationError as error:
        return Fault(next((code for kind, code in _FAULTS.items() if isinstance(error, kind)), "invalid_format"))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):  # characters that the module did not expect
        return Fault("invalid_format")


def _text(value: Any) -> str | Fault | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return Fault("not_text")
    text = value.strip()
    if len(text) > VALUE_MAX_CHARACTERS:
        return Fault("invalid_length")
    if not text.isascii():
        return Fault("invalid_format")
    return text or None


def _tupled(function: Callable[..., Any]) -> Callable[..., Any]:
    def one(*values: Any) -> Any:
        found = function(*values)
        return found if isinstance(found, Fault) else (found,)

    return one
