"""Jobs and their runs, and small results that travel with the runs.

A *job* is a mapping of tags, such as ``{"arm": "frozen", "strategy": "entropy", "seed": 0, …}``. A run belongs to a job if its tags contain
the job's tags. So finished runs are found without images and without training, also if they come from another machine.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alnb import notebook, store
from alnb.learn.train import Report
from alnb.loop.cycles import cycles
from alnb.loop.experiment import Experiment
from alnb.notebook import parameters
from alnb.report import records
from alnb.report.records import TaggedRun
from alnb.store.describe import differences

Job = dict[str, Any]
LOCATION = ("scale", "device", "data_root", "download", "skip_bad", "runs", "figures")  # parameters that select no run, or name the file
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def begun(runs: Path | str, **tags: Any) -> list[TaggedRun]:
    """The runs below `runs` with these tags that have a finished cycle.

    Raises:
        ValueError: runs of one setting, arm and replication have different images or backbones, or those of one pretext different losses.
        store.Corrupted, store.NewerFormat: a manifest or a record is damaged, or of a later version.
    """
    seen: dict[Any, Any] = {}
    tagged: list[TaggedRun] = [(run, names) for run, names in records.find(runs, **tags) if (run.folder(0) / "record.json").exists()]
    for run, _ in tagged:
        _check_sources(seen, _experiment(run), str(run.path))
    return tagged


def find(jobs: Iterable[Job], runs: Path | str) -> tuple[list[TaggedRun], list[Job]]:
    """The finished runs of `jobs` below `runs`, in the order of the jobs; and the jobs that are left.

    Raises:
        ValueError: two finished runs have the tags of one job.
        ValueError, store.Corrupted, store.NewerFormat: as `begun`.
    """
    jobs = list(jobs)
    keys, groups = [_key(job, job) for job in jobs], {tuple(sorted(job)) for job in jobs}
    complete: dict[str, TaggedRun] = {}
    for run, tags in begun(runs):
        if len(run.records()) == _experiment(run)["protocol"]["cycles"]:
            for key in {_key(tags, names) for names in groups if set(names) <= set(tags)} & set(keys):
                if key in complete:
                    first = complete[key][0]
                    lines = "\n  ".join(differences(_experiment(first), _experiment(run)))
                    raise ValueError(
                        f"{first.path} and {run.path} are runs of one job: move one of them elsewhere. They differ in:\n  {lines}"
                    )
                complete[key] = run, tags
    finished = [complete[key] for key in keys if key in complete]
    return finished, [job for job, key in zip(jobs, keys, strict=True) if key not in complete]


def run(jobs: Iterable[Job], experiment: Callable[[Job], Experiment], runs: Path | str) -> list[TaggedRun]:
    """The finished runs of `jobs`, in their order. Jobs without one are computed, with a progress bar.

    `experiment` makes the run of a job; its tags must contain the job's. It is not called for a job whose run is found: if you change
    `experiment`, also give the jobs a tag that says so, as in ``[{**job, "variant": "random start"} for job in jobs]``.

    Raises:
        ValueError: as `find`, before anything is computed; or an experiment lacks a tag of its job.
        store.ManifestDiffers, store.Locked, stop.TimeIsUp, …: as `loop.cycles.cycles`.
    """
    jobs = list(jobs)
    finished, left = find(jobs, runs)
    experiments = [experiment(job) for job in left]
    for todo, job in zip(experiments, left, strict=True):
        if lost := [name for name in job if name not in todo.tags or todo.tags[name] != job[name]]:
            raise ValueError(f"the experiment of {job} lacks the tag {lost[0]!r} of its job: its run would not be found again")
    seen: dict[Any, Any] = {}
    for known, _ in finished:
        _check_sources(seen, _experiment(known), str(known.path))
    for todo in experiments:
        _check_sources(seen, todo.manifest, "this notebook's data")
    with notebook.progress(sum(e.protocol.cycles for e in experiments), f"{len(left)} runs to do, {len(finished)} done") as bar:
        for todo in experiments:
            for cycle in cycles(run_of(todo, runs), todo, notebook.within(bar)):
                result = f"{cycle.n_labelled} labels, {cycle.metrics['accuracy']:.1%}"
                bar.set_postfix_str(f"{slug(todo.tags)}: {result}", refresh=False)
                bar.update()
    return find(jobs, runs)[0] if left else finished


def run_of(experiment: Experiment, runs: Path | str) -> store.Run:
    """The run of an experiment below `runs`. Its folder's name begins with the tags that a reader looks for."""
    return experiment.run(runs, slug(experiment.tags))


