"""Widgets for JupyterLab and Voilà: `Explorer` steps through active learning, `Labeller` labels a folder of images by keys."""

from alnb.widgets.explorer.widget import Explorer
from alnb.widgets.labeller.widget import Labeller

__all__ = ["Explorer", "Labeller"]
