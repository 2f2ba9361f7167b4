"""A notebook's experiment without Jupyter: its code cells as one plain Python program, on a machine that has torch and little else.

All code cells are executed in order but those tagged `report`, which show results and may import what is not there. The run folders
are those that a kernel would have written: a notebook that is executed later finds them complete.
"""

from __future__ import annotations

import copy
import linecache
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from alnb.notebook import BATCH, NotebookFailed, Source, check, parameters, sources
from alnb.store.stop import TimeIsUp


def execute(path: Path, values: Mapping[str, Any]) -> None:
    """Do what the notebook at `path` does with checked parameters, up to where it begins to report. Output goes where this process's goes.

    Raises:
        BadParameter: before anything runs.
        NotebookFailed: a cell raised; the traceback was printed.
        pause.TimeIsUp: a cell was stopped as asked for.
    """
    checked = check(values, parameters(path))
    before = os.environ.get(BATCH)
    os.environ[BATCH] = "1"
    try:
        _execute(path, (cell for cell in sources(path) if "report" not in cell.tags), checked)
    finally:
        os.environ.pop(BATCH) if before is None else os.environ.update({BATCH: before})


def examine(path: Path, values: Mapping[str, Any]) -> None:
    """Execute the cells with the parameters and those tagged `check`, which say what is wrong with parameters before anything is begun.

    Raises:
        BadParameter: a name or a type is wrong.
        NotebookFailed: a cell raised; its `reason` says what is wrong with which parameter.
    """
    checked = check(values, parameters(path))
    _execute(path, (cell for cell in sources(path) if {"parameters", "check"} & set(cell.tags)), checked, quiet=True)


def _execute(path: Path, cells: Iterable[Source], values: Mapping[str, Any], *, quiet: bool = False) -> None:
    with _main(quiet) as module:
        for cell in cells:
            name = f"<cell {cell.number} of {path.name}>"
            text = cell.text if cell.text.endswith("\n") else f"{cell.text}\n"  # as a kernel has it
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # for tracebacks and fingerprints
            try:
                exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
            except TimeIsUp:
                raise
            except SystemExit as error:  # as papermill takes it
                if error.code in (None, 0):
                    return
                raise _failed(cell, path, error) from error
            except Exception as error:
                if not quiet:
                    traceback.print_exc()
                raise _failed(cell, path, error) from error
            if "parameters" in cell.tags:
                module.__dict__.update(copy.deepcopy(dict(values)))


def _failed(cell: Source, path: Path, error: BaseException) -> NotebookFailed:
    kind, reason = type(error).__name__, f"{error}{_remedy(error)}"
    return NotebookFailed(f"cell {cell.number} of {path} raised {kind}: {reason}", kind, reason)


def _remedy(error: BaseException) -> str:
    """What helps where a cell is none for a plain program."""
    if isinstance(error, SyntaxError):
        return "; without Jupyter only plain Python runs: tag the cell `report` if it only shows results"
    if isinstance(error, ImportError) and error.name:
        return f"; install {error.name.partition('.')[0]}, or tag the cell `report` if it only shows results"
    return ""


@contextmanager
def _main(quiet: bool) -> Iterator[ModuleType]:
    """A fresh `__main__`, as a kernel has one, so that functions of the notebook are described alike in both."""
    module, before, out = ModuleType("__main__"), sys.modules["__main__"], sys.stdout
    sys.modules["__main__"] = module
    try:
        with open(os.devnull, "w") as nowhere:
            sys.stdout = nowhere if quiet else out
            yield module
    finally:
        sys.modules["__main__"], sys.stdout = before, out
