"""What a user chooses in the explorer, and its menus, number fields and buttons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from alnb.data import DATASETS
from alnb.widgets.explorer.pictures import ITERATIONS

NUMBERS = ("initial", "budget", "cycles")
FIGURE_4 = "as in Figure 4"  # a toggle button
BUTTONS = {
    "open": "open the runs of these choices", "step": "compute the next cycle", "run to the end": "compute all cycles that are left",
    "stop": "stop computing; finished cycles are saved", "reset": "go back to before the first cycle; records are kept",
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """What a user chooses in the explorer. The numbers default to those of the scale."""

    dataset: str = "digits"  # a name of `data.DATASETS`, or a folder of images in class sub-folders
    arm: str = "warm"  # how the net starts: one of the factory's `ARMS`
    strategy: str = "entropy"  # one of the factory's `STRATEGIES`
    beside: str = ""  # a second strategy to compare with; "": none
    scale: str = "laptop"  # one of the factory's `SCALES`
    seed: int = 0  # of the runs
    embedding: str = "rotation"  # features for the layout: one of the factory's `EMBEDDINGS`
    initial: int = 0  # labels of cycle 0; 0: as the scale says
    budget: int = 0  # labels of each later cycle; 0: as the scale says
    cycles: int = 0  # 0: as the scale says

    @property
    def strategies(self) -> list[str]:
        """The strategies to show side by side: one or two, all different."""
        return list(dict.fromkeys(name for name in (self.strategy, self.beside) if name))


class Browser(anywidget.AnyWidget):
    """Tells whether the browser can draw with WebGL, and returns the focus to a button that was switched off for a while."""

    _esm = Path(__file__).with_name("browser.js").read_text()
    webgl = traitlets.Unicode("unknown").tag(sync=True)  # "yes" or "no", once a browser shows it


def choice_controls(factory: Any, choices: Choices) -> dict[str, Any]:
    """A control for each field of `Choices`. An unknown value is offered too: opening it shows an error that names the known ones."""

    def menu(description: str, value: str, options: Sequence[str], empty: tuple[tuple[str, str], ...] = ()) -> ipywidgets.Dropdown:
        names = list(options) if value in options or not value else [*options, value]
        pairs = [*empty, *((name, name) for name in names)]
        return ipywidgets.Dropdown(options=pairs, value=value, description=description, layout=ipywidgets.Layout(width="230px"))

    dataset = ipywidgets.Combobox(
        options=[name for name in DATASETS if name != "folder"], value=choices.dataset, description="data set", ensure_option=False,
        placeholder="a name, or a folder of class folders", layout=ipywidgets.Layout(width="260px"),
    )  # fmt: skip
    style: dict[str, Any] = {"tooltip": "0: as the scale says", "layout": ipywidgets.Layout(width="170px")}
    return {
        "dataset": dataset,
        "arm": menu("start", choices.arm, factory.ARMS),
        "strategy": menu("strategy", choices.strategy, list(factory.STRATEGIES)),
        "beside": menu("compare", choices.beside, list(factory.STRATEGIES), (("(none)", ""),)),
        "scale": menu("scale", choices.scale, factory.SCALES),
        "embedding": menu("layout", choices.embedding, factory.EMBEDDINGS),
        "seed": ipywidgets.IntText(choices.seed, description="seed", layout=ipywidgets.Layout(width="180px")),
        **{name: ipywidgets.IntText(getattr(choices, name), description=name, **style) for name in NUMBERS},
    }


def buttons() -> dict[str, Any]:
    """The buttons by their names."""
    tip = f"show the queries of iterations {', '.join(map(str, ITERATIONS))} as circle, triangle, square, like Figure 4 of PT4AL"
    made: dict[str, Any] = {name: ipywidgets.Button(description=name, tooltip=text) for name, text in BUTTONS.items()}
    return made | {FIGURE_4: ipywidgets.ToggleButton(description=FIGURE_4, tooltip=tip)}
