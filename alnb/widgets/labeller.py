"""Label a folder of images in JupyterLab or Voilà: one image at a time, by keys, each answer on disk before the next image shows."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from alnb.labelling import KEYS, UNSURE, Labelling, Refused
from alnb.labelling_rounds import FEATURES, Batch, advice, current, images_of, next_batch, rounds
from alnb.widgets.worker import TOLD, Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

SIDE = 400  # pixels, the largest side of the image as it is shown
SHARP = 64  # pixels: smaller images are shown enlarged, and sent as PNG; larger ones as JPEG


class View(anywidget.AnyWidget):
    """What the browser shows; it decides nothing."""

    _esm = Path(__file__).with_name("labeller.js")
    _css = Path(__file__).with_name("labeller.css")
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_keys = traitlets.List(traitlets.Unicode(), list(KEYS)).tag(sync=True)
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
        seed: int = 0,
        background: bool = True,
    ) -> None:
        """Open the folder, and begin.

        Args:
            folder, place, classes, person: as of `labelling.Labelling`.
            features: one of `labelling_rounds.FEATURES`, made once: "rotation" pre-trains on the images, "resnet18" is torchvision's,
                "pixels" is there at once.
            strategy, batch, seed: as of `labelling_rounds.next_batch`.
            image_size: pixels, the side of the squares that the features are of.
            background: compute in another thread, so that the kernel answers; False: now, as tests want it.
        """
        self.view, self.state = View(), None
        self._lock = threading.RLock()
        self._worker = Worker("alnb labeller", background=background, busy=lambda busy: self._tell(busy=busy), problem=self._tell_problem)
        self._settings = (features, strategy, batch, image_size, seed)
        self._features: Tensor | None = None
        self._batch: Batch | None = None
        self._queue: list[str] = []
        self._guessing = False
        self.view.on_msg(self._heard)
        try:
            if features not in FEATURES:
                raise ValueError(f"features {features!r}: choose one of {', '.join(FEATURES)}")
            self.state = Labelling(folder, place, classes=classes, person=person)
        except TOLD as error:
            self._tell(problem=str(error), status="nothing can be labelled here", busy=False, closed=True)
            return
        self._tell(news=self.state.news)
        self._counted()
        self._worker.do(self._prepare)

    def close(self) -> None:
        """Let go of the folder; every label is on disk."""
        self._worker.stop()
        self._worker.wait()
        if self.state is not None:
            self.state.close()
        self._tell(closed=True, busy=False, status="closed: every label is on disk", image=b"", shown="", guess="")

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

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)

    # ---- work that takes its time ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        assert self.state is not None
        name, _, _, size, _ = self._settings
        self._tell(status=f"looking at {len(self.state.items):,} images …")
        images = images_of(self.state, size)

        def report(done: int, whole: int, loss: float) -> None:
            self._tell(status=f"learning from {len(images):,} images without labels: {100 * done // max(1, whole)} %")

        self._features = FEATURES[name](images, self.state.place, report)
        self._choose()

    def _choose(self) -> None:
        assert self.state is not None and self._features is not None
        _, strategy, n, _, seed = self._settings
        found = current(self.state)
        if found is None or not found.left(self.state):
            self._tell(status="learning from the labels, and choosing what to ask next …")
            found = next_batch(self.state, self._features, strategy, n, seed=seed)
        with self._lock:
            self._batch, self._queue = found, found.left(self.state)
        self._estimated()
        self._show()

    # ---- what a person does ------------------------------------------------------------------------------------------------

    def _heard(self, view: View, content: Mapping[str, Any], buffers: Any) -> None:
        """A message from the browser. One that comes while there is nothing to answer changes nothing."""
        if self.view.busy or self.view.closed or self.state is None:
            return
        self._tell(problem="")
        try:
            with self._lock:
                self._done(content)
        except TOLD as error:
            self._tell(problem=str(error))

    def _done(self, content: Mapping[str, Any]) -> None:
        assert self.state is not None
        if "add" in content:
            self.state.add_class(content["add"])
            self._counted()
        elif "label" in content:
            if content.get("image") == self.view.shown and self._queue:  # else a second press, before the next image came
                self._said(self.state.classes[content["label"]])
        elif content.get("action") == "guess":
            self._guessing = not self._guessing
            self._show()
        elif content.get("action") == "undo":
            self._taken_back(self.state.undo())
        elif not self._queue:
            return
        elif content.get("action") == "not sure":
            self._said(UNSURE)
        elif content.get("action") == "skip":
            self._queue.append(self._queue.pop(0))
            self._show()

    def _said(self, label: str) -> None:
        assert self.state is not None
        self.state.label(self._queue[0], label)
        del self._queue[0]
        self._counted()
        if self._queue:
            self._show()
        else:
            self._worker.do(self._choose)

    def _taken_back(self, key: str | None) -> None:
        if key is None:
            raise Refused("there is nothing to take back")
        self._queue = [key, *(other for other in self._queue if other != key)]
        self._counted()
        self._show()

    # ---- what is shown -----------------------------------------------------------------------------------------------------

    def _tell(self, **traits: Any) -> None:
        with self.view.hold_sync():
            for name, value in traits.items():
                self.view.set_trait(name, value)

    def _tell_problem(self, text: str) -> None:
        """Of what it computes."""
        self._tell(problem=text, **({"status": "no image can be asked for; every label so far is on disk"} if text else {}))

    def _counted(self) -> None:
        assert self.state is not None
        said = list(self.state.labels.values())
        self._tell(classes=list(self.state.classes), counts=[said.count(name) for name in self.state.classes])

    def _show(self) -> None:
        assert self.state is not None and self._batch is not None
        said = self.state.labels
        told = f"{sum(label is not None for label in said.values())} labelled, {sum(label is None for label in said.values())} not sure"
        if not self._queue:
            status = f"Every image has been asked about: {told}."
            self._tell(image=b"", shown="", caption="", guess="", status=status)
            return
        key = self._queue[0]
        item, guessed = self.state.by_key[key], self._batch.guesses.get(key)
        text = f"the model says {guessed[0]} ({guessed[1]:.0%})" if guessed else "the model has not learned yet"
        status = f"Round {self._batch.round + 1}, {len(self._queue)} to go; {told} of {len(self.state.items):,}."
        self._tell(
            image=picture(self.state.folder / item.files[0]), shown=key, caption=f"image {item.files[0]}", status=status,
            guess=text if self._guessing else "",
        )  # fmt: skip

    def _estimated(self) -> None:
        assert self.state is not None
        history, labels = rounds(self.state), self.state.labels
        told = ""
        if history and history[-1].held_out:
            last = history[-1]
            low, high = last.interval
            told = f"About {last.accuracy:.0%} right on {last.held_out} held-out images (95 % interval {low:.0%} to {high:.0%}). "
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
