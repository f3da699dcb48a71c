"""Train a Splink model on the first half of FEBRL 3, without its labels, and freeze it to JSON.

    uv run python -m bench.matching_splink

Training differs in its last bits from run to run (DuckDB's sums depend on its threads); what is frozen does not.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.matching_data import Matched, febrl3
from services.steps._comparing import comparable

MODEL = Path(str(files("bench"))) / "febrl_splink_model.json"

FIELDS = ("given_name", "surname", "date_of_birth", "soc_sec_id", "address_1", "street_number", "postcode", "suburb")
KEPT = ("link_type", "probability_two_random_records_match", "comparisons")


def train(data: Matched) -> dict[str, Any]:
    """A model of which records match, learnt from the records alone (expectation maximisation)."""
    import duckdb
    import splink.comparison_library as cl
    from splink import DuckDBAPI, Linker, SettingsCreator, block_on

    rows = [{"unique_id": r["rec_id"], **{f: comparable(r[f]) for f in FIELDS}} for r in data.records]
    names = [cl.JaroWinklerAtThresholds(name, [0.9, 0.7]) for name in ("given_name", "surname", "address_1", "suburb")]
    codes = [cl.DamerauLevenshteinAtThresholds(name, [1, 2]) for name in ("date_of_birth", "soc_sec_id", "postcode")]
    settings = SettingsCreator(
        link_type="dedupe_only",
        comparisons=[*names, *codes, cl.ExactMatch("street_number")],
        blocking_rules_to_generate_predictions=[block_on("date_of_birth")],
    )
    with duckdb.connect() as connection:
        api = DuckDBAPI(connection)
        linker = Linker(api.register(_arrow(rows)), settings, log_level="ERROR")
        linker.training.estimate_probability_two_random_records_match([block_on("soc_sec_id")], recall=0.9)
        linker.training.estimate_u_using_random_sampling(max_pairs=2e6, seed=1)
        for field in ("date_of_birth", "postcode", "surname"):
            linker.training.estimate_parameters_using_expectation_maximisation(block_on(field))
        trained: dict[str, Any] = linker.misc.save_model_to_json()
    return {name: trained[name] for name in KEPT}


def _arrow(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def frozen() -> dict[str, Any]:
    """The model as it was frozen."""
    model: dict[str, Any] = json.loads(MODEL.read_text())
    return model


if __name__ == "__main__":
    MODEL.write_text(json.dumps(train(febrl3().half(0)), indent=1) + "\n")
    print(f"wrote {MODEL.name}")
