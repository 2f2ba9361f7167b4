"""Published numbers to set beside our own: one table, `published.csv`, every row with the place it was read at."""

from functools import cache
from importlib import resources
from typing import Any

import pandas
from pandas import DataFrame

NUMBERS = ("labelled_percent", "n_labelled", "value")


def published(paper: str | None = None, **filters: Any) -> DataFrame:
    """The published numbers, those of `paper` ("bengar2021", "luth2023") or all; `filters` choose by column, as ``dataset="cifar10"``.

    Columns: paper, item, dataset, arm, strategy, labelled_percent, n_labelled (both NaN where there is none), metric, value, kind,
    source, note. `arm` is "scratch", "frozen" (self-supervised backbone), "finetuned" (self-supervised, then trained whole) or
    "fixmatch". `kind` is "printed"; "inferred" where something, such as the baseline or the data set, is not stated beside the number; or
    "bound" where the paper gives no more than a lower bound. What could only be measured in a printed figure is not in the table.

    Raises:
        ValueError: a filter names no column, or a value that is nowhere in its column.
    """
    table = _table()
    for column, value in {**({} if paper is None else {"paper": paper}), **filters}.items():
        if column not in table:
            raise ValueError(f"published numbers have no column {column!r}: filter by one of {', '.join(table.columns)}")
        if value not in set(_table()[column]):
            raise ValueError(f"no published number has {column} {value!r}: there are {', '.join(sorted(set(map(str, _table()[column]))))}")
        table = table[table[column] == value]
    return table.reset_index(drop=True)


@cache
def _table() -> DataFrame:
    with resources.files("alnb.papers").joinpath("published.csv").open(encoding="utf-8") as file:
        return pandas.read_csv(file, keep_default_na=False, na_values={name: [""] for name in NUMBERS})
