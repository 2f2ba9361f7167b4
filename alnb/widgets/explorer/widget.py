"""Step through active learning in JupyterLab or Voilà: which images are queried, where they lie, what was learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from alnb import store
from alnb.report import records
from alnb.report.layout import layout, suited
from alnb.store import stop
from alnb.widgets.explorer import pictures
from alnb.widgets.explorer.controls import FIGURE_4, Browser, Choices, buttons, choice_controls
from alnb.widgets.explorer.panel import Panel, close_all
from alnb.widgets.explorer.trail import Trail
from alnb.widgets.worker import BackgroundWidget

Picture = Callable[[Sequence[Trail], Tensor], str]  # HTML from runs and their layout [N,2]


class Explorer(BackgroundWidget):
    """Shows one run, or two side by side, and computes their next cycles. Errors are shown in the widget; nothing is overwritten."""

    def __init__(
        self, factory: Any, choices: Choices | None = None, *, runs: Path | str | None = None, background: bool = True, **source: Any
    ) -> None:
        """Open the runs of `choices`, finished or not: the same runs that the experiment's notebook makes.

        Args:
            factory: the module `alnb.papers.quickstart`, or one with its NAME, ARMS, SCALES, STRATEGIES, EMBEDDINGS, setting, check, start,
                features, experiment and run. A setting has `train`, the pool as an `ImageSet`.
            choices: what to open first; a user can change it in the widget.
            runs: the folder of the run folders; None: that of the factory, in runs/ of the project.
            background: False computes before each call returns, as tests and batch executions need.
            source: root, device, download, image_size, skip_bad, as in `data.load`.
        """
        super().__init__("alnb explorer", background)
        self._factory, self._source = factory, source
        self._runs = Path(runs) if runs is not None else store.workspace() / "runs" / factory.NAME
        self.cycle = -1  # the cycle that is shown; -1: before the first
        self._latest = -1  # the latest cycle that may be shown; after a reset, fewer than are finished
        self.trails: list[Trail] = []
        self.panels: list[Panel] = []
        self._layout: Tensor | None = None
        self._html: dict[tuple[Any, ...], str] = {}  # pictures of cycles that were shown before
        self._opened_with: Choices | None = None
        self._problem = ""
        self.controls, self.buttons, self.browser = choice_controls(factory, choices or Choices()), buttons(), Browser()
        self.slider = ipywidgets.IntSlider(
            0, 0, 0, description="cycle", disabled=True, tooltip="the cycle that is shown", layout=ipywidgets.Layout(width="320px")
        )
        self.bar = ipywidgets.FloatProgress(0, min=0, max=1, layout=ipywidgets.Layout(width="220px"))
        self.status, self.doing, self.problem, self.legend = (ipywidgets.HTML() for _ in range(4))
        self.progress, self.figure4, self.selected = (ipywidgets.HTML() for _ in range(3))
        self._columns = ipywidgets.HBox(layout=ipywidgets.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.view = self._arrange()
        self._connect()
        self.open()

    def open(self) -> None:
        """Open the runs of the choices, as a click on *open* does."""
        self._worker.do(self._open, self._stopped)

    def step(self) -> None:
        """Compute the next cycle. Nothing happens if no run is open."""
        if self.trails:
            self._worker.do(lambda: self._advance(1), self._stopped)

    def run(self) -> None:
        """Compute all cycles that are left. Nothing happens if no run is open."""
        if self.trails:
            self._worker.do(lambda: self._advance(None), self._stopped)

    def stop(self) -> None:
        """Stop at the next update. Finished cycles are saved."""
        self._worker.stop()

    def reset(self) -> None:
        """Go back to before the first cycle. Records are kept, so finished cycles return at once."""
        if self.trails:
            self._worker.do(self._restart, self._stopped)

    def close(self) -> None:
        """Stop, and release all widgets. Records are kept."""
        self.stop()
        self._worker.wait()
        with self._lock:
            self._handle = None
            for panel in self.panels:
                close_all(panel.view)
            self.trails, self.panels = [], []
            close_all(self.view)

    def wait(self) -> Explorer:
        """Wait for the work in the background. Raises: ValueError, with the widget's message, if it failed."""
        self._worker.wait()
        if self._problem:
            raise ValueError(self._problem)
        return self

    @property
    def title(self) -> str:
        """A sentence about what is shown."""
        if not self.trails:
            return self._problem
        k, trail = self.cycle, self.trails[0]
        if k < 0:
            return f"{trail.train.name}: {len(trail.train):,} images, none labelled yet. Press step."
        accuracies = ", ".join(f"{trail.title} {trail.cycles[k].metrics['accuracy']:.1%}" for trail in self.trails)
        return f"{trail.train.name}, cycle {k} of {trail.protocol.cycles - 1}: {trail.cycles[k].n_labelled} labels; accuracy: {accuracies}."

    @property
    def name(self) -> str:
        """The open runs, as a part of a file name."""
        train, tags = self.trails[0].train, self.trails[0].tags
        strategies = [trail.strategy for trail in self.trails]
        return "-".join([train.name, tags["arm"].replace(" ", "_"), *strategies, str(tags["seed"]), tags["scale"]])

    def frame(self) -> DataFrame | str:
        """The records of the open runs, as `report.figures.save` takes them."""
        finished = [(trail.run, trail.tags) for trail in self.trails if trail.cycles]
        return records.frame(finished) if finished else "no cycle is finished"

    def overview(self) -> Figure:
        """The explorer as a figure, for readers without a kernel. Raises: ValueError if nothing is open."""
        if self._layout is None or not self.trails:
            raise ValueError(self._problem or "no run is open yet: call wait() first")
        return pictures.draw_overview(self._visible(), self._layout, self.title)

    def _arrange(self) -> ipywidgets.Widget:
        wrap = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        rows = [
            ipywidgets.HBox([*self.controls.values(), self.buttons["open"]], layout=wrap),
            ipywidgets.HBox([*(b for n, b in self.buttons.items() if n != "open"), self.slider], layout=wrap),
            ipywidgets.HBox([self.bar, self.doing], layout=wrap),
            self.status, self.problem, self.legend, self._columns, self.progress, self.figure4, self.selected, self.browser,
        ]  # fmt: skip
        box = ipywidgets.VBox(rows, layout=ipywidgets.Layout(width="100%", padding="4px"))
        box.add_class("alnb-explorer")
        return box

    def _connect(self) -> None:
        actions = {"open": self.open, "step": self.step, "run to the end": self.run, "stop": self.stop, "reset": self.reset}
        for name, action in actions.items():
            self.buttons[name].on_click(lambda _, action=action: action())
        for control in self.controls.values():
            control.observe(lambda _: self._choice_changed(), "value")
        self.buttons[FIGURE_4].observe(lambda _: self._attempt(self._redraw), "value")
        self.slider.observe(lambda change: self._attempt(lambda: self._slide(change.new)), "value")
        self.browser.observe(lambda _: self._attempt(self._redraw), "webgl")

    def _attempt(self, action: Callable[[], None]) -> None:
        with self._lock, self._worker.errors_shown():
            action()

    def _slide(self, k: int) -> None:
        if self.trails and k != self.cycle and 0 <= k <= self._latest:
            self.cycle = k
            self._redraw()
            self._refresh()

    def _choice_changed(self) -> None:
        """A choice has changed: runs of other choices cannot be stepped until they are opened."""
        if not self._worker.working:
            self._show_busy(False)
            if self.trails and self._current_choices() != self._opened_with:
                self._say("Press <i>open</i> to use these choices.")

    def _current_choices(self) -> Choices:
        return Choices(**{name: control.value for name, control in self.controls.items()})

    def _stopped(self) -> None:
        self._say(f"Stopped. Finished cycles are saved. <i>{'step' if self.trails else 'open'}</i> continues from there.")

    def _show_busy(self, busy: bool) -> None:
        for name, button in self.buttons.items():
            button.disabled = not busy if name == "stop" else busy
        for name in ("step", "run to the end"):
            ended = not self.trails or self._latest == self.trails[0].protocol.cycles - 1
            self.buttons[name].disabled = busy or ended or self._current_choices() != self._opened_with
        self.buttons["reset"].disabled = busy or self._latest < 0
        for control in self.controls.values():
            control.disabled = busy
        self.bar.value, self.bar.layout.visibility = 0, "visible" if busy else "hidden"
        if not busy:
            self._refresh()

    def _open(self) -> None:
        """Read the images, pre-train, lay the images out, and open the runs."""
        factory, choices = self._factory, self._current_choices()
        with self._lock:
            self._clear()
            self._opened_with = choices
        self._say("Reading the images …")
        numbers = {"initial": choices.initial, "budget": choices.budget, "cycles": choices.cycles}
        setting = factory.setting(choices.dataset, choices.scale, **numbers, **self._source)
        factory.check(setting, choices.arm, choices.strategies, choices.embedding)
        stop.check("before the pre-training")
        train = setting.train
        self._say(f"Learning from all {len(train):,} images without labels. This happens once …")
        start = factory.start(setting, choices.arm, choices.seed, runs=self._runs, report=self._report)
        experiments = [factory.experiment(setting, start, name, choices.seed) for name in choices.strategies]
        trails = [Trail(train, experiment, factory.run(experiment, self._runs)) for experiment in experiments]
        features = factory.features(setting, choices.embedding, choices.seed, runs=self._runs, report=self._report)
        stop.check("before the layout")
        self._say(f"Laying out {len(features):,} images with t-SNE. This happens once …")
        positions = layout(features, perplexity=suited(len(features)), cache=self._runs / "layouts")
        stop.check("before the runs are shown")
        finished = min(trail.last for trail in trails)
        with self._lock:
            self._layout, self.trails = positions, trails
            self.panels = [Panel(trail, positions, lambda images: self._attempt(lambda: self._select(images))) for trail in trails]
            self.legend.value = pictures.legend(train.classes)
            for k in range(-1, finished):
                self._draw(pictures.progress, [trail.until(k) for trail in trails])
            self._show_cycle(finished)
            self._columns.children = [panel.view for panel in self.panels]  # after the points: a plot that opens drops later ones
        ended = finished == trails[0].protocol.cycles - 1
        self._say(f"This run is finished: {finished + 1} cycles. <i>reset</i> goes back to the beginning." if ended else "")

    def _clear(self) -> None:
        for panel in self.panels:
            close_all(panel.view)
        self.trails, self.panels, self._layout, self._html, self._latest, self.cycle = [], [], None, {}, -1, -1
        self._columns.children = ()
        for text in (self.status, self.legend, self.progress, self.figure4, self.selected):
            text.value = ""
        self.slider.disabled, self.slider.max, self.slider.value = True, 0, 0

    def _restart(self) -> None:
        self._show_cycle(-1)
        self._say("Finished cycles are read from their records." if self.trails[0].cycles else "")

    def _advance(self, cycles: int | None) -> None:
        """Add `cycles` cycles to each run, or all that are left. Finished ones are read and shown one by one."""
        total = self.trails[0].protocol.cycles
        end = total if cycles is None else min(self._latest + 1 + cycles, total)
        while self._latest + 1 < end:
            began, computed = time.perf_counter(), False
            for trail in self.trails:
                while len(trail.cycles) <= self._latest + 1:
                    self._say(f"Cycle {self._latest + 1}, {trail.title}: querying and training …")
                    self.bar.value, computed = 0, True
                    trail.advance(self._report)
            self._show_cycle(self._latest + 1, seconds=time.perf_counter() - began if computed else None)
            if self._worker.stopping:
                raise stop.TimeIsUp

    def _report(self, done: int, updates: int, loss: float) -> None:
        self.bar.value = done / max(1, updates)

    def _show_cycle(self, k: int, seconds: float | None = None) -> None:
        """Show cycle `k`, the last one that may be shown."""
        with self._lock:
            self._latest = self.cycle = k
            self.slider.disabled = self._latest < 1
            self.slider.max, self.slider.value = max(0, self._latest), max(0, k)
            self._redraw()
        if seconds is not None:
            self._say(f"Cycle {k} took {seconds:.2f} s.")

    def _redraw(self) -> None:
        with self._lock:
            if self._layout is None or not self.trails:
                return
            trails, webgl = self._visible(), self.browser.webgl != "no"
            for panel, trail in zip(self.panels, trails, strict=True):
                panel.show(trail, self._draw(pictures.strip, [trail]), None if webgl else self._draw(pictures.positions, [trail]))
            self.progress.value = self._draw(pictures.progress, trails)
            wanted = self.buttons[FIGURE_4].value and self.cycle >= 0
            self.figure4.value = self._draw(pictures.figure4, trails) if wanted else ""
            self.status.value = f'<div style="font-size:16px;font-weight:600">{escape(self.title)}</div>'

    def _visible(self) -> list[Trail]:
        """The runs as they were after the cycle that is shown."""
        return [trail.until(self.cycle) for trail in self.trails]

    def _draw(self, picture: Picture, trails: Sequence[Trail]) -> str:
        """A picture, drawn once for each cycle: the slider does not wait for it again."""
        key = (picture, *(trail.strategy for trail in trails), trails[0].last)
        if key not in self._html:
            assert self._layout is not None
            self._html[key] = picture(trails, self._layout)
        return self._html[key]

    def _say(self, message: str) -> None:
        """Show what is being done."""
        self.doing.value = f'<div role="status" aria-live="polite" style="font-size:15px">{message}</div>'

    def _show_problem(self, message: str) -> None:
        self._problem = message
        style = "font-size:15px;font-weight:600;color:#a4260a;white-space:pre-wrap"
        self.problem.value = f'<div role="alert" style="{style}">{escape(message)}</div>' if message else ""
        if message:
            self._say("Finished cycles are saved." if self.trails else "Nothing is open.")

    def _select(self, images: Sequence[int]) -> None:
        """Show the images of a selection, and select them in every plot."""
        if self.trails:
            for panel in self.panels:
                if list(panel.scatter.selection()) != list(images):
                    panel.scatter.selection(list(images))
            self.selected.value = pictures.selection(self.trails[0].train, images) if len(images) else ""
