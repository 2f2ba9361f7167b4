"""Executing a notebook by papermill: parameters are checked first, progress is visible, nothing half-done looks finished."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from alnb import store
from alnb.notebook import parameters
from alnb.notebook.cells import BATCH

PACKAGE = Path(__file__).parents[2]  # the folder from which this package is imported
# Without papermill's progress bar, the warning about TCP on this machine alone, and the error when the kernel is ended.
OPTIONS: Mapping[str, Any] = {
    "kernel_name": "python3", "progress_bar": False, "coalesce_streams": True, "store_widget_state": False,
    "extra_arguments": ["--IPKernelApp.log_level=50"],
}  # fmt: skip


def runs_folder(values: Mapping[str, Any]) -> Path:
    """The folder of the runs of a notebook with these parameters: an absolute path, for workers that started in another folder."""
    return Path(values.get("runs") or store.workspace() / "runs").expanduser().absolute()


class NotebookFailed(Exception):
    """A cell raised an error, or the kernel died."""

    def __init__(self, message: str, kind: str = "", reason: str = "") -> None:
        """`kind` and `reason`: the type's name and the message of the error in the notebook."""
        super().__init__(message)
        self.kind, self.reason = kind, reason


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
    """Execute the notebook at `path` and return the path of its executed copy.

    While it runs the copy is named `….running.ipynb`. When the last cell has ended it gets its own name; when a cell raises, the name
    `….failed.ipynb`. Records are in their run folders, so a second execution continues where the first one ended.

    Args:
        output: where the copy goes; None: NAME/notebooks/ in the folder of the runs.
        environment: variables for the kernel, added to those of this process.
        folder: the kernel's working folder; None: that of this process.
        log: where the kernel's output goes while it runs; None: to standard output and error.
        started: called once the kernel runs, with its manager of jupyter_client, in the thread that executes.
    Raises:
        BadParameter: before anything runs.
        NotebookFailed: the message names the cell, the error, and the copy that holds the traceback.
    """
    import papermill

    checked = parameters.check(values, parameters.read(path))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = output or runs_folder(values) / path.stem / "notebooks" / f"{stamp}-{os.getpid()}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    running, failed = (output.with_suffix(f".{state}.ipynb") for state in ("running", "failed"))
    manager = _manager({BATCH: "1", "PYTHONPATH": python_path(), **(environment or {})}, started)
    options = {**OPTIONS, "kernel_manager_class": manager, "stdout_file": log or sys.stdout, "stderr_file": log or sys.stderr}
    names = (str(name).replace("{", "{{").replace("}", "}}") for name in (path, running))  # papermill formats them
    try:
        papermill.execute_notebook(*names, parameters=checked, cwd=folder and str(folder), **options)
    except BaseException as error:
        if running.exists():
            running.replace(failed)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise _failure(error, path, failed) from error
    return running.replace(output)


def _failure(error: BaseException, path: Path, copy: Path) -> BaseException:
    """What to raise when papermill raised `error`: nbclient's DeadKernelError, for example, or the error of a cell."""
    import papermill

    if not isinstance(error, papermill.PapermillExecutionError):
        message = f"{path} was not finished: {type(error).__name__}: {error}\nThe copy so far is {copy}"
        return NotebookFailed(message, type(error).__name__, str(error))
    if error.ename == "KeyboardInterrupt":
        return KeyboardInterrupt()
    message = f"cell [{error.exec_count}] of {copy}, the executed copy of {path}, raised {error.ename}: {error.evalue}"
    return NotebookFailed(message, error.ename, error.evalue)


def python_path() -> str:
    """PYTHONPATH with this package first. Otherwise a folder called alnb in the working folder, such as a clone's, would hide it."""
    return os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))


def _manager(environment: Mapping[str, str], started: Callable[[Any], None] | None) -> type:
    """A kernel manager whose kernel has its own environment: one process starts several kernels side by side."""
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def _async_start_kernel(self, **options: Any) -> None:
            await super()._async_start_kernel(**{**options, "env": {**os.environ, **environment}})
            if started is not None:
                started(self)

        start_kernel = _async_start_kernel  # as the base class does

    return Manager
