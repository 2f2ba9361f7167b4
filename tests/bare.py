"""A Python where certain packages are not importable, in this process's children."""

from collections.abc import Iterable
from pathlib import Path

JUPYTER = ("papermill", "IPython", "ipykernel", "nbclient", "nbformat", "jupyter_client", "ipywidgets", "anywidget", "traitlets")
LITTLE_ELSE = (
    *JUPYTER, "pandas", "pyarrow", "tqdm", "yaml", "scipy", "sklearn", "matplotlib", "seaborn", "jaxtyping", "distributed", "dask",
    "psutil", "rich", "threadpoolctl",
)  # fmt: skip
# of this project's packages, what the machine with a GPU lacks, or may lack
NOT_ON_LOAN = (
    *JUPYTER, "jupyter_core", "jupyterlab", "voila", "jscatter", "openTSNE", "pyarrow", "distributed", "dask", "bokeh", "beartype",
    "importlinter", "playwright", "skactiveml", "rich", "psutil",
)  # fmt: skip
SITE = """\
import sys
from importlib.machinery import PathFinder


class Refusing:
    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)

    def exec_module(self, module):
        raise AssertionError


found = PathFinder.find_spec


def find_spec(cls, name, path=None, target=None):
    top = name.partition(".")[0]
    spec = None if top in GONE and top != "sklearn" else found(name, path, target)
    if spec is not None and top == "sklearn" and top in GONE:  # it cannot be imported, yet the digits are read from its folder
        spec.loader = Refusing()
    return spec


PathFinder.find_spec = classmethod(find_spec)  # itself: jaxtyping looks for it among the finders
"""


def site_without(packages: Iterable[str], folder: Path) -> Path:
    """A folder for PYTHONPATH, below `folder`, with which `packages` are missing."""
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(f"GONE = {tuple(packages)!r}\n{SITE}")
    return folder / "site"
