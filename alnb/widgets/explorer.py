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

from alnb import exploration, pause, quickstart, records, store
from alnb.acquire import STRATEGIES
from alnb.data import DATASETS, DataError
from alnb.exploration import ASKED_COLOUR, PALE, Trail
from alnb.pool import VOID
from alnb.pretrain import Collapsed
from alnb.query_analysis import CLASS_COLOURS, SHAPES, draw_queries
from alnb.train import NonFiniteLoss
from alnb.tsne import layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

TOLD = (  # what a person can do something about: shown as it is
    ValueError, DataError, store.ManifestDiffers, store.Corrupted, store.Locked, store.NewerFormat, NonFiniteLoss, Collapsed, OSError,
)  # fmt: skip
NONE = "(none)"
HEIGHT = 380  # pixels, of a scatter plot
HOVERED, SELECTED = 96, 60  # pixels of the image under the pointer; images of a selection that are shown
DPI = 96
MARGIN = 0.04  # of a plot's width and height, so that no point is cut off
SIZES, OPACITIES = (4, 9, 16), (0.3, 0.9, 1.0)  # of the points of `exploration`'s states
ITERATIONS = (1, 5, 10)  # of PT4AL's Figure 4


def _queries(trails: Sequence[Trail], layout: Tensor) -> Figure:
    """As Figure 4 of PT4AL, as far as the runs are."""
    images, iterations = trails[0].setting.train, [i for i in ITERATIONS if i <= len(trails[0].cycles)]
    asked = exploration.queries(trails, iterations)
    return draw_queries(layout, images.targets, asked, images.classes, "What was asked, by iteration", iterations)


PICTURES: dict[str, Callable[[Sequence[Trail], Tensor], Figure]] = {
    "progress": lambda trails, layout: exploration.draw_progress(trails),
    "where": lambda trails, layout: exploration.draw_where(trails[0], layout),
    "queries": _queries,
}


