"""Notebooks executed strictly: parameters are checked before anything runs, progress is seen, nothing half-done looks finished."""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import os
import sys
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Protocol, Self, TextIO, get_args, get_origin

from alnb import store
from alnb.learn.train import Report

SCALES = ("smoke", "laptop", "paper")
PACKAGE = Path(__file__).parents[2]  # where this package is imported from
BATCH = "ALNB_BATCH"  # set to "1" while a notebook is executed without anybody looking at it


class BadParameter(Exception):
    """A parameter that the notebook does not have, or of another type."""


class NotebookFailed(Exception):
    """A cell raised, or the kernel died."""

    def __init__(self, message: str, kind: str = "", reason: str = "") -> None:
        """`kind` and `reason`: the type's name and the message of what was raised."""
        super().__init__(message)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Source:
    """A code cell as it is written."""

    number: int  # among the code cells, from 1 on
    text: str
    tags: tuple[str, ...]  # "parameters"; "check": parameters are looked at and nothing else is done; "report": it only shows results


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
        raise BadParameter(f"scale is {scale!r}: it must be one of {', '.join(SCALES)}{nearest(scale, SCALES)}")
    return settings[scale]


def choose(table: Mapping[str, Any], names: str | Iterable[str], what: str) -> dict[str, Any]:
    """The entries of `table`, such as `STRATEGIES`, under `names`.

    Raises:
        BadParameter: a name is not there, or none is named; it says which there are.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise BadParameter(f"no {what} is named: there are {', '.join(table)}")
    for name in names:
        if name not in table:
            raise BadParameter(f"{what} {name!r} is not known: there are {', '.join(table)}{nearest(name, table)}")
    return {name: table[name] for name in names}


def not_negative(**values: int) -> None:
    """Raises: BadParameter, naming those of the numbers that are below 0."""
    below = [f"{name} is {value}" for name, value in values.items() if value < 0]
    if below:
        raise BadParameter(f"{', '.join(below)}: give 0, or more")


def device(name: str) -> str:
    """`name` as torch takes it, or where it is empty "cuda" if there is a GPU, else "cpu".

    Raises:
        BadParameter: there is no such device.
    """
    import torch

    try:
        found = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise BadParameter(f"device is {name!r}: it must be cpu, cuda, a certain GPU as in cuda:1, or empty") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BadParameter(f"device is {name!r}, but this machine has no GPU that torch can use: leave it empty, or say cpu")
    return str(found)


def interactive() -> bool:
    """Whether a person may be looking: not in an execution by `alnb run`."""
    return os.environ.get(BATCH) != "1"


def page() -> bool:
    """Whether the notebook is served as a page without code, by Voilà."""
    return "VOILA_SERVER_URL" in os.environ


class Bar(Protocol):
    """What is used of tqdm's bars."""

    total: float | None
    n: float

    def update(self, n: float = 1) -> Any: ...  # noqa: D102
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...  # noqa: D102
    def __enter__(self) -> Self: ...  # noqa: D105
    def __exit__(self, *error: Any) -> None: ...  # noqa: D105


def progress(total: int, description: str) -> Bar:
    """A progress bar: a widget in Jupyter, text in a terminal, and text that reaches the terminal in an execution by `alnb run`."""
    try:
        from tqdm import auto, std
    except ImportError:
        return _Lines(total, description)
    batch = not interactive()
    bar: Bar = (std if batch else auto).tqdm(total=total, desc=description, mininterval=0.5 if batch else 0.1, dynamic_ncols=not batch)
    return bar


