"""Widgets for JupyterLab and Voilà: `Explorer` steps through active learning, `Labeller` labels a folder of images by keys."""

from alnb.widgets.explorer import Explorer
from alnb.widgets.labeller import Labeller

__all__ = ["Explorer", "Labeller"]
