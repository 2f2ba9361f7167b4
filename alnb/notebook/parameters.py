"""The parameters of a notebook: annotated assignments in its cell tagged `parameters`, and checks of values before anything runs.

They are read without papermill, whose own inspection does not understand ``str | None`` or a # within a string.
"""

import ast
import io
import json
import math
import os
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import numpy
from torch import Tensor

from alnb import store
from alnb.store.checks import nearest

ALLOWED = "int, float, str, bool, list[…], dict[str, …], and … | None"
LOCATIONS = ("runs", "figures", "data_root", "download")  # they say where things are, and change no experiment
MOST_NUMBERS = 100_000  # in a range
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


INJECTED = "injected-parameters"  # papermill's tag of the values in an executed copy: new values take their place


class BadParameter(Exception):
    """The notebook has no such parameter, or the parameter cannot have this value."""


@dataclass(frozen=True)
class CodeCell:
    """One code cell of a notebook file."""

    number: int  # as JupyterLab shows it in brackets after Run All Cells: from 1 on, without empty cells
    text: str
    tags: tuple[str, ...]  # "parameters": the defaults; "check": only looks at parameters; "report": only shows results


@dataclass(frozen=True)
class Parameter:
    """One assignment in the cell tagged `parameters`."""

    name: str
    annotation: str  # "" if there is none
    default: str  # as written
    help: str  # the trailing comment


