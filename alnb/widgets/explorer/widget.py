"""Step through active learning in JupyterLab or Voilà: which images are asked for, where they lie, what was learned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from alnb import store
from alnb.acquire import STRATEGIES
from alnb.data import DATASETS
from alnb.papers import quickstart
from alnb.report import records
from alnb.report.layout import layout, suited
from alnb.report.queries import draw_queries
from alnb.store import stop as pause
from alnb.widgets.explorer import trail as exploration
from alnb.widgets.explorer.panel import Panel, close_all
from alnb.widgets.explorer.trail import Trail
from alnb.widgets.still import Still
from alnb.widgets.worker import TOLD, Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

NONE = "(none)"
SELECTED = 60  # images of a selection that are shown
DPI = 96
ITERATIONS = (1, 5, 10)  # of PT4AL's Figure 4


def _queries(trails: Sequence[Trail], layout: Tensor) -> str:
    """As Figure 4 of PT4AL, as far as the runs are."""
    images, iterations = trails[0].setting.train, [i for i in ITERATIONS if i <= len(trails[0].cycles)]
    title = "What was asked, by iteration"
    figure = draw_queries(layout, images.targets, exploration.queries(trails, iterations), images.classes, title, iterations)
    return _img(figure, f"{title}: circles, triangles and squares in the t-SNE plot")


def _img(figure: Figure, alt: str) -> str:
    return exploration.as_img(exploration.as_png(figure, DPI), alt)


PICTURES: dict[str, Callable[[Sequence[Trail], Tensor], str]] = {
    "progress": lambda trails, layout: _img(exploration.draw_progress(trails), "test accuracy against labels, and labels of each class"),
    "where": lambda trails, layout: _img(exploration.draw_where(trails[0], layout), "t-SNE plot of all images; those asked for are large"),
    "strip": lambda trails, layout: exploration.strip(trails[0]),
    "queries": _queries,
}


class Browser(anywidget.AnyWidget):
    """Asks the browser whether it can draw with WebGL, and has it give the focus back to a button that was switched off for a while."""

    _esm = Path(__file__).with_name("browser.js").read_text()
    webgl = traitlets.Unicode("unknown").tag(sync=True)  # "yes" or "no", once a browser shows it


class Explorer:
    """One run, or two side by side, a click at a time. What cannot be is told in the widget, in words, and nothing is overwritten."""

    def __init__(
        self,
        dataset: str = "digits",
        *,
        arm: str = "rotation",
        strategy: str = "entropy",
        beside: str = "",
        scale: str = "laptop",
        seed: int = 0,
        embedding: str = "rotation",
        initial: int = 0,
        budget: int = 0,
        cycles: int = 0,
        runs: Path | str | None = None,
        background: bool = True,
        **setting: Any,
    ) -> None:
        """Open the runs that the quickstart notebook would make with these choices, finished or not.

        Args:
            dataset: as of `data.load`. arm, scale, embedding: of `quickstart.ARMS`, `SCALES`, `EMBEDDINGS`.
            strategy, beside: of `acquire.STRATEGIES`; the second one is compared with the first; empty: none. seed: of the runs.
            runs: the folder of run folders; None: runs/quickstart in the project.
            background: compute in another thread, so that the kernel answers; False: now, as tests and batch executions want it.
            initial, budget, cycles: as of `quickstart.setting`, and chosen in the widget, too.
            setting: what else it takes: root, device, download, image_size, skip_bad.
        """
        self._place = Path(runs) if runs is not None else store.workspace() / "runs" / "quickstart"
        self._source = setting
        self._lock = threading.RLock()
        self._worker = Worker("alnb explorer", background=background, busy=self._busy, problem=self._tell_problem)
        self._shown = -1  # the cycle that is shown; -1: before the first
        self._known = -1  # the latest that may be shown: after a reset, fewer than are finished
        self.trails: list[Trail] = []
        self.panels: list[Panel] = []
        self._layout: Tensor | None = None
        self._still = Still(self._drawn_still)
        self._drawn: dict[tuple[Any, ...], str] = {}
        self._opened_with: dict[str, Any] = {}
        self._problem = ""
        self.choices = _choices(dataset, arm, strategy, beside, scale, seed, embedding)
        self.choices |= _numbers({"initial": initial, "budget": budget, "cycles": cycles})
        self.buttons = _buttons()
        self.slider = ipywidgets.IntSlider(
            0, 0, 0, description="cycle", disabled=True, tooltip="the cycle that is shown", layout=ipywidgets.Layout(width="320px")
        )
        self.bar = ipywidgets.FloatProgress(0, min=0, max=1, layout=ipywidgets.Layout(width="220px"))
        self.status, self.doing, self.problem, self.legend = (ipywidgets.HTML() for _ in range(4))
        self.progress, self.figure4, self.selected = (ipywidgets.HTML() for _ in range(3))
        self.browser = Browser()
        self._places = ipywidgets.HBox(layout=ipywidgets.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.view = self._arranged()
        self._connect()
        self.open()

    def open(self) -> None:
        """Find, or begin, the runs of what is chosen; a click on *open* does it too."""
        self._worker.do(self._opened, self._stopped)

    def step(self) -> None:
        """One cycle further, where something is open."""
        if self.trails:
            self._worker.do(lambda: self._go(1), self._stopped)

    def run(self) -> None:
        """To the end, where something is open."""
        if self.trails:
            self._worker.do(lambda: self._go(None), self._stopped)

    def stop(self) -> None:
        """Stop what is learned at its next update, and what is laid out likewise; what is complete is kept."""
        self._worker.stop()

    def reset(self) -> None:
        """Back to before the first cycle. Records are kept, so that cycles which are finished come again at once."""
        if self.trails:
            self._worker.do(self._restarted, self._stopped)

    def close(self) -> None:
        """Stop, and let go of what the browser shows; records are kept."""
        self.stop()
        self._worker.wait()
        with self._lock:
            self._still.close()
            for panel in self.panels:
                panel.close()
            self.trails, self.panels = [], []
            close_all(self.view)

    def wait(self) -> Explorer:
        """Itself, once what it does in the background is done.

        Raises:
            ValueError: something could not be done; it says why, as the widget does.
        """
        self._worker.wait()
        if self.problem.value:
            raise ValueError(self._problem)
        return self

    @property
    def cycle(self) -> int:
        """The cycle that is shown; -1: before the first."""
        return self._shown

    @property
    def title(self) -> str:
        """What is shown, in words."""
        return self._title() if self.trails else self._problem

    @property
    def name(self) -> str:
        """What is open, for the name of a file."""
        trail = self.trails[0]
        told = [trail.setting.train.name, trail.arm.replace(" ", "_"), *(one.strategy for one in self.trails), str(trail.seed)]
        return "-".join([*told, trail.setting.scale])

    def frame(self) -> DataFrame | str:
        """The records of what is open, as `report.save` takes them."""
        found = [(trail.run, trail.columns) for trail in self.trails if trail.cycles]
        return records.frame(found) if found else "no cycle is finished"

    def overview(self) -> Figure:
        """What is shown, as a figure for readers without a kernel.

        Raises:
            ValueError: nothing is open.
        """
        if self._layout is None or not self.trails:
            raise ValueError(self._problem or "nothing is open yet: wait() for it")
        return exploration.draw_overview(self._visible(), self._layout, self._title())

    def picture(self) -> None:
        """Display what `overview` draws, in the cell that calls it; drawn anew when something was done: readers without a kernel see it."""
        self._still.display()

    def _drawn_still(self) -> tuple[bytes, str] | None:
        with self._lock:
            if not self.trails or self._worker.working:
                return None
            return exploration.as_png(self.overview(), DPI), self._title()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)

    # ---- how it is built ---------------------------------------------------------------------------------------------------

    def _arranged(self) -> ipywidgets.Widget:
        wrap = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        rows = [
            ipywidgets.HBox([*self.choices.values(), self.buttons["open"]], layout=wrap),
            ipywidgets.HBox([*(b for n, b in self.buttons.items() if n != "open"), self.slider], layout=wrap),
            ipywidgets.HBox([self.bar, self.doing], layout=wrap),
            self.status, self.problem, self.legend, self._places, self.progress, self.figure4, self.selected, self.browser,
        ]  # fmt: skip
        box = ipywidgets.VBox(rows, layout=ipywidgets.Layout(width="100%", padding="4px"))
        box.add_class("alnb-explorer")
        return box

    def _connect(self) -> None:
        for name, what in {
            "open": self.open,
            "step": self.step,
            "run to the end": self.run,
            "stop": self.stop,
            "reset": self.reset,
        }.items():
            self.buttons[name].on_click(lambda _, what=what: what())
        for choice in self.choices.values():
            choice.observe(lambda _: self._chosen(), "value")
        self.buttons["as in Figure 4"].observe(lambda _: self._looked(self._redraw), "value")
        self.slider.observe(lambda change: self._looked(lambda: self._slide(change.new)), "value")
        self.browser.observe(lambda _: self._looked(self._redraw), "webgl")

    def _looked(self, look: Callable[[], None]) -> None:
        """Show something else; what goes wrong is told."""
        with self._lock:
            try:
                look()
            except TOLD as error:
                self._tell_problem(str(error))

    def _slide(self, k: int) -> None:
        if self.trails and k != self._shown and 0 <= k <= self._known:
            self._shown = k
            self._redraw()
            self._still.rest()

    def _chosen(self) -> None:
        """Something else was chosen than what is open: that would be stepped no more."""
        if not self._worker.working:
            self._busy(False)
            if self.trails and self._told() != self._opened_with:
                self._say("Press <i>open</i> for what is chosen now.")

    def _told(self) -> dict[str, Any]:
        return {name: choice.value for name, choice in self.choices.items()}

    # ---- work that takes its time ------------------------------------------------------------------------------------------

    def _stopped(self) -> None:
        self._say(f"Stopped. What is complete is kept; <i>{'step' if self.trails else 'open'}</i> goes on from there.")

    def _busy(self, busy: bool) -> None:
        for name, button in self.buttons.items():
            button.disabled = not busy if name == "stop" else busy
        for name in ("step", "run to the end"):
            ended = not self.trails or self._known == self.trails[0].setting.cycles - 1
            self.buttons[name].disabled = busy or ended or self._told() != self._opened_with
        self.buttons["reset"].disabled = busy or self._known < 0
        for choice in self.choices.values():
            choice.disabled = busy
        self.bar.value, self.bar.layout.visibility = 0, "visible" if busy else "hidden"
        if not busy:
            self._still.rest()

    def _opened(self) -> None:
        """Everything that is chosen: images, what is learned from them without labels, their layout, the runs."""
        told = self._told()
        with self._lock:
            self._cleared()
            self._opened_with = told
        self._say("Reading the images …")
        numbers = {name: told[name] for name in ("initial", "budget", "cycles")}
        setting = quickstart.setting(told["data set"], told["scale"], **numbers, **self._source)
        names = list(dict.fromkeys(name for name in (told["strategy"], told["beside"]) if name != NONE))
        quickstart.check(setting, told["start"], names, told["laid out by"])
        pause.check("before learning")
        self._say(f"Learning from all {len(setting.train):,} images, once …")
        start = quickstart.start(setting, told["start"], runs=self._place, report=self._report)
        trails = [Trail(setting, start, name, told["seed"], self._place) for name in names]
        features = quickstart.features(setting, told["laid out by"], runs=self._place, report=self._report)
        pause.check("before the layout")
        self._say(f"Laying out {len(features):,} images (t-SNE), once …")
        positions = layout(features, perplexity=suited(len(features)), cache=self._place / "layouts")
        pause.check("before anything is shown")
        finished = min(trail.last for trail in trails)
        with self._lock:
            self._layout, self.trails = positions, trails
            self.panels = [Panel(trail, positions, lambda images: self._looked(lambda: self._picked(images))) for trail in trails]
            self.legend.value = exploration.legend(setting.train.classes)
            for k in range(-1, finished):
                self._picture("progress", [trail.until(k) for trail in trails])
            self._to(finished)
            self._places.children = [panel.view for panel in self.panels]  # with what they show: a plot that still opens drops what comes
        whole = finished == setting.cycles - 1
        self._say(f"Found finished up to cycle {finished}; <i>reset</i> goes back to the beginning." if whole else "")

    def _cleared(self) -> None:
        """Nothing is open, and nothing is shown of what was."""
        for panel in self.panels:
            panel.close()
        self.trails, self.panels, self._layout, self._drawn, self._known, self._shown = [], [], None, {}, -1, -1
        self._places.children = ()
        for shown in (self.status, self.legend, self.progress, self.figure4, self.selected):
            shown.value = ""
        self.slider.disabled, self.slider.max, self.slider.value = True, 0, 0

    def _restarted(self) -> None:
        self._to(-1, known=-1)
        self._say("Cycles that are finished come again from their records." if self.trails[0].cycles else "")

    def _go(self, cycles: int | None) -> None:
        """Add so many cycles to each run, or all; those that are finished are shown one after the other."""
        end = self.trails[0].setting.cycles if cycles is None else min(self._known + 1 + cycles, self.trails[0].setting.cycles)
        while self._known + 1 < end:
            began, computed = time.perf_counter(), False
            for trail in self.trails:
                while len(trail.cycles) <= self._known + 1:
                    self._say(f"Cycle {self._known + 1}, {trail.strategy.replace('_', ' ')}: asking and training …")
                    self.bar.value, computed = 0, True
                    trail.advance(self._report)
            self._to(self._known + 1, took=time.perf_counter() - began if computed else None)
            if self._worker.stopping:
                raise pause.TimeIsUp

    def _report(self, done: int, updates: int, loss: float) -> None:
        self.bar.value = done / max(1, updates)

    # ---- what is shown -----------------------------------------------------------------------------------------------------

    def _to(self, k: int, known: int | None = None, took: float | None = None) -> None:
        """Show cycle `k`; `known`: the latest one that the slider goes to."""
        with self._lock:
            self._known, self._shown = k if known is None else known, k
            self.slider.disabled = self._known < 1
            self.slider.max, self.slider.value = max(0, self._known), max(0, k)
            self._redraw()
        if took is not None:
            self._say(f"Cycle {k} took {took:.2f} s.")

    def _redraw(self) -> None:
        """Everything, for the cycle that is shown."""
        with self._lock:
            if self._layout is None or not self.trails:
                return
            trails, flat = self._visible(), self.browser.webgl == "no"
            for panel, trail in zip(self.panels, trails, strict=True):
                panel.show(trail, self._picture("strip", [trail]), self._picture("where", [trail]) if flat else None)
            self.progress.value = self._picture("progress", trails)
            self.figure4.value = self._picture("queries", trails) if self.buttons["as in Figure 4"].value and self._shown >= 0 else ""
            self.status.value = f'<div style="font-size:16px;font-weight:600">{escape(self._title())}</div>'

    def _visible(self) -> list[Trail]:
        """The runs as they were in the cycle that is shown."""
        return [trail.until(self._shown) for trail in self.trails]

    def _picture(self, what: str, trails: Sequence[Trail]) -> str:
        """One of `PICTURES`, as HTML, made once for each cycle: a slider does not wait for it again."""
        key = (what, *(trail.strategy for trail in trails), trails[0].last)
        if key not in self._drawn:
            assert self._layout is not None
            self._drawn[key] = PICTURES[what](trails, self._layout)
        return self._drawn[key]

    def _title(self) -> str:
        trail, k = self.trails[0], self._shown
        setting = trail.setting
        if k < 0:
            return f"{setting.train.name}: {len(setting.train):,} images, none labelled yet. Press step."
        found = ", ".join(f"{one.strategy.replace('_', ' ')} {one.cycles[k].metrics['accuracy']:.1%}" for one in self.trails)
        return f"{setting.train.name}, cycle {k} of {setting.cycles - 1}: {trail.cycles[k].n_labelled} labels; accuracy: {found}."

    def _say(self, text: str) -> None:
        """What is done, or was done last."""
        self.doing.value = f'<div role="status" aria-live="polite" style="font-size:15px">{text}</div>'

    def _tell_problem(self, text: str) -> None:
        self._problem = text
        style = "font-size:15px;font-weight:600;color:#a4260a;white-space:pre-wrap"
        self.problem.value = f'<div role="alert" style="{style}">{escape(text)}</div>' if text else ""
        if text:
            self._say("What is complete is kept." if self.trails else "Nothing is open.")

    # ---- what a person points at -------------------------------------------------------------------------------------------

    def _picked(self, images: Sequence[int]) -> None:
        """Show the images of a selection, and select them in every plot."""
        if not self.trails:
            return
        for panel in self.panels:
            if list(panel.scatter.selection()) != list(images):
                panel.scatter.selection(list(images))
        if not len(images):
            self.selected.value = ""
            return
        setting, some = self.trails[0].setting, list(map(int, images[:SELECTED]))
        names = [setting.train.classes[int(setting.train.targets[image])] for image in some]
        shown = exploration.thumbnails(setting, some, names, [f"image {i}, class {n}" for i, n in zip(some, names, strict=True)])
        more = f", {SELECTED} of them shown" if len(images) > SELECTED else ""
        self.selected.value = f'<p style="margin:4px 0;font-weight:600">images selected: {len(images):,}{more}</p>{shown}'


def _choices(dataset: str, arm: str, strategy: str, beside: str, scale: str, seed: int, embedding: str) -> dict[str, Any]:
    """What may be chosen; a value that is not among the known ones is offered too, and refused in words when it is opened."""

    def menu(name: str, value: str, allowed: Sequence[str]) -> ipywidgets.Dropdown:
        options = list(allowed) if value in allowed else [*allowed, value]
        return ipywidgets.Dropdown(options=options, value=value, description=name, layout=ipywidgets.Layout(width="230px"))

    return {
        "data set": ipywidgets.Combobox(
            options=[name for name in DATASETS if name != "folder"],
            value=dataset,
            description="data set",
            ensure_option=False,
            placeholder="a name, or a folder of class folders",
            layout=ipywidgets.Layout(width="260px"),
        ),
        "start": menu("start", arm, quickstart.ARMS),
        "strategy": menu("strategy", strategy, list(STRATEGIES)),
        "beside": menu("beside", beside or NONE, [NONE, *STRATEGIES]),
        "scale": menu("scale", scale, quickstart.SCALES),
        "laid out by": menu("laid out by", embedding, quickstart.EMBEDDINGS),
        "seed": ipywidgets.IntText(seed, description="seed", layout=ipywidgets.Layout(width="180px")),
    }


def _numbers(values: dict[str, int]) -> dict[str, Any]:
    """Fields for numbers of labels and cycles; 0: as the scale has it."""
    look: dict[str, Any] = {"tooltip": "0: as the scale has it", "layout": ipywidgets.Layout(width="170px")}
    return {name: ipywidgets.IntText(value, description=name, **look) for name, value in values.items()}


def _buttons() -> dict[str, Any]:
    told = {
        "open": "open the runs of what is chosen", "step": "one cycle further", "run to the end": "all cycles that are left",
        "stop": "stop what is computed; what is complete is kept", "reset": "back to before the first cycle; records are kept",
    }  # fmt: skip
    found: dict[str, Any] = {name: ipywidgets.Button(description=name, tooltip=text) for name, text in told.items()}
    tip = f"below: queries of iterations {', '.join(map(str, ITERATIONS))} as circle, triangle, square, as PT4AL has them in its Figure 4"
    found["as in Figure 4"] = ipywidgets.ToggleButton(description="as in Figure 4", tooltip=tip)
    return found
