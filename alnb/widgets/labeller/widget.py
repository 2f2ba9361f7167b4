"""Label a folder of images in JupyterLab or Voilà, one image at a time, by keys. Each answer is on disk before the next image shows."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anywidget
import traitlets
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor

from alnb.data.files import as_rgb
from alnb.widgets.labeller.exchange import export_csv, import_labels
from alnb.widgets.labeller.folder import KEYS, UNSURE, Labelling, Refused, keys_of, place_of
from alnb.widgets.labeller.rounds import FEATURES, Batch, Settings, advice, current, images_of, next_batch, rounds
from alnb.widgets.worker import BackgroundWidget

SIDE = 400  # pixels, the largest side of the image that is shown
TABLE = "labels.csv"  # the file that the button "write CSV" writes beside the labels
SHARP = 64  # pixels: images up to this size are sent as PNG, so that they stay sharp when enlarged; larger ones as JPEG
SHEET = 40  # images in a figure, at most


class View(anywidget.AnyWidget):
    """What the browser shows. It decides nothing."""

    _esm = Path(__file__).with_name("labeller.js").read_text()
    _css = Path(__file__).with_name("labeller.css").read_text()
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)  # the key of each class
    free_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)  # keys without a class
    counts = traitlets.List(traitlets.Int()).tag(sync=True)  # labels of each class
    shown = traitlets.Unicode().tag(sync=True)  # key of the image; "": none
    image = traitlets.Bytes().tag(sync=True)  # a PNG or JPEG file; empty: none
    caption = traitlets.Unicode().tag(sync=True)
    guess = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    estimate = traitlets.Unicode().tag(sync=True)
    news = traitlets.List(traitlets.Unicode()).tag(sync=True)
    busy = traitlets.Bool(True).tag(sync=True)
    closed = traitlets.Bool(False).tag(sync=True)  # nothing can be labelled
    received = traitlets.Int().tag(sync=True)  # messages from the browser, so that it notices if the kernel does not answer


OPEN: WeakValueDictionary[str, Labeller] = WeakValueDictionary()  # the labellers of this process, by the folder of their labels


class Labeller(BackgroundWidget):
    """Asks for labels of the images in a folder. Errors are shown in the widget; no label is lost."""

    def __init__(
        self,
        folder: Path | str,
        settings: Settings | None = None,
        *,
        classes: Iterable[str] = (),
        place: Path | str | None = None,
        person: str = "",
        labels: Path | str = "",
        background: bool = True,
    ) -> None:
        """Open the folder and begin. If this process has it open already, that labeller is closed: a cell may be run again.

        Args:
            folder, place, classes, person: as in `folder.Labelling`.
            settings: what the model sees, and how it asks; None: the defaults.
            labels: to import first, as in `exchange.import_labels`; "": none.
            background: False computes before each call returns, as tests need.
        """
        self.view = View()
        self.state: Labelling | None = None
        self._view_lock = threading.RLock()
        super().__init__("alnb labeller", background)
        self._settings = settings or Settings()
        self._features: Tensor | None = None
        self._batch: Batch | None = None
        self.asked: list[str] = []  # keys of the images that this round still asks; the first one is shown
        self._guessing = False
        self.view.on_msg(self._receive)
        with self._worker.errors_shown():
            self._settings.check()
            name = str(place_of(Path(folder).expanduser(), place).resolve())
            if name in OPEN:
                OPEN[name].close("closed, because the folder was opened again elsewhere")
            self._open(Labelling(folder, place, classes=classes, person=person), labels)
            OPEN[name] = self
            self._worker.do(self._prepare)

    def _open(self, state: Labelling, labels: Path | str) -> None:
        try:
            if labels:
                state.news.insert(0, f"labels imported from {labels}: {import_labels(state, labels)}")
        except BaseException:
            state.close()
            raise
        self.state = state
        self._show(news=state.news)
        self._show_classes()

    def close(self, why: str = "closed") -> None:
        """Unlock the folder. Every label is on disk."""
        self._worker.stop()
        self._worker.wait()
        self._handle = None
        if self.state is not None:
            self.state.close()
        self._show(closed=True, busy=False, status=f"{why}; every label is on disk", image=b"", shown="", guess="")

    def wait(self) -> Labeller:
        """Wait for the work in the background. Raises: ValueError, with the widget's message, if nothing can be labelled."""
        self._worker.wait()
        if self.state is None or (self._batch is None and self.view.problem):
            raise ValueError(self.view.problem)
        return self

    @property
    def round(self) -> int:
        """The number of the round, from 1."""
        return 1 if self._batch is None else self._batch.round + 1

    def overview(self) -> Figure:
        """The current questions as a figure. Raises: ValueError if there are none yet, or the folder cannot be labelled."""
        if self.state is None or self._batch is None:
            raise ValueError(self.view.problem or "no image is asked yet: call wait() first")
        title = f"{len(self.state.labels):,} of {len(self.state.items):,} images labelled; questions of round {self.round}"
        return sheet(self.state, self.asked, title)

    @property
    def _open_state(self) -> Labelling:
        assert self.state is not None, "only used while the folder is open"
        return self.state

    def _prepare(self) -> None:
        state = self._open_state
        self._show(status=f"reading {len(state.items):,} images …")
        images = images_of(state, self._settings.image_size)

        def report(done: int, total: int, loss: float) -> None:
            self._show(status=f"learning from {len(images):,} images without labels: {100 * done // max(1, total)} %")

        self._features = FEATURES[self._settings.features](images, state.place, report)
        self._choose()

    def _choose(self) -> None:
        state, batch, picture = self._open_state, current(self._open_state), None
        assert self._features is not None
        while picture is None:
            if batch is None or not batch.left(state):
                self._show(status="learning from the labels and choosing the next images …")
                batch = next_batch(state, self._features, self._settings)
            with self._lock:
                self._batch, self.asked = batch, batch.left(state)
                picture = self._first_picture()
                if not batch.keys:
                    break
        self._show_estimate()
        self._show_image(picture)

    def _receive(self, view: View, content: Mapping[str, Any], buffers: Any) -> None:
        """A message from the browser. It is ignored while the widget is busy or closed."""
        try:
            if not (self.view.busy or self.view.closed or self.state is None):
                with self._lock, self._worker.errors_shown():
                    self._show_problem("")
                    self._act(content)
        finally:
            self._show(received=self.view.received + 1)

    def _act(self, content: Mapping[str, Any]) -> None:
        state, action = self._open_state, content.get("action")
        if "add" in content or action == "guess":
            if "add" in content:
                state.add_class(content["add"])
                self._show_classes()
            else:
                self._guessing = not self._guessing
            if self.asked:
                self._next()
        elif "free" in content:
            raise Refused(f"no class has the key {content['free']}: add {'another' if state.classes else 'the first'} class below")
        elif action == "write CSV":
            line = f"written: {export_csv(state, state.place / TABLE)}"
            self._show(news=[*(other for other in self.view.news if other != line), line])
        elif action == "undo":
            self._undo()
        elif self.asked and content.get("image") == self.view.shown:  # else: a second press before the next image came
            if "label" in content:
                self._answer(state.classes[content["label"]])
            elif action == "not sure":
                self._answer(UNSURE)
            elif action == "skip":
                self.asked.append(self.asked.pop(0))
                self._next()

    def _answer(self, label: str) -> None:
        self._open_state.label(self.asked[0], label)
        del self.asked[0]
        self._show_classes()
        self._next()

    def _undo(self) -> None:
        key = self._open_state.undo()
        if key is None:
            raise Refused("there is no answer to take back")
        self.asked = [key, *(other for other in self.asked if other != key)]
        self._show_classes()
        self._show_estimate()
        self._next()

    def _next(self) -> None:
        """Show the first image of the queue, or choose others if none is left."""
        picture = self._first_picture()
        if picture is not None:
            self._show_image(picture)
        else:
            self._worker.do(self._choose)

    def _first_picture(self) -> bytes | None:
        """The picture of the first image in the queue. Images that cannot be shown are removed and reported. None: the queue is empty."""
        state = self._open_state
        while self.asked:
            reason = ""
            for name in state.by_key[self.asked[0]].files:
                try:
                    return as_picture(state.folder / name)
                except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
                    reason = f"{name} can no longer be shown and is left out: {type(error).__name__}: {error}"
            state.missing.add(self.asked.pop(0))
            self._show(news=[*self.view.news, reason])
        return None

    def _show(self, **traits: Any) -> None:
        with self._view_lock, self.view.hold_sync():  # two threads in hold_sync at once would lose one's changes
            for name, value in traits.items():
                self.view.set_trait(name, value)

    def _show_busy(self, busy: bool) -> None:
        self._show(busy=busy)
        if not busy:
            self._refresh()

    def _show_problem(self, message: str) -> None:
        if message and self.state is None:
            self._show(problem=message, status="nothing can be labelled here", busy=False, closed=True)
        elif message and self._worker.working:
            advice = "no image can be asked: solve the problem and run this cell again; every label so far is on disk"
            self._show(problem=message, status=advice, closed=self._batch is None)
        else:
            self._show(problem=message)

    def _show_classes(self) -> None:
        state, keys = self._open_state, keys_of(self._open_state.classes)
        labels, free = list(state.labels.values()), [key for key in ("0", *KEYS) if key not in keys]
        self._show(classes=list(state.classes), class_keys=keys, free_keys=free, counts=[labels.count(name) for name in state.classes])
        self._refresh()

    def _show_image(self, picture: bytes | None) -> None:
        assert self._batch is not None
        state, labels = self._open_state, list(self._open_state.labels.values())
        unsure = labels.count(None)
        total = f"{len(labels) - unsure} labelled, {unsure} not sure"
        if picture is None:
            self._show(image=b"", shown="", caption="", guess="", status=f"Every image has an answer: {total}.")
            return
        key = self.asked[0]
        status = f"Round {self.round}, {len(self.asked)} to go; {total} of {len(state.items):,}."
        status += "" if state.classes else " There is no class yet: type the name of the first one below."
        if key in self._batch.guesses:
            name, share = self._batch.guesses[key]
            guess = f"the model says {name} ({share:.0%})"
        else:
            guess = "the model has no guess for this image" if self._batch.guesses else "the model has not learned yet"
        caption = f"image {state.by_key[key].files[0]}"
        self._show(image=picture, shown=key, caption=caption, status=status, guess=guess if self._guessing else "")

    def _show_estimate(self) -> None:
        state, history, accuracy = self._open_state, rounds(self._open_state), ""
        if history and history[-1].held_out:
            last = history[-1]
            low, high = last.interval
            accuracy = f"The model is right on {last.right} of {last.held_out} held-out images: "
            accuracy += f"{last.accuracy:.0%} (95 % interval {low:.0%} to {high:.0%}). "
        learned = {label for key, label in state.labels.items() if label and not state.by_key[key].held_out}
        why = f" Asked by {self._batch.why}." if self._batch and self._batch.why else ""
        self._show(estimate=accuracy + advice(history, len(learned), len(state.items) - len(state.labels)) + why)


def as_picture(path: Path) -> bytes:
    """An image file for the browser: upright, on white, at most `SIDE` pixels large; a PNG file, or a JPEG file beyond `SHARP`."""
    with Image.open(path) as image:
        image.draft(None, (2 * SIDE, 2 * SIDE))
        shown = as_rgb(ImageOps.exif_transpose(image))
    shown.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=90) if max(shown.size) > SHARP else shown.save(out, "PNG")
    return out.getvalue()


def sheet(state: Labelling, keys: Iterable[str], title: str) -> Figure:
    """A figure of up to `SHEET` images with their labels, ten in a row."""
    shown = list(keys)[:SHEET]
    columns = min(10, max(1, len(shown)))
    rows = -(-len(shown) // columns) or 1
    figure = Figure(figsize=(1.1 * columns + 0.6, 1.3 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, key in zip(axes, shown, strict=False):
        axis.imshow(Image.open(io.BytesIO(as_picture(state.folder / state.by_key[key].files[0]))))
        label = state.labels.get(key, "?") or UNSURE
        axis.set_title(label if len(label) < 12 else f"{label[:10]}…", fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure
