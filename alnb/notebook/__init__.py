"""Notebooks as programs: `parameters` reads and checks them, `execute` and `kernel_free` run them, `sweep` runs grids of them.

These names are for the code cells of notebooks: ``from alnb import notebook``.
"""

from alnb.notebook.cells import check, choose, device, follow, interactive, not_negative, page, progress, within
from alnb.notebook.parameters import BadParameter
