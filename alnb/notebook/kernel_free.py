"""Executing a notebook without Jupyter: its code cells as one Python program, on a machine that has torch and little else.

The cells tagged `report` are left out: they only show results, and may import what is missing here. The run folders are the same as
with a kernel, so a later execution with Jupyter finds them complete.
"""

import copy
import io
import linecache
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from alnb.notebook import parameters
from alnb.notebook.cells import BATCH
from alnb.notebook.execute import NotebookFailed
from alnb.notebook.parameters import CodeCell
from alnb.store.stop import TimeIsUp


def execute(path: Path, values: Mapping[str, Any]) -> None:
    """Execute all cells of the notebook at `path` but those tagged `report`. Output goes where this process's output goes.

    Raises: BadParameter before anything runs; NotebookFailed if a cell raised an error, whose traceback was printed; TimeIsUp if it was
    asked to stop.
    """
    checked = parameters.check(values, parameters.read(path))
    before = os.environ.get(BATCH)
    os.environ[BATCH] = "1"
    try:
        _execute(path, (cell for cell in parameters.code_cells(path) if "report" not in cell.tags), checked)
    finally:
        os.environ.pop(BATCH) if before is None else os.environ.update({BATCH: before})


def examine(path: Path, values: Mapping[str, Any]) -> None:
    """Execute only the cells tagged `parameters` and `check`: they say what is wrong with parameters before anything starts.

    Raises: BadParameter if a name or a type is wrong; NotebookFailed if a cell raised an error, which is its `reason`.
    """
    checked = parameters.check(values, parameters.read(path))
    with redirect_stdout(io.StringIO()):
        _execute(path, (cell for cell in parameters.code_cells(path) if {"parameters", "check"} & set(cell.tags)), checked, quiet=True)


def _execute(path: Path, cells: Iterable[CodeCell], values: Mapping[str, Any], *, quiet: bool = False) -> None:
    module = ModuleType("__main__")  # as in a kernel, so the notebook's functions get the same fingerprints in both
    with ExitStack() as stack:
        stack.callback(sys.modules.update, {"__main__": sys.modules["__main__"]})
        sys.modules["__main__"] = module
        for cell in cells:
            name = f"<cell [{cell.number}] of {path.name}>"
            text = cell.text.removesuffix("\n") + "\n"  # as in a kernel
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # for tracebacks and fingerprints
            try:
                exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
            except TimeIsUp:
                raise
            except SystemExit as error:  # sys.exit() ends the notebook, as with papermill
                if error.code in (None, 0):
                    return
                raise _failed(cell, path, error) from error
            except Exception as error:
                if not quiet:
                    traceback.print_exc()
                raise _failed(cell, path, error) from error
            if "parameters" in cell.tags:
                module.__dict__.update(copy.deepcopy(dict(values)))


def _failed(cell: CodeCell, path: Path, error: BaseException) -> NotebookFailed:
    kind, reason = type(error).__name__, f"{error}{_remedy(error)}"
    return NotebookFailed(f"cell [{cell.number}] of {path} raised {kind}: {reason}", kind, reason)


def _remedy(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return "; without Jupyter only plain Python runs: tag the cell `report` if it only shows results"
    if isinstance(error, ImportError) and error.name:
        return f"; install {error.name.partition('.')[0]}, or tag the cell `report` if it only shows results"
    return ""