class WebGL(anywidget.AnyWidget):
    """Asks the browser whether it can draw with WebGL."""

    _esm = Path(__file__).with_name("webgl.js")
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
        runs: Path | str | None = None,
        root: Path | str | None = None,
        device: str = "cpu",
        download: bool = False,
        background: bool = True,
    ) -> None:
        """Open the runs that the quickstart notebook would make with these choices, finished or not.

        Args:
            dataset: as of `data.load`. arm, scale, embedding: of `quickstart.ARMS`, `SCALES`, `EMBEDDINGS`.
            beside: a second strategy, to compare; empty: none.
            runs: the folder of run folders; None: runs/quickstart in the project.
            background: compute in another thread, so that the kernel answers; False: now, as tests and batch executions want it.
        """
        self._place = Path(runs) if runs is not None else store.workspace() / "runs" / "quickstart"
        self._source: dict[str, Any] = {"root": root, "device": device, "download": download}
        self._background, self._lock, self._stop = background, threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._shown = -1  # the cycle that is shown; -1: before the first
        self._known = -1  # the latest that may be shown: after a reset, fewer than are finished
        self.trails: list[Trail] = []
        self.panels: list[Panel] = []
        self._layout: Tensor | None = None
        self._drawn: dict[tuple[Any, ...], bytes] = {}
        self.choices = _choices(dataset, arm, strategy, beside, scale, seed, embedding)
        self.buttons = _buttons()
        self.slider = ipywidgets.IntSlider(
            0, 0, 0, description="cycle", disabled=True, continuous_update=True, layout=ipywidgets.Layout(width="320px")
        )
        self.bar = ipywidgets.FloatProgress(0, min=0, max=1, layout=ipywidgets.Layout(width="220px"))
        self.status, self.doing, self.problem, self.legend = (ipywidgets.HTML() for _ in range(4))
        self.progress, self.figure4 = (ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%")) for _ in range(2))
        self.figure4.layout.display = "none"
        self.selected = ipywidgets.HTML()
        self.webgl = WebGL()
        self._places = ipywidgets.HBox(layout=ipywidgets.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.view = self._arranged()
        self._connect()
        self.open()

    def open(self) -> None:
        """Find, or begin, the runs of what is chosen; a click on *open* does it too."""
        self._work(self._opened)

    def step(self) -> None:
        """One cycle further, where something is open."""
        if self.trails:
            self._work(lambda: self._go(1))

    def run(self) -> None:
        """To the end, where something is open."""
        if self.trails:
            self._work(lambda: self._go(None))

    def stop(self) -> None:
        """Stop what is computed at its next update; what is complete is kept, and *step* goes on from there."""
        self._stop.set()

    def reset(self) -> None:
        """Back to before the first cycle. Records are kept, so that cycles which are finished come again at once."""
        if self.trails:
            self._work(lambda: self._to(-1, known=-1))

    def wait(self) -> Explorer:
        """Itself, once what it does in the background is done.

        Raises:
            ValueError: something could not be done; it says why, as the widget does.
        """
        if self._thread is not None:
            self._thread.join()
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
            self.status, self.problem, self.legend, self._places, self.progress, self.figure4, self.selected, self.webgl,
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
        self.buttons["as in Figure 4"].observe(lambda _: self._redraw(), "value")
        self.slider.observe(self._slid, "value")
        self.webgl.observe(lambda _: self._redraw(), "webgl")

    def _slid(self, change: Any) -> None:
        if self.trails and change.new != self._shown and 0 <= change.new <= self._known:
            with self._lock:
                self._shown = change.new
                self._redraw()

    # ---- work that takes its time ------------------------------------------------------------------------------------------

    def _work(self, job: Callable[[], None]) -> None:
        """Do it while the buttons are off; what goes wrong is told. While something is done already, nothing happens."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._busy(True)
            self._stop.clear()
            self._tell_problem("")
            if self._background:
                self._thread = threading.Thread(target=self._done, args=(job,), name="alnb explorer", daemon=True)
                self._thread.start()
        if not self._background:
            self._done(job)

    def _done(self, job: Callable[[], None]) -> None:
        try:
            with pause.asked_by(self._stop.is_set):
                job()
        except pause.TimeIsUp:
            self._say("Stopped. What is complete is kept; <i>step</i> goes on from there.")
        except TOLD as error:
            self._tell_problem(str(error))
        except Exception as error:
            self._tell_problem(f"{type(error).__name__}: {error} (this is a bug; what is on disk is kept)")
            raise
        finally:
            self._busy(False)

    def _busy(self, busy: bool) -> None:
        for name, button in self.buttons.items():
            button.disabled = not busy if name == "stop" else busy
        for name in ("step", "run to the end"):
            self.buttons[name].disabled = busy or not self.trails or (self._known == self.trails[0].setting.cycles - 1)
        self.buttons["reset"].disabled = busy or self._known < 0
        for choice in self.choices.values():
            choice.disabled = busy
        self.bar.layout.visibility = "visible" if busy else "hidden"

    def _opened(self) -> None:
        """Everything that is chosen: images, what is learned from them without labels, their layout, the runs."""
        self.trails, self._layout, self._drawn, self.status.value = [], None, {}, ""
        self.legend.value = self.selected.value = ""
        self._places.children, self.panels, self._known, self._shown = (), [], -1, -1
        told = {name: choice.value for name, choice in self.choices.items()}
        self._say("Reading the images …")
        setting = quickstart.setting(told["data set"], told["scale"], **self._source)
        self._say(f"Learning from {len(setting.train):,} images without labels, once …")
        start = quickstart.start(setting, told["start"], runs=self._place, report=self._report)
        names = list(dict.fromkeys(name for name in (told["strategy"], told["beside"]) if name != NONE))
        trails = [Trail(setting, start, name, told["seed"], self._place) for name in names]
        features = quickstart.features(setting, told["laid out by"], runs=self._place, report=self._report)
        self._say(f"Laying out {len(features):,} images (t-SNE), once …")
        self._layout = layout(features, cache=self._place / "layouts")
        self.panels = [Panel(trail, self._layout, self._picked) for trail in trails]
        self.trails = trails
        self.legend.value = exploration.legend(setting.train.classes)
        self._places.children = [panel.view for panel in self.panels]
        finished = min(trail.cycle for trail in trails)
        for k in range(-1, finished):
            self._picture("progress", [trail.until(k) for trail in trails])
        self._to(finished)
        self._say("")

    def _go(self, cycles: int | None) -> None:
        """Add so many cycles to each run, or all; those that are finished are shown one after the other."""
        end = self.trails[0].setting.cycles if cycles is None else min(self._known + 1 + cycles, self.trails[0].setting.cycles)
        while self._known + 1 < end:
            began = time.perf_counter()
            for trail in self.trails:
                while len(trail.cycles) <= self._known + 1:
                    self._say(f"Cycle {self._known + 1}, {trail.strategy.replace('_', ' ')}: asking and training …")
                    trail.advance(self._report)
            self._to(self._known + 1, took=time.perf_counter() - began)
            if self._stop.is_set():
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
            self._say(f"Cycle {k} took {took:.1f} s.")

    def _redraw(self) -> None:
        """Everything, for the cycle that is shown. Pictures that were drawn before are kept."""
        with self._lock:
            if self._layout is None or not self.trails:
                return
            trails, flat = self._visible(), self.webgl.webgl == "no"
            for panel, trail in zip(self.panels, trails, strict=True):
                panel.show(trail, self._picture("where", [trail]) if flat else None)
            self.progress.value = self._picture("progress", trails)
            wanted = self.buttons["as in Figure 4"].value and self._shown >= 0
            self.figure4.layout.display = "" if wanted else "none"
            if wanted:
                self.figure4.value = self._picture("queries", trails)
            self.status.value = f'<div style="font-size:16px;font-weight:600">{escape(self._title())}</div>'

    def _visible(self) -> list[Trail]:
        """The runs as they were in the cycle that is shown."""
        return [trail.until(self._shown) for trail in self.trails]

    def _picture(self, what: str, trails: Sequence[Trail]) -> bytes:
        """One of `PICTURES`, drawn once for each cycle: a slider does not wait for it again."""
        key = (what, *(trail.strategy for trail in trails), trails[0].cycle)
        if key not in self._drawn:
            assert self._layout is not None
            self._drawn[key] = exploration.as_png(PICTURES[what](trails, self._layout), DPI)
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
            self._say("What is complete is kept.")

    # ---- what a person points at -------------------------------------------------------------------------------------------

    def _picked(self, images: Sequence[int]) -> None:
        """Show the images of a selection, and select them in every plot."""
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
        self.selected.value = f'<p style="margin:4px 0;font-weight:600">{len(images):,} images selected{more}</p>{shown}'


class Panel:
    """One run's scatter plot, the image under the pointer, and the images that were asked for."""

    def __init__(self, trail: Trail, positions: Tensor, picked: Callable[[Sequence[int]], None]) -> None:
        """`positions` [N,2]; `picked` is told of the images of a selection, by global index."""
        self.trail = trail
        self.scatter, self._frame = _scatter(trail, positions)
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(width=f"{HOVERED}px", height=f"{HOVERED}px", display="none"))
        self.caption = ipywidgets.HTML("Point at an image; press the lasso, and draw, to select some.")
        self.flat = ipywidgets.Image(format="png", layout=ipywidgets.Layout(display="none", max_width="100%"))
        self.strip = ipywidgets.HTML()
        name = ipywidgets.HTML(f'<h3 style="margin:2px 0">{escape(trail.strategy.replace("_", " "))}, {escape(trail.arm)}</h3>')
        under = ipywidgets.HBox([self.picture, self.caption], layout=ipywidgets.Layout(min_height=f"{HOVERED + 8}px", align_items="center"))
        self._drawing = self.scatter.show()
        self.view = ipywidgets.VBox(
            [name, self._drawing, self.flat, under, self.strip],
            layout=ipywidgets.Layout(flex="1 1 540px", min_width="420px", padding="4px"),
        )
        self.scatter.widget.observe(lambda change: self.point(change.new), "hovering")
        self.scatter.widget.observe(lambda change: picked(change.new), "selection")

    def show(self, trail: Trail, flat: bytes | None) -> None:
        """The run as it was in a cycle; `flat`: a picture for a browser that cannot draw the plot."""

        self.trail = trail
        self._frame["state"] = trail.states().numpy().astype("float64")
        self.scatter.size(by="state")
        self.scatter.opacity(by="state")
        # two encodings of one column: jscatter 1.0.1 works the points out anew, and does not send them
        self.scatter.update_widget("points", self.scatter.get_point_list())
        self.flat.layout.display, self._drawing.layout.display = ("none", "") if flat is None else ("", "none")
        if flat is not None:
            self.flat.value = flat
        self.strip.value = exploration.strip(trail)

    def point(self, image: int | None) -> None:
        """Show the image under the pointer, and what is known of it in the cycle that is shown."""
        if image is None:
            return
        train = self.trail.setting.train
        asked = self.trail.asked_in(image)
        told = "not asked for yet" if asked == VOID else f"asked for in cycle {asked}"
        self.picture.value = exploration.png(train.images.batch(_one(image))[0], HOVERED)
        self.picture.layout.display = ""
        self.caption.value = f"image {image}, class {escape(train.classes[int(train.targets[image])])}, {told}"


def _one(image: int) -> Tensor:
    import torch

    return torch.tensor([image])


def _scatter(trail: Trail, positions: Tensor) -> tuple[Any, Any]:
    """The plot of jupyter-scatter, and the table that it draws."""
    import warnings

    import pandas

    with warnings.catch_warnings():  # of its own use of pandas
        warnings.simplefilter("ignore")
        import jscatter
    train = trail.setting.train
    several = len(train.classes) <= len(CLASS_COLOURS)
    names = list(train.classes) if several else ["image"]
    codes = train.targets.tolist() if several else [0] * len(train)
    frame = pandas.DataFrame({
        "x": positions[:, 0].numpy(), "y": positions[:, 1].numpy(), "class": pandas.Categorical.from_codes(codes, names),
        "state": 0.0,  # a number: of categories, those that no point has would be left out, and the others shown as their neighbours
    })  # fmt: skip
    (left, low), (right, high) = (end.tolist() for end in (positions.amin(0), positions.amax(0)))
    across, up = MARGIN * (right - left), MARGIN * (high - low)
    ranges = {"x_scale": (left - across, right + across), "y_scale": (low - up, high + up)}
    plot = jscatter.Scatter(data=frame, x="x", y="y", height=HEIGHT, **ranges)
    plot.color(by="class", map=dict(zip(names, exploration.colours(train.classes) if several else [PALE], strict=True)))
    plot.color(selected=ASKED_COLOUR, hover=ASKED_COLOUR)
    plot.size(by="state", map=list(SIZES), norm=(exploration.POOL, exploration.ASKED))
    plot.opacity(by="state", map=list(OPACITIES), norm=(exploration.POOL, exploration.ASKED))
    plot.axes(False)
    plot.background("white")
    return plot, frame


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
        "seed": ipywidgets.BoundedIntText(seed, min=0, max=10**6, description="seed", layout=ipywidgets.Layout(width="180px")),
    }


def _buttons() -> dict[str, Any]:
    told = {
        "open": "open the runs of what is chosen", "step": "one cycle further", "run to the end": "all cycles that are left",
        "stop": "stop what is computed; what is complete is kept", "reset": "back to before the first cycle; records are kept",
    }  # fmt: skip
    found: dict[str, Any] = {name: ipywidgets.Button(description=name, tooltip=text) for name, text in told.items()}
    tip = f"queries of iterations {', '.join(map(str, ITERATIONS))} as {', '.join(('circle', 'triangle', 'square')[: len(SHAPES)])}"
    found["as in Figure 4"] = ipywidgets.ToggleButton(description="as in Figure 4", tooltip=tip)
    return found