def code_cells(path: Path) -> list[CodeCell]:
    """The code cells of the notebook at `path`. Raises: BadParameter if it is missing, or is not a notebook."""
    if not path.is_file():
        raise BadParameter(f"there is no notebook {path}{'' if path.is_absolute() else f' in {Path.cwd()}'}: give its path")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        cells = [cell for cell in cells if INJECTED not in cell["metadata"].get("tags", ())]
        pairs = [(text, tuple(cell["metadata"].get("tags", ()))) for cell in cells if (text := "".join(cell["source"])).strip()]
        return [CodeCell(k, text, tags) for k, (text, tags) in enumerate(pairs, start=1)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = "a notebook of nbformat 4, in UTF-8 without a BOM"
        raise BadParameter(f"{path} is not {what} ({type(error).__name__}: {error}): open it in JupyterLab, and save it") from error


def digest(path: Path) -> str:
    """Digest of the notebook's code. The cells tagged `parameters` and `report` do not count."""
    return store.fingerprint([cell.text for cell in code_cells(path) if not {"report", "parameters"} & set(cell.tags)])


def read(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, by name, in the order in which they are written.

    Raises: BadParameter if it is missing, is not a notebook, or has no cell tagged `parameters`.
    """
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.tags]
    if len(tagged) != 1:
        raise BadParameter(
            f"{path} has {len(tagged) or 'no'} cells of parameters: tag the cell that holds the defaults `parameters`, and no other"
        )
    try:
        return {parameter.name: parameter for parameter in _assignments(tagged[0].text)}
    except SyntaxError as error:
        place = f"line {error.lineno} of cell [{tagged[0].number}], tagged `parameters`, of {path}"
        raise BadParameter(f"{place} is not plain Python ({(error.text or '').strip()}): move it to a cell of its own") from error


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
    """Two lines for each parameter of the notebook: name, type and default; then its comment."""
    lines = (f"  {p.name}: {p.annotation or 'any'} = {p.default}\n      {p.help}" for p in read(path).values())
    return "\n".join([f"Parameters of {path}", *lines])


def parse(entries: Sequence[Sequence[str]], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Values from the command line. Each entry is a name and the words after it.

    Several words make a list. One word makes a list where the notebook states a list, also one that may be None.

    Raises: BadParameter if a name is unknown or appears twice, or a value is missing or has the wrong type.
    """
    values: dict[str, Any] = {}
    for name, *words in entries:
        if name in values:
            raise BadParameter(f"parameter {name!r} is given twice: give it once, with all its values")
        if not words:
            raise BadParameter(f"parameter {name!r} has no value: write -p {name} VALUE")
        kind = type_of(known[name]) if name in known else None
        written: Any = words[0] if len(words) == 1 else words
        of = next((get_args(each)[0] for each in (kind, *get_args(kind)) if get_origin(each) is list), None)
        whole = isinstance(written, str) and (written.startswith("[") or typed(written, kind) is None)  # the list itself, or no list
        if of and not whole and isinstance(written, list | str):
            items: list[Any] = [written] if isinstance(written, str) else written
            written = [item for word in items for item in ((of is int and integers(word)) or [word])]
        values[name] = typed(written, kind)
    return check(values, known)


def integers(word: Any) -> list[int] | None:
    """The whole numbers that 0:5 or 0:10:2 stands for; None if `word` is no such range. Raises: BadParameter if the range is empty."""
    parts = word.split(":") if isinstance(word, str) else []
    if len(parts) not in (2, 3):
        return None
    try:
        numbers = range(*map(int, parts))
    except ValueError:
        return None
    if not 0 < len(numbers[: MOST_NUMBERS + 1]) <= MOST_NUMBERS:
        what = f"has more than {MOST_NUMBERS:,} numbers" if numbers else "is empty"
        raise BadParameter(f"the range {word} {what}: write START:STOP with START below STOP, such as 0:5")
    return list(numbers)


class Quoted(str):
    """A text that stands in quotes where it was written: no number, and not None, unless the notebook's type says so."""


def typed(written: Any, kind: Any) -> Any:
    """What is written, as a value of `kind`, item by item. A text that cannot be one is read as JSON or Python reads it, or stays.

    In a union the types are tried in their order, `str` last. None: any kind.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        members = [str] if str in args and isinstance(written, Quoted) else sorted(args, key=lambda member: member is str)
        values = (typed(written, member) for member in members)
        return next((value for value, member in zip(values, members, strict=True) if _is(value, member)), written)
    if isinstance(written, list):
        return [typed(item, args[0] if origin is list else None) for item in written]
    if isinstance(written, dict):
        return {str(key): typed(item, args[1] if origin is dict else None) for key, item in written.items()}
    if not isinstance(written, str):
        return float(written) if kind is float and type(written) is int else written
    if kind is NoneType:
        return None if written in ("null", "None") else written
    if kind is str or (kind is None and isinstance(written, Quoted)):
        return str(written)
    for reader in (*((kind,) if kind in (int, float) else ()), json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            value = reader(written)
            return typed(value, kind) if isinstance(value, list | dict) else value
    return str(written)


def check(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values, unchanged; only whole numbers become floats where the notebook states a float, arrays and ranges become lists, and the
    ~ of a folder becomes the home folder.

    Raises: BadParameter if there is no such parameter (the message names the nearest), a value has the wrong type, or a list names
    something twice.
    """
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise BadParameter(f"there is no parameter {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        kind, value = type_of(known[name]), plain(value)
        value = os.path.expanduser(value) if name in LOCATIONS and isinstance(value, str) else value
        checked[name] = float(value) if kind is float and type(value) is int else value
        if not _is(checked[name], kind):
            expected = known[name].annotation or "None, a number, a text, or a list or dict of them"
            expected += f", such as {known[name].default}" if known[name].default else ""
            raise BadParameter(f"parameter {name!r} is {value!r}, of type {type(value).__name__}: it must be {expected}")
        counts = Counter(map(repr, value if isinstance(value, list) else []))
        if repeated := [item for item, count in counts.items() if count > 1]:
            raise BadParameter(f"parameter {name!r} names {repeated[0]} twice: name it once, or its runs would count as independent ones")
    return checked


def plain(value: Any) -> Any:
    """The value with ranges, tuples and what NumPy and torch have in place of numbers and lists as Python's own."""
    value = value.tolist() if isinstance(value, numpy.ndarray | numpy.generic | Tensor) else value
    return [plain(item) for item in value] if isinstance(value, list | tuple | range) else value


def type_of(parameter: Parameter) -> Any:
    """The type that the annotation means; None if there is no annotation. Raises: BadParameter if it is none that a file can hold."""
    if not parameter.annotation:
        return None
    try:  # the text of the user's own notebook, which is about to be executed
        kind = eval(parameter.annotation, {"__builtins__": {}}, TYPES)
        assert all(get_args(each)[0] is str for each in (kind, *get_args(kind)) if get_origin(each) is dict), "JSON has no other keys"
    except Exception as error:
        raise BadParameter(f"parameter {parameter.name!r} has the type {parameter.annotation}: this command knows {ALLOWED}") from error
    return kind


def _is(value: Any, kind: Any) -> bool:
    """Whether `value` is of `kind`. None: any that a file holds as it is, and a kernel gets as it is."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is(value, member) for member in args)
    if kind is None:
        return any(_is(value, each) for each in (NoneType, *TYPES.values()))
    if list in (kind, origin):
        return type(value) is list and all(_is(item, args[0] if args else None) for item in value)
    if dict in (kind, origin):
        return type(value) is dict and all(type(key) is str and _is(item, args[1] if args else None) for key, item in value.items())
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return isinstance(value, str) if kind is str else type(value) is kind
