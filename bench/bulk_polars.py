"""The work of the bulk benchmark as a Polars script: `python -m bench.bulk_polars CSV PARQUET`."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import polars as pl

from bench.bulk_work import DEFAULTS, DOMAIN, EMAIL, KEY, MAPPING, NAMES, PHONE, results_for


def apply(frame: pl.DataFrame, step: dict[str, Any], fields: Sequence[str], outputs: Sequence[str]) -> pl.DataFrame:
    """With what the step makes of the fields' distinct values."""
    distinct = frame.select(fields).unique(maintain_order=True)
    made = results_for(step, {name: distinct[name].to_list() for name in fields}, outputs)
    results = distinct.with_columns(
        pl.Series(f"made {name}", values, dtype=pl.String) for name, values in zip(outputs, made, strict=True)
    )
    joined = frame.drop(name for name in outputs if name in frame.columns and name not in fields).join(
        results, on=list(fields), how="left", nulls_equal=True, maintain_order="left"
    )
    return joined.with_columns(pl.col(f"made {name}").alias(name) for name in outputs).drop(
        f"made {name}" for name in outputs
    )


def main(source: str, target: str) -> None:
    """Read text, normalise, map, keep the first row of each address, write."""
    frame = pl.read_csv(source, infer_schema=False)
    frame = apply(frame, NAMES, ["Full Name"], ["given", "family"])
    frame = apply(frame, EMAIL, ["Email"], ["Email"])
    frame = apply(frame, PHONE, ["Phone Number", "Country"], ["phone"])
    frame = apply(frame, DOMAIN, ["Website", "Email"], ["domain"])
    frame = frame.select(pl.col(old).alias(new) for new, old in MAPPING.items())
    frame = frame.with_columns(pl.col(name).fill_null(default) for name, default in DEFAULTS.items())
    frame = frame.filter(pl.col(KEY).is_null() | pl.col(KEY).is_first_distinct())
    frame.write_parquet(target, compression="zstd")


if __name__ == "__main__":
    began = time.perf_counter()
    main(sys.argv[1], sys.argv[2])
    print(json.dumps({"seconds": time.perf_counter() - began}))
