"""Records to tables: find run folders, read and verify them, and make a row of each cycle.

A function that reads runs raises `store.Corrupted` if a file is damaged, and `store.NewerFormat` if a later version wrote it. pandas is
imported only where tables are made: a sweep reads runs on machines without it.
"""

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

TaggedRun = tuple[store.Run, Mapping[str, Any]]
"""A run and its tags: what its experiment calls it, such as arm, strategy and seed."""
WRITERS = {".parquet": "Parquet", ".csv": "CSV"}  # formats of `export`, by suffix
FIRST = ("dataset", "classes", "pool", "scale", "arm", "strategy", "regime", "seed")  # the first columns of `load`, if present


def runs(root: Path | str) -> Iterator[store.Run]:
    """Every run folder at or below `root`, finished or not, sorted by path."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("cycle_"))
        if "manifest.json" in files:
            yield store.Run(folder)


def find(root: Path | str, **tags: Any) -> list[tuple[store.Run, dict[str, Any]]]:
    """The runs below `root` that have tags, with their tags. With keywords such as arm="frozen", only the runs with these tags."""
    tagged = []
    for run in runs(root):
        named = (run.manifest or {})["experiment"].get("tags")
        if named and all(named.get(name) == value for name, value in tags.items()):
            tagged.append((run, named))
    return tagged


def frame(runs: Iterable[TaggedRun]) -> DataFrame:
    """A row for each cycle. Columns: the run's tags, then cycle, n_labelled, each scalar metric, seconds, peak_memory_mb, then `protocol`
    (a short text), `commit` and `run` (the folder). Raises ValueError if there is no record.
    """
    import pandas

    rows = []
    for run, tags in runs:
        origin = _origin(run)
        rows += [{**tags, **measured, **origin} for measured in map(_measured, run.records())]
    if not rows:
        raise ValueError("there are no finished cycles to report on: run the experiment first")
    return pandas.DataFrame(rows)


def load(root: Path | str) -> DataFrame:
    """All runs at or below the folder `root` as one tidy table, a row for each cycle. Each file's sha256 is verified.

    The columns are the run's tags, or those that its experiment implies (dataset, scale, arm, strategy, seed, …); cycle, n_labelled, each
    scalar metric, seconds (of all stages), seconds_STAGE of each stage, peak_memory_mb; `protocol`, `commit` and every other value of the
    manifest by its dotted name, such as ``learner.recipe.lr``, with ``experiment.`` before a name that is taken, and lists as JSON texts;
    `experiment`, the name of the folder above the run; and `run`, its folder. Texts of a run are categorical.

    Runs without a finished cycle are left out. Memory: O(rows x columns).
    Raises ValueError if there is no such folder, no finished cycle in it, or a tag has the name of a measurement.
    """
    import pandas

    heads: list[dict[str, Any]] = []
    stated, rows, owner = [], [], []
    for run in runs(root):
        manifest, records = run.manifest or {}, run.records()
        if records:
            owner += [len(heads)] * len(records)
            heads.append(_tags(manifest))
            shown = {name: value for name, value in manifest["experiment"].items() if name not in ("tags", "task")}
            leaves = dict(_leaves({**shown, "environment": manifest.get("environment", {})}))
            stated.append({**_origin(run), **leaves, "experiment": run.path.absolute().parent.name, "run": str(run.path)})
            rows += [_measured(record, stages=True) for record in records]
    if not rows:
        problem = f"no finished runs below {root}" if Path(root).is_dir() else f"no folder {root} (searched from {Path.cwd()})"
        raise ValueError(f"{problem}: give the folder of runs, or make some with `alnb run notebooks/quickstart.ipynb -p scale smoke`")
    tags, measured, about = (pandas.DataFrame(part) for part in (heads, rows, stated))
    clash = sorted({*tags.columns} & {*measured.columns})
    if clash:
        raise ValueError(f"below {root}, runs have tags with names of measurements: {', '.join(clash)}; choose folders without these")
    order = [name for name in FIRST if name in tags] + [name for name in tags if name not in FIRST]
    taken = {*tags.columns, *measured.columns}
    about = about.rename(columns={name: f"experiment.{name}" for name in about if name in taken})
    parts = [_typed(tags[order]).take(owner), measured, _typed(about).take(owner)]
    table = pandas.concat([part.reset_index(drop=True) for part in parts], axis=1)
    return table[[*table.columns.drop("run"), "run"]]


def class_counts(where: Path | str | Iterable[TaggedRun]) -> DataFrame:
    """How many labels of each class were asked for: a row for each run, cycle and class, of runs below a folder or from `find`.

    Columns: the run's tags, then cycle, class (its number), count (i64; of the answers, right or wrong), then `protocol`, `commit` and
    `run`. Memory: O(cycles x classes). Raises ValueError if there is no finished cycle.
    """
    import pandas

    tagged = ((run, _tags(run.manifest or {})) for run in runs(where)) if isinstance(where, Path | str) else where
    rows = []
    for run, tags in tagged:
        origin = _origin(run)
        counted = ((record["cycle"], record["class_counts"]) for record in run.records())
        rows += [{**tags, "cycle": cycle, "class": list(range(len(counts))), "count": counts, **origin} for cycle, counts in counted]
    if not rows:
        raise ValueError(f"there are no finished cycles to count classes of{f' below {where}' if isinstance(where, Path | str) else ''}")
    long = pandas.DataFrame(rows).explode(["class", "count"], ignore_index=True)
    return long.astype({"class": "int64", "count": "int64"})


def conditions(words: Iterable[str]) -> dict[str, list[str]]:
    """The `conditions` of `where`, from words such as "dataset=cifar10". A column may be named several times, for several values.

    Raises ValueError if a word has no = in it.
    """
    wanted: dict[str, list[str]] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"the condition {word!r} has no column or no =: write it as COLUMN=VALUE, such as dataset=cifar10")
        wanted.setdefault(name, []).append(value)
    return wanted


def where(frame: DataFrame, conditions: Mapping[str, list[str]]) -> DataFrame:
    """The rows of `frame` that have, in each named column, one of the given values, as texts.

    Raises ValueError, which names those that exist, if there is no such column, or no row is left.
    """
    for name, values in conditions.items():
        if name not in frame:
            close = difflib.get_close_matches(name, list(map(str, frame.columns)), n=3)
            raise ValueError(f"there is no column {name!r}; {'near it: ' + ', '.join(close) if close else 'see alnb export'}")
        texts = frame[name].map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
        if not texts.isin(values).any():
            there = ", ".join(map(str, texts.dropna().unique()[:20]))
            raise ValueError(f"no row has {name} {' or '.join(values)}: there are {there}")
        frame = frame[texts.isin(values)]
    return frame


def export(frame: DataFrame, path: Path | str) -> Path:
    """Write `frame` to `path`, atomically, as Parquet or CSV by its suffix. Returns the path.

    Raises ValueError if the suffix is another; OSError if the file cannot be written: an earlier file is still there.
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
    """Raises: ValueError if `export` has no format for the suffix of `path`."""
    if path.suffix not in WRITERS:
        known = " or ".join(f"{suffix} ({name})" for suffix, name in WRITERS.items())
        raise ValueError(f"{path} ends in {path.suffix or 'no suffix'!r}: a table is written as {known}")