@dataclass
class _Lines:
    """A line each few seconds, where there is no tqdm."""

    total: float | None
    description: str
    n: float = 0
    postfix: str = ""
    shown: float = -math.inf

    def update(self, n: float = 1) -> None:
        self.n += n
        if time.monotonic() - self.shown > 5:
            self.show()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        self.postfix = s

    def show(self) -> None:
        self.shown = time.monotonic()
        print(f"{self.description}: {self.n:g} of {self.total:g} {self.postfix}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.show()


def follow(bar: Bar) -> Report:
    """What `pretrain` may call as `report`: `bar` counts the updates and shows the loss."""

    def report(done: int, updates: int, loss: float) -> None:
        bar.total = updates
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        bar.update(done - bar.n)

    return report


def within(bar: Bar) -> Report:
    """What `cycles` may call as `report`: `bar`, which counts cycles, shows how far the training of the present one is."""

    def report(done: int, updates: int, loss: float) -> None:
        bar.set_postfix_str(f"update {done} of {updates}, loss {loss:.3f}", refresh=False)
        bar.update(0)

    return report


# ---- parameters ---------------------------------------------------------------------------------------------------------------


def sources(path: Path) -> list[Source]:
    """The code cells of the notebook at `path`, read without Jupyter.

    Raises:
        BadParameter: the file is not there, or is not a notebook.
    """
    if not path.is_file():
        raise BadParameter(f"there is no notebook {path}{'' if path.is_absolute() else f' in {Path.cwd()}'}")
    try:
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        return [Source(k, "".join(cell["source"]), tuple(cell["metadata"].get("tags", ()))) for k, cell in enumerate(cells, start=1)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadParameter(f"{path} cannot be read as a notebook: {error!r}") from error


def code(path: Path) -> str:
    """Digest of what the notebook does, without its parameters and what it shows.

    Raises:
        BadParameter: as `sources`.
    """
    return store.fingerprint([cell.text for cell in sources(path) if not {"report", "parameters"} & set(cell.tags)])


def parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, by name, in order: the assignments of its cell tagged `parameters`.

    They are read here because papermill's own inspection does not understand ``str | None`` or a # within a string.

    Raises:
        BadParameter: the file is not there, is not a notebook, or has no such cell.
    """
    tagged = [cell.text for cell in sources(path) if "parameters" in cell.tags]
    if not tagged:
        raise BadParameter(f"{path} has no parameters: tag the cell with its defaults `parameters`")
    found = list(_assignments(tagged[0]))
    return {parameter.name: parameter for parameter in found}


def _assignments(source: str) -> Iterator[Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        help = comments.get(node.end_lineno or 0, "")
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield Parameter(node.target.id, ast.unparse(node.annotation), ast.unparse(node.value), help)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield Parameter(node.targets[0].id, "", ast.unparse(node.value), help)


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
        kind = type_of(known[name]) if name in known else None
        inner = get_args(kind)[0] if get_origin(kind) is list else kind
        whole = words[0] if len(words) == 1 and words[0].startswith("[") else None
        if whole is not None and inner is not kind:
            values[name] = _read(whole, kind)
        elif len(words) > 1 or inner is not kind:
            values[name] = [item for word in words for item in _items(word, inner)]
        else:
            values[name] = _read(words[0], kind)
    return check(values, known)


def _items(word: str, kind: Any) -> list[Any]:
    """What a word means in a list of `kind`: of whole numbers, 0:5 are the five from 0 on, and 0:10:2 every second one."""
    found = numbers(word) if kind is int else None
    return [_read(word, kind)] if found is None else found


def numbers(word: str) -> list[int] | None:
    """The whole numbers that 0:5 or 0:10:2 stands for; None where `word` is no such range.

    Raises:
        BadParameter: there is none between its ends.
    """
    parts = word.split(":")
    if len(parts) not in (2, 3):
        return None
    try:
        found = list(range(*map(int, parts)))
    except ValueError:
        return None
    if not found:
        raise BadParameter(f"{word} holds no number: it is to begin below where it ends, as 0:5 does")
    return found


def _read(word: str, kind: Any) -> Any:
    """A word as a value of `kind` where it can be one, and as YAML reads it where not: `check` says what is wrong then.

    Texts stay as they are, and numbers are decimal: YAML 1.1 would take 010 for 8, 3e-2 for a text, and 1:05 for 65.
    """
    if kind is str:
        return word
    if kind in (int, float):
        with suppress(ValueError):
            return kind(word)
        if ":" in word:
            return word
    try:
        import yaml
    except ImportError:  # a machine with torch and little else: JSON, which has the same true, false, null and lists
        with suppress(ValueError):
            return json.loads(word)
        return word
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def check(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """`values` as they are, whole numbers as floats where floats are wanted aside.

    Raises:
        BadParameter: the notebook has no such parameter (the nearest is named), states another type for it, or a list names
            something twice.
    """
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise BadParameter(f"there is no parameter {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        kind = type_of(known[name])
        checked[name] = float(value) if kind is float and type(value) is int else value
        if kind is not None and not _is(checked[name], kind):
            expected = f"{known[name].annotation}, as {known[name].default}"
            raise BadParameter(f"parameter {name!r} is {value!r}, of type {type(value).__name__}: it must be {expected}")
        repeated = [item for k, item in enumerate(value) if item in value[:k]] if isinstance(value, list) else []
        if repeated:
            raise BadParameter(f"parameter {name!r} names {repeated[0]!r} twice: its runs would count as independent ones")
    return checked


def type_of(parameter: Parameter) -> Any:
    """The type that the annotation means; None where there is none."""
    plain = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
    if not parameter.annotation:
        return None
    try:
        return eval(parameter.annotation, {"__builtins__": {}}, plain)  # the text of the user's own notebook, which is about to be executed
    except Exception as error:
        allowed = "int, float, str, bool, list[…], dict[str, …], and … | None"
        raise BadParameter(f"parameter {parameter.name!r} has the type {parameter.annotation}: this command knows {allowed}") from error


def _is(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is(value, one) for one in args)
    if origin is list:
        return isinstance(value, list) and all(_is(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(key, args[0]) and _is(item, args[1]) for key, item in value.items())
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return value is None if kind in (None, NoneType) else type(value) is kind


def nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant, in brackets; "" where nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# ---- execution ----------------------------------------------------------------------------------------------------------------


def execute(
    path: Path,
    values: Mapping[str, Any],
    output: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    log: TextIO | None = None,
    started: Callable[[Any], None] | None = None,
) -> Path:
    """Execute the notebook at `path` with checked parameters, and return where its executed copy lies.

    While it runs the copy is named `….running.ipynb`; it gets its own name when the last cell has ended, and `….failed.ipynb` when one
    raised. Its records are in its own run folders, so that a second execution goes on where the first one ended.

    Args:
        environment: variables that its kernel gets beside those of this process.
        folder: which its kernel works in; None: that of this process.
        log: where its output goes while it runs; None: to standard output and error.
        started: called with jupyter_client's manager of the kernel once that runs, in the thread that executes.
    Raises:
        BadParameter: before anything runs.
        NotebookFailed: a cell raised, or the kernel died; the message says which, and where the copy with the traceback lies.
    """
    import papermill

    checked = check(values, parameters(path))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = output or store.workspace() / "runs" / path.stem / "notebooks" / f"{stamp}-{os.getpid()}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    running, failed = (output.with_suffix(f".{state}.ipynb") for state in ("running", "failed"))
    options: dict[str, Any] = {"kernel_name": "python3", "progress_bar": False, "coalesce_streams": True, "store_widget_state": False}
    options["extra_arguments"] = ["--IPKernelApp.log_level=50"]  # no warning about TCP on this machine alone, no error of being ended
    options["kernel_manager_class"] = _manager({BATCH: "1", "PYTHONPATH": python_path(), **(environment or {})}, started)
    try:
        streams = {"stdout_file": log or sys.stdout, "stderr_file": log or sys.stderr}
        papermill.execute_notebook(str(path), str(running), parameters=checked, cwd=folder and str(folder), **options, **streams)
    except papermill.PapermillExecutionError as error:
        running.replace(failed)
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from error
        where = f"cell {error.exec_count} of {path} raised {error.ename}: {error.evalue}"
        raise NotebookFailed(f"{where}\n(its executed copy: {failed})", error.ename, error.evalue) from error
    except BaseException as error:  # nbclient's DeadKernelError and relatives, and Ctrl-C
        if running.exists():
            running.replace(failed)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        what = f"{path} was not finished: {type(error).__name__}: {error}\n(its copy so far: {failed})"
        raise NotebookFailed(what, type(error).__name__, str(error)) from error
    return running.replace(output)


def python_path() -> str:
    """PYTHONPATH with this package first: a folder called alnb in the working folder, such as that of a clone, would hide it."""
    return os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))


def _manager(environment: Mapping[str, str], started: Callable[[Any], None] | None) -> type:
    """A kernel manager that gives its kernel an environment of its own: several are started side by side from one process."""
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def _async_start_kernel(self, **options: Any) -> None:
            await super()._async_start_kernel(**{**options, "env": {**os.environ, **environment}})
            if started is not None:
                started(self)

        start_kernel = _async_start_kernel  # as in the class above it

    return Manager
