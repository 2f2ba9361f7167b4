"""Records to tables: run folders are found, read and verified, and become one row a cycle."""

from __future__ import annotations

import difflib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alnb import store

if TYPE_CHECKING:
    from pandas import DataFrame

Found = tuple[store.Run, Mapping[str, Any]]
"""A run and its columns: what its experiment calls it, such as arm, strategy and seed."""
WRITERS = {".parquet": "Parquet", ".csv": "CSV"}  # of `export`, by suffix
FIRST = ("dataset", "classes", "pool", "scale", "arm", "strategy", "regime", "seed")  # the columns of `load`, where there are such


# ---- finding --------------------------------------------------------------------------------------------------------------------


def runs(root: Path | str) -> Iterator[store.Run]:
    """Every run folder at or below `root`, finished or not, in the order of their paths."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("cycle_"))
        if "manifest.json" in files:
            yield store.Run(folder)


def find(root: Path | str, **columns: Any) -> list[tuple[store.Run, dict[str, Any]]]:
    """Every run below `root` whose manifest has `tags`, or those where they are as given here; for `frame`.

    Raises:
        store.Corrupted, store.NewerFormat: a manifest is damaged, or of a later version.
    """
    found = []
    for run in runs(root):
        named = (run.manifest or {})["experiment"].get("tags")
        if named and all(named.get(name) == value for name, value in columns.items()):
            found.append((run, named))
    return found


# ---- tables ---------------------------------------------------------------------------------------------------------------------


def frame(found: Iterable[Found]) -> DataFrame:
    """One row a cycle: the columns given with each run, then cycle, n_labelled, each scalar metric, seconds, peak_memory_mb, then
    `protocol` (a short text), `commit` and `run` (the folder).

    Raises:
        store.Corrupted, store.NewerFormat: a manifest or a record is damaged, or of a later version.
        ValueError: there is no record at all.
    """
    import pandas

    rows = []
    for run, columns in found:
        manifest = run.manifest or {}
        stated = {**_origin(manifest), "run": str(run.path)}
        rows += [{**columns, **measured, **stated} for measured in map(_measured, run.records())]
    if not rows:
        raise ValueError("there are no finished cycles to report on: run the experiment first")
    return pandas.DataFrame(rows)


def read(root: Path | str, **columns: Any) -> DataFrame:
    """`frame` of what `find` finds.

    Raises:
        store.Corrupted, store.NewerFormat: a manifest or a record is damaged, or of a later version.
        ValueError: there is no such record.
    """
    return frame(find(root, **columns))


def load(root: Path | str) -> DataFrame:
    """All runs at or below the folder `root` as one tidy table, one row a cycle; each file's sha256 is verified.

    First the run's own columns (dataset, scale, arm, strategy, seed, …; of runs that were not given any: dataset, arm, strategy and seed,
    from the experiment), then cycle, n_labelled, each scalar metric, seconds (of all stages) and seconds_STAGE of each, peak_memory_mb,
    `protocol`, `commit`, `experiment` (the folder that the run lies in), then every other value of the manifest by its dotted name, as
    ``learner.recipe.lr``, ``protocol.budget`` or ``environment.torch``; where a name is taken, with ``experiment.`` before it. Lists are
    JSON texts. The last is `run`, its folder. Texts of a run are categorical.

    Run folders without a finished cycle are left out. Memory: O(rows x columns).

    Raises:
        store.Corrupted, store.NewerFormat: a file is damaged, or of a later version; the message names it.
        ValueError: there is no finished cycle.
    """
    import pandas

    heads, stated, rows, lengths = [], [], [], []
    for run in runs(root):
        manifest, records = run.manifest or {}, run.records()
        if records:
            heads.append(_columns(manifest))
            stated.append({**_stated(manifest), "experiment": run.path.absolute().parent.name, "run": str(run.path)})
            rows += [_measured(record, stages=True) for record in records]
            lengths.append(len(records))
    if not rows:
        raise ValueError(
            f"there are no finished runs below {root}: give the folder of some, or make some first, as with "
            "`alnb run notebooks/quickstart.ipynb -p scale smoke`"
        )
    named, measured = pandas.DataFrame(heads), pandas.DataFrame(rows)
    clash = sorted({*named.columns} & {*measured.columns})
    if clash:
        raise ValueError(f"below {root}, runs have columns called as what is measured: {', '.join(clash)}; select folders without these")
    order = [name for name in FIRST if name in named] + [name for name in named if name not in FIRST]
    about = _apart(stated, {*named.columns, *measured.columns})
    owner = [run for run, length in enumerate(lengths) for _ in range(length)]
    parts = [_typed(named[order]).take(owner), measured, _typed(about).take(owner)]
    table = pandas.concat([part.reset_index(drop=True) for part in parts], axis=1)
    return table[[*table.columns.drop("run"), "run"]]


def conditions(words: Iterable[str]) -> dict[str, list[str]]:
    """What `where` takes, from words such as "dataset=cifar10"; a column that is named several times may have any of the values.

    Raises:
        ValueError: a word has no = in it.
    """
    wanted: dict[str, list[str]] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"only is {word!r}: write it as COLUMN=VALUE, such as dataset=cifar10")
        wanted.setdefault(name, []).append(value)
    return wanted


def where(frame: DataFrame, conditions: Mapping[str, list[str]]) -> DataFrame:
    """The rows of `frame` that have, in each column named, one of the values given as texts.

    Raises:
        ValueError: there is no such column, or no row is left; it says which there are.
    """
    for name, values in conditions.items():
        if name not in frame:
            close = difflib.get_close_matches(name, list(map(str, frame.columns)), n=3)
            raise ValueError(f"there is no column {name!r}; {'near it: ' + ', '.join(close) if close else 'see alnb export'}")
        found = frame[name].map(_plain)
        if not found.isin(values).any():
            there = ", ".join(map(str, found.dropna().unique()[:20]))
            raise ValueError(f"no row has {name} {' or '.join(values)}: there are {there}")
        frame = frame[found.isin(values)]
    return frame


def _plain(value: Any) -> str:
    """As somebody would write it on a command line."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def class_counts(where: Path | str | Iterable[Found]) -> DataFrame:
    """How many images of each class were asked for: a row for each run, cycle and class, of runs below a folder or from `find`.

    Columns: the run's own, then cycle, class (its number), count (i64; of the answers, so that of noisy ones as they were given), then
    `protocol`, `commit` and `run`. Memory: O(cycles x classes).

    Raises:
        store.Corrupted, store.NewerFormat: a manifest or a record is damaged, or of a later version.
        ValueError: there is no finished cycle.
    """
    import pandas

    found = ((run, _columns(run.manifest or {})) for run in runs(where)) if isinstance(where, Path | str) else where
    rows = []
    for run, columns in found:
        manifest = run.manifest or {}
        stated = {**_origin(manifest), "run": str(run.path)}
        for record in run.records():
            counts = record["class_counts"]
            rows.append({**columns, "cycle": record["cycle"], "class": list(range(len(counts))), "count": counts, **stated})
    if not rows:
        raise ValueError(f"there are no finished cycles to count classes of{f' below {where}' if isinstance(where, Path | str) else ''}")
    long = pandas.DataFrame(rows).explode(["class", "count"], ignore_index=True)
    return long.astype({"class": "int64", "count": "int64"})


