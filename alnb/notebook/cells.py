"""What the code cells of notebooks use: checks of parameters, and progress bars."""

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from alnb.learn.train import Report
from alnb.notebook import parameters
from alnb.notebook.parameters import BadParameter, Parameter
from alnb.store.checks import nearest

BATCH = "ALNB_BATCH"  # "1" while a notebook is executed by `alnb run` or a sweep, so that nobody can click


def check(values: Mapping[str, Any]) -> None:
    """Check the parameters of a notebook against their annotations, as `alnb run` does before it starts: papermill alone does not.

    `values`: `globals()` of the notebook. Raises: BadParameter, as `parameters.check`.
    """
    kinds = values.get("__annotations__", {})
    texts = {name: kind.__name__ if type(kind) is type else str(kind) for name, kind in kinds.items() if name in values}
    known = {
        name: Parameter(name, text, "", "") for name, text in texts.items() if set(re.findall(r"\w+", text)) <= {*parameters.TYPES, "None"}
    }
    parameters.check({name: values[name] for name in known}, known)


def choose(table: Mapping[str, Any], names: str | Iterable[str], what: str) -> dict[str, Any]:
    """The entries of `table`, such as `STRATEGIES`, with these names. `what`: a word for one entry, used in messages.

    Raises: BadParameter if a name is not in the table, or there are no names. The message lists the table's names.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise BadParameter(f"no {what} is named: name one or more of {', '.join(table)}")
    for name in names:
        if name not in table:
            raise BadParameter(f"{what} {name!r} is not known: there are {', '.join(table)}{nearest(name, table)}")
    return {name: table[name] for name in names}


def not_negative(**values: int) -> None:
    """Raises: BadParameter if a number is below 0. The message names each such number."""
    below = [f"{name} is {value}" for name, value in values.items() if value < 0]
    if below:
        raise BadParameter(f"{', '.join(below)}: give 0, or more")


def device(name: str) -> str:
    """The device as torch names it. "" means "cuda" if there is a GPU, otherwise "cpu". Raises: BadParameter if there is no such device."""
    import torch

    try:
        chosen = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise BadParameter(f"device is {name!r}: it must be cpu, cuda, a certain GPU such as cuda:1, or empty") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BadParameter(f"device is {name!r}, but torch finds no GPU on this machine: leave it empty, or say cpu")
    return str(chosen)


def interactive() -> bool:
    """Whether a person may be looking: False while `alnb run` or a sweep executes the notebook."""
    return os.environ.get(BATCH) != "1"


def page() -> bool:
    """Whether Voilà serves the notebook as a page without code."""
    return "VOILA_SERVER_URL" in os.environ


def progress(total: int, description: str) -> Any:
    """A progress bar of tqdm: a widget in Jupyter, text in a terminal and in the log of `alnb run` or of a sweep."""
    try:
        from tqdm import auto, std
    except ImportError:
        return _Lines(total, description)
    batch = not interactive()
    return (std if batch else auto).tqdm(total=total, desc=description, mininterval=0.5 if batch else 0.1, dynamic_ncols=not batch)


@dataclass
class _Lines(AbstractContextManager["_Lines"]):
    """A line every five seconds, for machines without tqdm."""

    total: float
    description: str
    n: float = 0
    postfix: str = ""
    shown: float = -math.inf

    def update(self, n: float = 1) -> None:
        self.n += n
        if time.monotonic() - self.shown > 5:
            self.show()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self.postfix = text

    def show(self) -> None:
        self.shown = time.monotonic()
        print(f"{self.description}: {self.n:g} of {self.total:g} {self.postfix}", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        self.show()


def follow(bar: Any) -> Report:
    """A `report` for `pretrain`: the bar counts the updates and shows the loss."""

    def report(done: int, updates: int, loss: float) -> None:
        bar.total = updates
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        bar.update(done - bar.n)

    return report


def within(bar: Any) -> Report:
    """A `report` for `cycles`: the bar, which counts cycles, shows the updates and the loss of the present training."""

    def report(done: int, updates: int, loss: float) -> None:
        bar.set_postfix_str(f"update {done} of {updates}, loss {loss:.3f}", refresh=False)
        bar.update(0)

    return report
