"""Widgets for JupyterLab and Voilà: `Explorer` steps through active learning, `Labeller` labels a folder of images."""

from alnb.widgets.explorer.controls import Choices
from alnb.widgets.explorer.widget import Explorer
from alnb.widgets.labeller.rounds import Settings
from alnb.widgets.labeller.widget import Labeller