def slug(tags: Mapping[str, Any]) -> str:
    """Data set, arm, strategy, pretext, regime and seed, as a file name."""
    names = ("dataset", "arm", "strategy", "pretext", "regime", "seed")
    return "-".join(re.sub(r"[^\w.]+", "_", str(tags[name])) for name in names if tags.get(name, "") != "")


def _key(tags: Mapping[str, Any], names: Iterable[str]) -> str:
    return store.fingerprint({name: tags[name] for name in names})


def _experiment(run: store.Run) -> store.Json:
    manifest = run.manifest
    assert manifest is not None  # `records.find` gives runs that have one
    described: store.Json = manifest["experiment"]
    return described


def _sources(described: store.Json) -> dict[Any, Any]:
    """What an experiment is based on; nothing for one without a setting. Experiments with equal keys must have equal values."""
    tags = described["tags"]
    if "setting" not in tags:
        return {}
    images = described["pool"]["images"], described["test"]
    parts = {"arm": (images, described["learner"]["backbone"]), "pretext": described["side"]}
    replication = tags.get("replication")
    return {(name, tags["setting"], replication, tags.get(name), tags.get("arm")): part for name, part in parts.items()}


def _check_sources(seen: dict[Any, Any], described: store.Json, place: str) -> None:
    """Note what an experiment is based on. Raises: ValueError if one noted before should have the same basis, and has not."""
    for key, part in _sources(described).items():
        first, first_place = seen.setdefault(key, (part, place))
        if first != part:
            what = "pretext losses" if key[0] == "pretext" else "images and backbone"
            raise ValueError(f"{first_place} and {place} should share their {what}, but do not: move the runs of one of them elsewhere")


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """A progress bar for one training, or for the reading of its result: ``with progress("SimSiam") as report: …``."""
    with notebook.progress(1, title) as bar:
        yield notebook.follow(bar)
        bar.update((bar.total or 0) - bar.n)


def is_full_figure(name: str, values: Mapping[str, Any], *, but: Iterable[str] = ()) -> bool:
    """Whether `values`, parameters of the notebook `name`, select all runs of its figure: whether they are the notebook's defaults.

    A list may hold more than the default, but nothing in place of an empty default. `LOCATION` parameters and those of `but` do not count.
    Raises: notebook.BadParameter if there is no such notebook.
    """
    defaults = {key: ast.literal_eval(known.default) for key, known in parameters.read(NOTEBOOKS / f"{name}.ipynb").items()}
    pairs = [(values[key], default) for key, default in defaults.items() if key not in (*LOCATION, *but)]
    return all(set(default) <= set(value) if isinstance(default, list) and default else value == default for value, default in pairs)


def cached_result(runs: Path | str, name: str, key: Any, compute: Callable[[], store.Json] | None = None) -> store.Json | None:
    """A small result that lies beside the runs as JSON, so that figures are drawn again without images and nets.

    Args:
        name: what the file is called, with a digest of `key`: everything that decides the result.
        compute: called if there is no file; its numbers may be NaN, but not None. None: only look, and return None if there is no file.
    Raises:
        store.Corrupted: the file is damaged.
    """
    path = Path(runs) / "results" / f"{name}-{store.fingerprint(key)[:10]}.json"
    if not path.exists():
        if compute is None:
            return None
        store.write_json(path, json.loads(json.dumps(compute()), parse_constant=lambda _: None))  # a valid file has no NaN
    result: store.Json = _with_nan(store.read_json(path, "delete it: the notebook makes it again"))
    return result


def read_result(runs: Path | str, name: str, key: Any) -> store.Json:
    """A result that `cached_result` left, also on another machine. Raises: store.Corrupted if there is none, or it is damaged."""
    result = cached_result(runs, name, key)
    if result is None:
        raise store.Corrupted(f"results/{name}-*.json in {runs} is missing: copy it from where the runs were made")
    return result


def _with_nan(value: Any) -> Any:
    """None becomes NaN again."""
    if isinstance(value, dict):
        return {name: _with_nan(item) for name, item in value.items()}
    return [_with_nan(item) for item in value] if isinstance(value, list) else math.nan if value is None else value
