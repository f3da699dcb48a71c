"""The work of the bulk benchmark as a pandas script: `python -m bench.bulk_pandas CSV PARQUET`."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.bulk_work import DEFAULTS, DOMAIN, EMAIL, KEY, MAPPING, NAMES, PHONE, results_for


def apply(frame: pd.DataFrame, step: dict[str, Any], fields: Sequence[str], outputs: Sequence[str]) -> None:
    """Write what the step makes of the fields' distinct values."""
    rows = (
        frame[fields[0]] if len(fields) == 1 else pd.Series(list(zip(*(frame[name] for name in fields), strict=True)))
    )
    codes, distinct = pd.factorize(rows, use_na_sentinel=False)
    values = [(value,) for value in distinct] if len(fields) == 1 else list(distinct)
    columns = {name: [None if pd.isna(v[at]) else v[at] for v in values] for at, name in enumerate(fields)}
    for name, made in zip(outputs, results_for(step, columns, outputs), strict=True):
        frame[name] = pd.Series(made, dtype=object).to_numpy()[codes]


def main(source: str, target: str) -> None:
    """Read text, normalise, map, keep the first row of each address, write."""
    frame = pd.read_csv(source, dtype=str, keep_default_na=False, na_values=[""])
    apply(frame, NAMES, ["Full Name"], ["given", "family"])
    apply(frame, EMAIL, ["Email"], ["Email"])
    apply(frame, PHONE, ["Phone Number", "Country"], ["phone"])
    apply(frame, DOMAIN, ["Website", "Email"], ["domain"])
    frame = pd.DataFrame({new: frame[old] for new, old in MAPPING.items()})
    for name, default in DEFAULTS.items():
        frame[name] = frame[name].fillna(default)
    frame = frame[frame[KEY].isna() | ~frame.duplicated([KEY])]
    frame.to_parquet(target, compression="zstd", index=False)


if __name__ == "__main__":
    began = time.perf_counter()
    main(sys.argv[1], sys.argv[2])
    print(json.dumps({"seconds": time.perf_counter() - began}))
