"""Widgets for JupyterLab: `Labeller`, to label a folder of images by keys."""

from alnb.widgets.labeller import Labeller

__all__ = ["Labeller"]
