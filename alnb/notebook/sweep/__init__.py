"""Sweeps of a notebook over strategies, seeds and its other parameters.

`grid` says which cells there are, `cell` executes one, `engine` hands them out, `table` shows them, `cluster` reaches other machines.
"""

from alnb.notebook.sweep.engine import Sweep, sweep
from alnb.notebook.sweep.grid import read_file, read_words