def protocol(manifest: store.Json) -> str:
    """The rules of a run as a short text without the seed, such as "10 + 4 x 10 labels, fresh"."""
    rules = manifest.get("experiment", {}).get("protocol")
    if not isinstance(rules, dict):
        return "protocol unknown"
    later = f" + {rules['cycles'] - 1} x {rules['budget']}" if rules["cycles"] > 1 else ""
    best = ", best on test" if rules.get("checkpoint") == "best_test" else ""
    return f"{rules['initial']}{later} labels, {rules['init']}{best}"


def _origin(run: store.Run) -> dict[str, str]:
    manifest = run.manifest or {}
    commit = manifest.get("environment", {}).get("commit") or "unknown"
    return {"protocol": protocol(manifest), "commit": commit, "run": str(run.path)}


def _tags(manifest: store.Json) -> dict[str, Any]:
    """The run's tags, and those that its experiment implies. Without another one, a seed is a replication."""
    experiment = manifest["experiment"]
    implied: dict[str, Any] = {"dataset": experiment["dataset"]} if "dataset" in experiment else {}
    if "learner" in experiment:
        implied["arm"] = "scratch" if experiment["learner"].get("backbone") is None else "warm"
    if "strategy" in experiment:
        implied["strategy"] = _short(experiment["strategy"])
    if "protocol" in experiment:
        implied["seed"] = experiment["protocol"]["seed"]
    tags = {**implied, **experiment.get("tags", {})}
    return tags if "seed" not in tags else {"replication": tags["seed"], **tags}


def _short(described: Any) -> str:
    """The last part of the name of a function or class that `store.describe` described."""
    while isinstance(described, dict):
        described = next((described[key] for key in ("kind", "function", "class") if key in described), "unknown")
    return str(described).rpartition(".")[2]


def _leaves(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a mapping, by its dotted name, in order. A list is one value, as JSON."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f"{where}{name}.")
        else:
            yield f"{where}{name}", json.dumps(item) if isinstance(item, list) else item


def _measured(record: store.Json, *, stages: bool = False) -> dict[str, Any]:
    """The scalars of a record."""
    scalars = {name: value for name, value in record["metrics"].items() if isinstance(value, float)}
    seconds = record["seconds"]
    by_stage = {f"seconds_{stage}": value for stage, value in seconds.items()} if stages else {}
    return {
        "cycle": record["cycle"], "n_labelled": record["n_labelled"], **scalars, "seconds": sum(seconds.values()), **by_stage,
        "peak_memory_mb": record["peak_memory_mb"],
    }  # fmt: skip


def _typed(table: DataFrame) -> DataFrame:
    """`table` with categories for texts. If a column mixes texts and other values, all of them become texts."""
    texts = [name for name in table if any(isinstance(value, str) for value in table[name])]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("category") for name in texts})
