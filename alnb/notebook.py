"""Notebooks executed strictly: parameters are checked before anything runs, progress is seen, nothing half-done looks finished."""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from alnb import store
from alnb.train import Report

if TYPE_CHECKING:
    from tqdm import tqdm

SCALES = ("smoke", "laptop", "paper")
BATCH = "ALNB_BATCH"  # set to "1" while a notebook is executed without anybody looking at it


class BadParameter(Exception):
    """A parameter that the notebook does not have, or of another type."""


class NotebookFailed(Exception):
    """A cell raised, or the kernel died."""


@dataclass(frozen=True)
class Parameter:
    """One assignment of a notebook's cell tagged `parameters`."""

    name: str
    annotation: str  # "" where there is none
    default: str  # as written
    help: str  # the trailing comment


# ---- in a notebook ------------------------------------------------------------------------------------------------------------


def at_scale(scale: str, *, smoke: Mapping[str, Any], laptop: Mapping[str, Any], paper: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings for `scale`.

    Raises:
        BadParameter: there is no such scale.
    """
    settings = dict(zip(SCALES, (smoke, laptop, paper), strict=True))
    if scale not in settings:
        raise BadParameter(f"scale is {scale!r}: it must be one of {', '.join(SCALES)}{_nearest(scale, SCALES)}")
    return settings[scale]


def choose(table: Mapping[str, Any], names: str | Iterable[str], what: str) -> dict[str, Any]:
    """The entries of `table`, such as `STRATEGIES`, under `names`.

    Raises:
        BadParameter: a name is not there; it says which there are.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in table:
            raise BadParameter(f"{what} {name!r} is not known: there are {', '.join(table)}{_nearest(name, table)}")
    return {name: table[name] for name in names}


def progress(total: int, description: str) -> tqdm[Any]:
    """A progress bar: a widget in Jupyter, text in a terminal, and text that reaches the terminal in an execution by `alnb run`."""
    from tqdm import auto, std

    batch = os.environ.get(BATCH) == "1"
    return (std if batch else auto).tqdm(total=total, desc=description, mininterval=0.5 if batch else 0.1, dynamic_ncols=not batch)


def follow(bar: tqdm[Any]) -> Report:
    """What `fit` and `pretrain` may call as `report`, so that `bar` shows the updates and the loss."""

    def report(done: int, updates: int, loss: float) -> None:
        bar.total = updates
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        bar.update(done - bar.n)

    return report


# ---- parameters ---------------------------------------------------------------------------------------------------------------


def parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, by name, in order.

    Raises:
        BadParameter: the file is not there, is not a notebook, or has no cell tagged `parameters`.
    """
    import papermill

    if not path.is_file():
        raise BadParameter(f"there is no notebook {path}")
    try:
        found = papermill.inspect_notebook(str(path))
    except Exception as error:  # nbformat raises several kinds on what is not a notebook
        raise BadParameter(f"{path} cannot be read as a notebook: {error}") from error
    if not found:
        raise BadParameter(f"{path} has no parameters: tag the cell with its defaults `parameters`")
    entries = (Parameter(name, _type_name(entry["inferred_type_name"]), entry["default"], entry["help"]) for name, entry in found.items())
    return {entry.name: entry for entry in entries}


def _type_name(inferred: str | None) -> str:
    return "" if inferred in (None, "None") else str(inferred).strip()


def help_text(path: Path) -> str:
    """A line for each parameter of the notebook: name, type, default, help."""
    lines = [f"Parameters of {path}"]
    lines += [f"  {p.name}: {p.annotation or 'any'} = {p.default}\n      {p.help}" for p in parameters(path).values()]
    return "\n".join(lines)


def parse(given: Sequence[Sequence[str]], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Values from the command line: each entry is a name and the words after it. Several words, or one where a list is wanted, make a list.

    Raises:
        BadParameter: an unknown name, a name twice, no value, or a value of another type than the notebook states.
    """
    values: dict[str, Any] = {}
    for name, *words in given:
        if name in values:
            raise BadParameter(f"parameter {name!r} is given twice")
        if not words:
            raise BadParameter(f"parameter {name!r} has no value: write -p {name} VALUE")
        kind = known[name].annotation if name in known else ""
        read = [word if kind == "str" else _read(word, float_wanted="float" in kind) for word in words]
        wants_list = kind.startswith(("list", "tuple"))
        values[name] = read[0] if len(read) == 1 and not (wants_list and not isinstance(read[0], list)) else read
    return check(values, known)


def _read(word: str, *, float_wanted: bool) -> Any:
    """A word as YAML reads it: numbers, true and false, null, lists; any other text stays text. YAML 1.1 takes 3e-2 for text."""
    import yaml

    if float_wanted:
        with suppress(ValueError):
            return float(word)
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def check(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """`values` as they are, whole numbers as floats where floats are wanted aside.

    Raises:
        BadParameter: the notebook has no such parameter (the nearest is named), or states another type for it.
    """
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise BadParameter(f"there is no parameter {name!r}{_nearest(name, known)}; there are {', '.join(known)}")
        kind = known[name].annotation
        checked[name] = float(value) if kind == "float" and type(value) is int else value
        if kind and not _is(checked[name], _type(kind)):
            raise BadParameter(
                f"parameter {name!r} is {value!r}, of type {type(value).__name__}: it must be {kind}, as {known[name].default}"
            )
    return checked


def _type(annotation: str) -> Any:
    plain = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "tuple": tuple}
    return eval(annotation, {"__builtins__": {}}, plain)  # the text of the user's own notebook, which is about to be executed


def _is(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in args)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_is(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if kind is float:
        return type(value) in (int, float)
    return value is None if kind is None else type(value) is kind


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# ---- execution ----------------------------------------------------------------------------------------------------------------


def execute(path: Path, values: Mapping[str, Any], output: Path | None = None) -> Path:
    """Execute the notebook at `path` with checked parameters, and return where its executed copy lies.

    While it runs the copy is named `….running.ipynb`; it gets its own name when the last cell has ended, and `….failed.ipynb` when one
    raised. Its records are in its own run folders, so that a second execution goes on where the first one ended.

    Raises:
        BadParameter: before anything runs.
        NotebookFailed: a cell raised, or the kernel died; the message says which, and where the copy with the traceback lies.
    """
    import papermill

    checked = check(values, parameters(path))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = output or store.workspace() / "runs" / path.stem / "notebooks" / f"{stamp}-{store.fingerprint(dict(checked))[:6]}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    running, failed = (output.with_suffix(f".{state}.ipynb") for state in ("running", "failed"))
    streams = {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
    before = os.environ.get(BATCH)
    os.environ[BATCH] = "1"  # the kernel inherits it
    try:
        options = {"kernel_name": "python3", "progress_bar": False, "coalesce_streams": True, "store_widget_state": False}
        options["extra_arguments"] = ["--IPKernelApp.log_level=40"]  # no warning about TCP on this machine alone
        papermill.execute_notebook(str(path), str(running), parameters=checked, **options, **streams)
    except papermill.PapermillExecutionError as error:
        running.replace(failed)
        raise NotebookFailed(
            f"cell {error.exec_count} of {path} raised {error.ename}: {error.evalue}\n(its executed copy: {failed})"
        ) from error
    except Exception as error:  # nbclient's DeadKernelError and relatives
        if running.exists():
            running.replace(failed)
        raise NotebookFailed(f"{path} was not finished: {type(error).__name__}: {error}\n(its copy so far: {failed})") from error
    finally:
        os.environ.pop(BATCH) if before is None else os.environ.update({BATCH: before})
    return running.replace(output)