def export(frame: DataFrame, path: Path | str) -> Path:
    """Write `frame` to `path`, atomically, as Parquet or CSV by its suffix; returns the path.

    Raises:
        ValueError: another suffix.
        OSError: it cannot be written; what was there is still there.
    """
    path, buffer = Path(path), io.BytesIO()
    check_suffix(path)
    if path.suffix == ".parquet":
        frame.to_parquet(buffer, index=False)
    else:
        buffer.write(frame.to_csv(index=False).encode())
    store.write_atomic(path, buffer.getvalue())
    return path


def check_suffix(path: Path) -> None:
    """Raises: ValueError where `export` has no format for the suffix of `path`."""
    if path.suffix not in WRITERS:
        known = " or ".join(f"{suffix} ({name})" for suffix, name in WRITERS.items())
        raise ValueError(f"{path} ends in {path.suffix or 'no suffix'!r}: a table is written as {known}")


# ---- rows -----------------------------------------------------------------------------------------------------------------------


def protocol(manifest: store.Json) -> str:
    """The rules of a run as a short text, such as "10 + 4 x 10 labels, fresh"; the seed is none of them."""
    rules = manifest.get("experiment", {}).get("protocol")
    if not isinstance(rules, dict):
        return "protocol unknown"
    later = f" + {rules['cycles'] - 1} x {rules['budget']}" if rules["cycles"] > 1 else ""
    subset = f", of {rules['subset']} candidates" if rules.get("subset") else ""
    peeked = ", best on test" if rules.get("checkpoint") == "best_test" else ""
    return f"{rules['initial']}{later} labels, {rules['init']}{subset}{peeked}"


