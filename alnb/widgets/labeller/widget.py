"""Label a folder of images in JupyterLab or Voilà: one image at a time, by keys, each answer on disk before the next image shows."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anywidget
import traitlets

from alnb.widgets.explorer import trail as exploration
from alnb.widgets.labeller.folder import KEYS, UNSURE, Labelling, Refused, export_csv, keys_of, place_of, take_over
from alnb.widgets.labeller.rounds import FEATURES, Batch, advice, current, images_of, next_batch, rounds
from alnb.widgets.still import Still
from alnb.widgets.worker import TOLD, Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

DPI = 96
SIDE = 400  # pixels, the largest side of the image as it is shown
TABLE = "labels.csv"  # beside the labels, where the widget is asked for it
SHARP = 64  # pixels: smaller images are shown enlarged, and sent as PNG; larger ones as JPEG


class View(anywidget.AnyWidget):
    """What the browser shows; it decides nothing."""

    _esm = Path(__file__).with_name("labeller.js").read_text()
    _css = Path(__file__).with_name("labeller.css").read_text()
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of each class
    free_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of no class yet
    counts = traitlets.List(traitlets.Int()).tag(sync=True)  # labels of each class
    shown = traitlets.Unicode().tag(sync=True)  # key of the image
    image = traitlets.Bytes().tag(sync=True)  # of a PNG or JPEG file; empty: none
    caption = traitlets.Unicode().tag(sync=True)
    guess = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    estimate = traitlets.Unicode().tag(sync=True)
    news = traitlets.List(traitlets.Unicode()).tag(sync=True)
    busy = traitlets.Bool(True).tag(sync=True)
    closed = traitlets.Bool(False).tag(sync=True)  # there is nothing to label
    heard = traitlets.Int().tag(sync=True)  # messages from the browser, so that it notices when nobody answers


OPEN: WeakValueDictionary[str, Labeller] = WeakValueDictionary()  # by the place of their labels: what this process has open


class Labeller:
    """The labeller of a folder. What cannot be is told in the widget, in words, and loses nothing."""

    def __init__(
        self,
        folder: Path | str,
        *,
        classes: Iterable[str] = (),
        features: str = "rotation",
        strategy: str = "margin",
        batch: int = 10,
        image_size: int = 32,
        place: Path | str | None = None,
        person: str = "",
        labels: Path | str = "",
        seed: int = 0,
        background: bool = True,
    ) -> None:
        """Open the folder, and begin. What this very process had open of it is closed: a cell may be run again.

        Args:
            folder, place, classes, person: as of `labelling.Labelling`.
            features: one of `labelling_rounds.FEATURES`, made once: "rotation" pre-trains on the images, "resnet18" is torchvision's,
                "pixels" is there at once.
            labels: to be taken over first, as of `labelling.take_over`; empty: none.
            strategy, batch, seed: as of `labelling_rounds.next_batch`.
            image_size: pixels, the side of the squares that the features are of.
            background: compute in another thread, so that the kernel answers; False: now, as tests want it.
        """
        self.view, self.state = View(), None
        self._lock, self._telling = threading.RLock(), threading.Lock()
        self._still = Still(self._drawn_still)
        self._worker = Worker("alnb labeller", background=background, busy=self._busy, problem=self._tell_problem)
        self._settings = (features, strategy, batch, image_size, seed)
        self._features: Tensor | None = None
        self._batch: Batch | None = None
        self._queue: list[str] = []
        self._guessing = False
        self.view.on_msg(self._heard)
        try:
            if features not in FEATURES:
                raise ValueError(f"features {features!r}: choose one of {', '.join(FEATURES)}")
            key = str(place_of(Path(folder).expanduser(), place).resolve())
            if key in OPEN:
                OPEN[key].close("closed, since the folder was opened again in another place")
            self.state = Labelling(folder, place, classes=classes, person=person)
            OPEN[key] = self
            if labels:
                self.state.news = [f"labels taken over from {labels}: {take_over(self.state, labels)}", *self.state.news]
        except TOLD as error:
            if self.state is not None:
                self.state.close()
                self.state = None
            self._tell(problem=str(error), status="nothing can be labelled here", busy=False, closed=True)
            return
        self._tell(news=self.state.news)
        self._counted()
        self._worker.do(self._prepare)

    def close(self, why: str = "closed") -> None:
        """Let go of the folder; every label is on disk."""
        self._worker.stop()
        self._worker.wait()
        self._still.close()
        if self.state is not None:
            self.state.close()
        self._tell(closed=True, busy=False, status=f"{why}; every label is on disk", image=b"", shown="", guess="")

    def wait(self) -> Labeller:
        """Itself, once what it does in the background is done.

        Raises:
            ValueError: nothing can be labelled here; it says why, as the widget does.
        """
        self._worker.wait()
        if self.state is None or (self._batch is None and self.view.problem):
            raise ValueError(self.view.problem)
        return self

    @property
    def asked(self) -> list[str]:
        """Keys of the images that are still asked for in this round, the one that is shown first."""
        return list(self._queue)

    @property
    def round(self) -> int:
        """Its number, from 1."""
        return 1 if self._batch is None else self._batch.round + 1

    def overview(self) -> Figure:
        """What it asks now, as a figure for readers without a kernel.

        Raises:
            ValueError: nothing is asked yet, or nothing can be.
        """
        if self.state is None or self._batch is None:
            raise ValueError(self.view.problem or "nothing is asked yet: wait() for it")
        told = f"{len(self.state.labels):,} of {len(self.state.items):,} images labelled; what round {self.round} asks"
        return sheet(self.state, self.asked, told)

    def picture(self) -> None:
        """Display what `overview` draws, in the cell that calls it; drawn anew when something was done: readers without a kernel see it."""
        self._still.display()

    def _drawn_still(self) -> tuple[bytes, str] | None:
        with self._lock:
            if self._batch is None or self._worker.working:
                return None
            try:
                figure = self.overview()
            except OSError:  # a file that vanished is told when its turn comes
                return None
            return exploration.as_png(figure, DPI), str(figure.get_suptitle())

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)

    # ---- work that takes its time ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        assert self.state is not None
        name, _, _, size, _ = self._settings
        self._tell(status=f"looking at {len(self.state.items):,} images …")
        images = images_of(self.state, size)
        began = time.monotonic()

        def report(done: int, whole: int, loss: float) -> None:
            left = (time.monotonic() - began) * (whole - done) / max(1, done) / 60
            told = f", about {left:.0f} min left" if done > whole / 50 and left >= 0.5 else ""
            self._tell(status=f"learning from {len(images):,} images without labels: {100 * done // max(1, whole)} %{told}")

        self._features = FEATURES[name](images, self.state.place, report)
        self._choose()

    def _choose(self) -> None:
        assert self.state is not None and self._features is not None
        _, strategy, n, _, seed = self._settings
        found, drawn = current(self.state), None
        while drawn is None:
            if found is None or not found.left(self.state):
                self._tell(status="learning from the labels, and choosing what to ask next …")
                found = next_batch(self.state, self._features, strategy, n, seed=seed)
            with self._lock:
                self._batch, self._queue = found, found.left(self.state)
                drawn = self._drawn()
                if not found.keys:
                    break
        self._estimated()
        self._show(drawn)

    # ---- what a person does ------------------------------------------------------------------------------------------------

    def _heard(self, view: View, content: Mapping[str, Any], buffers: Any) -> None:
        """A message from the browser. One that comes while there is nothing to answer changes nothing."""
        try:
            if not (self.view.busy or self.view.closed or self.state is None):
                self._tell(problem="")
                with self._lock:
                    self._done(content)
        except TOLD as error:
            self._tell(problem=str(error))
        finally:
            self._tell(heard=self.view.heard + 1)

    def _done(self, content: Mapping[str, Any]) -> None:
        assert self.state is not None
        action, asked = content.get("action"), bool(self._queue) and content.get("image") == self.view.shown
        if "add" in content:
            self.state.add_class(content["add"])
            self._counted()
            if self._queue:
                self._next()  # it may have said that no class has a name
        elif "free" in content:
            raise Refused(f"the key {content['free']} is of no class: name {'one more' if self.state.classes else 'the first one'} below")
        elif action == "guess":
            self._guessing = not self._guessing
            if self._queue:
                self._next()
        elif action == "write CSV":
            told = f"written: {export_csv(self.state, self.state.place / TABLE)}"
            self._tell(news=[*(line for line in self.view.news if line != told), told])
        elif action == "undo":
            self._taken_back(self.state.undo())
        elif not asked:
            return  # a second press, before the next image came
        elif "label" in content:
            self._said(self.state.classes[content["label"]])
        elif action == "not sure":
            self._said(UNSURE)
        elif action == "skip":
            self._queue.append(self._queue.pop(0))
            self._next()

    def _said(self, label: str) -> None:
        assert self.state is not None
        self.state.label(self._queue[0], label)
        del self._queue[0]
        self._counted()
        self._next()

    def _taken_back(self, key: str | None) -> None:
        if key is None:
            raise Refused("there is nothing to take back")
        self._queue = [key, *(other for other in self._queue if other != key)]
        self._counted()
        self._estimated()
        self._next()

    def _next(self) -> None:
        """Show the image that is asked for now, or choose others."""
        drawn = self._drawn()
        if drawn is not None:
            self._show(drawn)
        else:
            self._worker.do(self._choose)

    def _drawn(self) -> bytes | None:
        """The picture of what is asked for now; images that cannot be shown any more are left out, and told. None: no other is left."""
        assert self.state is not None
        while self._queue:
            item, why = self.state.by_key[self._queue[0]], ""
            for name in item.files:
                try:
                    return picture(self.state.folder / name)
                except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
                    why = f"{name} cannot be shown any more, and is left out: {type(error).__name__}: {error}"
            self.state.gone.add(self._queue.pop(0))
            self._tell(news=[*self.view.news, why])
        return None

    # ---- what is shown -----------------------------------------------------------------------------------------------------

    def _tell(self, **traits: Any) -> None:
        with self._telling, self.view.hold_sync():  # of two threads in it, one would lose what it tells
            for name, value in traits.items():
                self.view.set_trait(name, value)

    def _busy(self, busy: bool) -> None:
        self._tell(busy=busy)
        if not busy:
            self._still.rest()

    def _tell_problem(self, text: str) -> None:
        """Of what it computes."""
        if text:
            self._tell(status="no image can be asked for: mend it, and run this cell again; every label so far is on disk")
        self._tell(problem=text, closed=bool(text) and self._batch is None)

    def _counted(self) -> None:
        assert self.state is not None
        said = list(self.state.labels.values())
        names, keys = list(self.state.classes), keys_of(self.state.classes)
        free = [key for key in ("0", *KEYS) if key not in keys]
        self._tell(classes=names, class_keys=keys, free_keys=free, counts=[said.count(name) for name in names])
        self._still.rest()

    def _show(self, drawn: bytes | None) -> None:
        assert self.state is not None and self._batch is not None
        said = self.state.labels
        told = f"{sum(label is not None for label in said.values())} labelled, {sum(label is None for label in said.values())} not sure"
        if drawn is None:
            status = f"Every image has been asked about: {told}."
            self._tell(image=b"", shown="", caption="", guess="", status=status)
            return
        key = self._queue[0]
        item, guessed = self.state.by_key[key], self._batch.guesses.get(key)
        unknown = "the model has no guess of this one" if self._batch.guesses else "the model has not learned yet"
        text = f"the model says {guessed[0]} ({guessed[1]:.0%})" if guessed else unknown
        status = f"Round {self._batch.round + 1}, {len(self._queue)} to go; {told} of {len(self.state.items):,}."
        status += "" if self.state.classes else " No class has a name yet: type the first one below."
        self._tell(
            image=drawn, shown=key, caption=f"image {item.files[0]}", status=status,
            guess=text if self._guessing else "",
        )  # fmt: skip

    def _estimated(self) -> None:
        assert self.state is not None
        history, labels = rounds(self.state), self.state.labels
        told = ""
        if history and history[-1].held_out:
            last = history[-1]
            low, high = last.interval
            told = f"What the model says is right for {last.right} of {last.held_out} held-out images, "
            told += f"{last.accuracy:.0%} (95 % interval {low:.0%} to {high:.0%}). "
        learned = {label for key, label in labels.items() if label and not self.state.by_key[key].held_out}
        self._tell(estimate=told + advice(history, len(learned), len(self.state.items) - len(labels)))


def picture(path: Path) -> bytes:
    """An image file as a browser shows it: upright, on white, at most `SIDE` pixels large; bytes of a PNG or, beyond `SHARP`, a JPEG."""
    from PIL import Image, ImageOps

    from alnb.data.files import as_rgb

    with Image.open(path) as image:
        image.draft(None, (2 * SIDE, 2 * SIDE))
        shown = as_rgb(ImageOps.exif_transpose(image))
    shown.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    if max(shown.size) > SHARP:
        shown.save(out, "JPEG", quality=90)
    else:
        shown.save(out, "PNG")
    return out.getvalue()


def sheet(state: Labelling, keys: Iterable[str], title: str) -> Figure:
    """What the widget would ask, without a kernel: the images of `keys` with their names, ten a row."""
    from matplotlib.figure import Figure
    from PIL import Image

    some = list(keys)[:40]
    columns = min(10, max(1, len(some)))
    rows = -(-len(some) // columns) or 1
    figure = Figure(figsize=(1.1 * columns + 0.6, 1.3 * rows + 0.7), layout="constrained")
    for place, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flatten()):
        axis.set_axis_off()
        if place < len(some):
            axis.imshow(Image.open(io.BytesIO(picture(state.folder / state.by_key[some[place]].files[0]))))
            label = state.labels.get(some[place], "?") or "not sure"
            axis.set_title(label if len(label) < 12 else f"{label[:10]}…", fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure
