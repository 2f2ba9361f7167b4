"""Sweeps of a notebook over strategies, seeds and whatever else it has as parameters.

`grid` says which cells there are, `cell` executes one of them, `engine` hands them out, `table` shows them, `cluster` reaches beyond this
machine.
"""

from alnb.notebook.sweep.engine import Sweep, Workers, sweep
from alnb.notebook.sweep.grid import read_file, read_words

__all__ = ["Sweep", "Workers", "read_file", "read_words", "sweep"]
