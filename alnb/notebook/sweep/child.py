"""The process that executes a cell without Jupyter: ``python -m alnb.notebook.sweep.child FOLDER PARENT``."""

import os
import sys
import threading
import time
from pathlib import Path

from alnb import store
from alnb.notebook import kernel_free
from alnb.notebook.execute import NotebookFailed
from alnb.notebook.parameters import BadParameter
from alnb.store.stop import TimeIsUp

ORPHANED = 3  # exit status of a process whose parent is gone


def main(folder: Path, parent: int) -> int:
    """Execute what `values.json` in the cell's folder says, and write the error, or "", to `outcome.json`."""
    threading.Thread(target=follow, args=(parent,), daemon=True).start()
    work = store.read_json(folder / "values.json")
    kind = reason = ""
    try:
        kernel_free.execute(Path(work["notebook"]), work["values"])
    except NotebookFailed as error:
        kind, reason = error.kind, error.reason
    except (BadParameter, TimeIsUp) as error:
        kind, reason = type(error).__name__, str(error)
    store.write_json(folder / "outcome.json", {"kind": kind, "reason": reason})
    return 0


def follow(parent: int) -> None:
    """End this process once its parent is gone, so that another process can continue its runs. As after a kill, nothing is lost."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
