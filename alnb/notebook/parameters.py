"""The parameters of a notebook: annotated assignments in its cell tagged `parameters`, and checks of values before anything runs.

They are read without papermill, whose own inspection does not understand ``str | None`` or a # within a string.
"""

import ast
import difflib
import io
import json
import math
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from alnb import store

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


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
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        pairs = [(text, tuple(cell["metadata"].get("tags", ()))) for cell in cells if (text := "".join(cell["source"])).strip()]
        return [CodeCell(k, text, tags) for k, (text, tags) in enumerate(pairs, start=1)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadParameter(f"{path} is not a notebook ({error!r}): give the path of an .ipynb file") from error


def digest(path: Path) -> str:
    """Digest of the notebook's code. The cells tagged `parameters` and `report` do not count."""
    return store.fingerprint([cell.text for cell in code_cells(path) if not {"report", "parameters"} & set(cell.tags)])


def read(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, by name, in the order in which they are written.

    Raises: BadParameter if it is missing, is not a notebook, or has no cell tagged `parameters`.
    """
    tagged = [cell.text for cell in code_cells(path) if "parameters" in cell.tags]
    if not tagged:
        raise BadParameter(f"{path} has no parameters: tag the cell that holds the defaults `parameters`")
    return {parameter.name: parameter for parameter in _assignments(tagged[0])}


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

    Several words make a list. One word makes a list where the notebook states a list.

    Raises: BadParameter if a name is unknown or appears twice, or a value is missing or has the wrong type.
    """
    values: dict[str, Any] = {}
    for name, *words in entries:
        if name in values:
            raise BadParameter(f"parameter {name!r} is given twice: give it once, with all its values")
        if not words:
            raise BadParameter(f"parameter {name!r} has no value: write -p {name} VALUE")
        kind = type_of(known[name]) if name in known else None
        is_list = get_origin(kind) is list
        if is_list and not (len(words) == 1 and words[0].startswith("[")):
            of = get_args(kind)[0]
            values[name] = [item for word in words for item in (integers(word) if of is int else None) or [_value(word, of)]]
        else:
            values[name] = _value(words[0], kind) if len(words) == 1 else [_value(word, kind) for word in words]
    return check(values, known)


def integers(word: str) -> list[int] | None:
    """The whole numbers that 0:5 or 0:10:2 stands for; None if `word` is no such range. Raises: BadParameter if the range is empty."""
    parts = word.split(":")
    if len(parts) not in (2, 3):
        return None
    try:
        numbers = list(range(*map(int, parts)))
    except ValueError:
        return None
    if not numbers:
        raise BadParameter(f"the range {word} is empty: write START:STOP with START below STOP, such as 0:5")
    return numbers


def _value(word: str, kind: Any) -> Any:
    """A word as a value of `kind` if it can be one, otherwise as JSON or Python reads it, otherwise as it is: see `check`."""
    if kind is str:
        return word
    for reader in (*((kind,) if kind in (int, float) else ()), json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            return reader(word)
    return word


def check(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values, unchanged; only whole numbers become floats where the notebook states a float.

    Raises: BadParameter if there is no such parameter (the message names the nearest), a value has the wrong type, or a list names
    something twice.
    """
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise BadParameter(f"there is no parameter {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        kind = type_of(known[name])
        checked[name] = float(value) if kind is float and type(value) is int else value
        if kind is not None and not _is(checked[name], kind):
            expected = f"{known[name].annotation}, such as {known[name].default}"
            raise BadParameter(f"parameter {name!r} is {value!r}, of type {type(value).__name__}: it must be {expected}")
        repeated = [item for k, item in enumerate(value) if item in value[:k]] if isinstance(value, list) else []
        if repeated:
            raise BadParameter(f"parameter {name!r} names {repeated[0]!r} twice: name it once, or its runs would count as independent ones")
    return checked


def type_of(parameter: Parameter) -> Any:
    """The type that the annotation means; None if there is no annotation."""
    if not parameter.annotation:
        return None
    try:  # the text of the user's own notebook, which is about to be executed
        return eval(parameter.annotation, {"__builtins__": {}}, TYPES)
    except Exception as error:
        allowed = "int, float, str, bool, list[…], dict[str, …], and … | None"
        raise BadParameter(f"parameter {parameter.name!r} has the type {parameter.annotation}: this command knows {allowed}") from error


def _is(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is(value, member) for member in args)
    if origin is list:
        return isinstance(value, list) and all(_is(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(key, args[0]) and _is(item, args[1]) for key, item in value.items())
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return value is None if kind in (None, NoneType) else type(value) is kind


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest of the `known` names, in brackets; "" if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