def _origin(manifest: store.Json) -> dict[str, str]:
    return {"protocol": protocol(manifest), "commit": manifest.get("environment", {}).get("commit") or "unknown"}


def _columns(manifest: store.Json) -> dict[str, Any]:
    """The run's own columns, completed by what its experiment says."""
    experiment = manifest["experiment"]
    said: dict[str, Any] = {}
    if "learner" in experiment:
        said["arm"] = "from scratch" if experiment["learner"].get("backbone") is None else "pre-trained"
    if "strategy" in experiment:
        said["strategy"] = _short(experiment["strategy"])
    if "protocol" in experiment:
        said["seed"] = experiment["protocol"]["seed"]
    return {**{name: experiment[name] for name in ("dataset",) if name in experiment}, **said, **experiment.get("tags", {})}


def _short(described: Any) -> str:
    """The last part of the name of a function or class, from `store.describe` of it."""
    while isinstance(described, dict):
        described = next((described[key] for key in ("kind", "function", "class") if key in described), "unknown")
    return str(described).rpartition(".")[2]


def _stated(manifest: store.Json) -> dict[str, Any]:
    experiment = {name: value for name, value in manifest["experiment"].items() if name not in ("tags", "task")}
    leaves = dict(_leaves(experiment)) | dict(_leaves({"environment": manifest.get("environment", {})}))
    return {**_origin(manifest), **leaves}


def _leaves(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a mapping, by its dotted name; a list is one value, as JSON."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f"{where}{name}.")
        else:
            yield f"{where}{name}", json.dumps(item) if isinstance(item, list) else item


def _measured(record: store.Json, *, stages: bool = False) -> dict[str, Any]:
    """The scalars of a record."""
    scalars = {name: value for name, value in record["metrics"].items() if isinstance(value, float)}
    seconds = record["seconds"]
    each = {f"seconds_{stage}": value for stage, value in seconds.items()} if stages else {}
    return {
        "cycle": record["cycle"], "n_labelled": record["n_labelled"], **scalars, "seconds": sum(seconds.values()), **each,
        "peak_memory_mb": record["peak_memory_mb"],
    }  # fmt: skip


def _apart(stated: list[dict[str, Any]], taken: set[str]) -> DataFrame:
    """A row a run of what its manifest states; names that are taken get ``experiment.`` before them."""
    import pandas

    table = pandas.DataFrame(stated)
    return table.rename(columns={name: f"experiment.{name}" for name in table if name in taken})


def _typed(table: DataFrame) -> DataFrame:
    """`table` with categories where there are texts; where texts and other values stand in one column, all of them are texts."""

    def category(name: str) -> bool:
        return any(isinstance(value, str) for value in table[name])

    as_text = {name: table[name].map(str, na_action="ignore").astype("category") for name in table if category(name)}
    return table.assign(**as_text)
