"""One run's scatter plot, the image under the pointer, and the images that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import torch
import traitlets

from alnb.acquire.query import VOID
from alnb.report.palette import CLASS_COLOURS
from alnb.widgets.explorer import trail as exploration
from alnb.widgets.explorer.trail import ASKED, PALE, POOL, STATE_COLOURS, Trail

if TYPE_CHECKING:
    from torch import Tensor

    from alnb.data import ImageSet

HEIGHT = 380  # pixels, of a scatter plot
HELD = 16 * 2**20  # bytes of images that a browser is given at once; of larger pools it asks for each
MARGIN = 0.04  # of a plot's width and height, so that no point is cut off
SIZES, OPACITIES = (4, 9, 16), (0.3, 0.9, 1.0)  # of the points of `exploration`'s states
MARKED = "#FF00FF"  # of points under the pointer or selected: the colour of no class


class Pointed(anywidget.AnyWidget):
    """The image under a scatter plot's pointer, and what is known of it; drawn by the browser, so that it need not wait for the kernel."""

    _esm = Path(__file__).with_name("pointed.js").read_text()  # of a path, anywidget 0.11 would keep every widget for ever
    plot = traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization)  # that of jupyter-scatter
    image = traitlets.Int(VOID).tag(sync=True)  # a global index; `VOID`: none yet
    asked = traitlets.Dict().tag(sync=True)  # the cycle in which an image was asked for, of those that were
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    targets = traitlets.List(traitlets.Int()).tag(sync=True)
    size = traitlets.Tuple().tag(sync=True)  # height and width of an image

    def __init__(self, train: ImageSet, plot: ipywidgets.Widget) -> None:
        """`train`: the images; `plot`: where one points, a widget with a trait `hovering`."""
        self._images = train.images
        first = train.images.batch(torch.tensor([0]))
        self._few = len(train) * first.numel() <= HELD
        super().__init__(plot=plot, classes=list(train.classes), targets=train.targets.tolist(), size=tuple(first.shape[-2:]))
        self.on_msg(self._answer)

    def _answer(self, _: object, content: Any, buffers: object) -> None:
        """Pixels, uint8 [n,H,W,3], of an image that the browser lacks, or of all where it asks for them and they are few."""
        image = content["image"]
        if image is not None or self._few:
            some = list(range(len(self.targets))) if image is None else [int(image)]
            pixels = self._images.batch(torch.tensor(some)).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            self.send({"images": some}, [pixels.tobytes()])


class Panel:
    """What one run shows of the cycle that is looked at."""

    def __init__(self, trail: Trail, positions: Tensor, picked: Callable[[Sequence[int]], None]) -> None:
        """`positions` [N,2]; `picked` is told of the images of a selection, by global index."""
        self.scatter, self._frame = _scatter(trail, positions)
        self._drawing = self.scatter.show()
        self._drawing.add_class("alnb-plot")
        self.flat, self.strip = ipywidgets.HTML(), ipywidgets.HTML()
        self.pointed = Pointed(trail.setting.train, self.scatter.widget)
        self.number = ipywidgets.BoundedIntText(
            0, 0, len(trail.setting.train) - 1, description="image", layout=ipywidgets.Layout(width="170px"),
            tooltip="an image by its number: what pointing at it shows",
        )  # fmt: skip
        name = ipywidgets.HTML(f'<h3 style="margin:2px 0">{escape(trail.strategy.replace("_", " "))}, {escape(trail.arm)}</h3>')
        under = ipywidgets.HBox([self.number, self.pointed], layout=ipywidgets.Layout(align_items="center"))
        self.view = ipywidgets.VBox(
            [name, self._drawing, self.flat, under, self.strip],
            layout=ipywidgets.Layout(flex="1 1 400px", min_width="360px", padding="4px"),
        )
        self.number.observe(lambda change: self.pointed.set_trait("image", change.new), "value")
        self.pointed.observe(lambda change: self.number.set_trait("value", change.new), "image")
        self.scatter.widget.observe(lambda change: picked(change.new), "selection")

    def show(self, trail: Trail, strip: str, flat: str | None) -> None:
        """The run as it was in a cycle.

        Args:
            strip: the images that were asked for, as HTML. flat: likewise a picture, for a browser that cannot draw the plot.
        """
        self._frame["state"] = trail.states().numpy().astype("float64")
        # opacity, and beyond ten classes colour, are of the same coordinate; jscatter 1.0.1 works it out anew, and does not send it
        self.scatter.size(by="state") if _several(trail) else self.scatter.color(by="state")
        self.scatter.update_widget("points", self.scatter.get_point_list())
        self._drawing.layout.display = "" if flat is None else "none"
        self.flat.value, self.strip.value = flat or "", strip
        self.pointed.asked = {str(image): cycle for image, cycle in trail.asked_in().items()}

    def close(self) -> None:
        """Let go of the plot, in the kernel and in the browser."""
        close_all(self.view)


def close_all(view: ipywidgets.Widget) -> None:
    """Close a widget and all that it shows, and forget who watches them: else what is open is kept, and so the images that it holds."""
    for child in getattr(view, "children", ()):
        close_all(child)
    view.unobserve_all()
    view.close()


def _several(trail: Trail) -> bool:
    """Whether each class has a colour of its own."""
    return len(trail.setting.train.classes) <= len(CLASS_COLOURS)


def _scatter(trail: Trail, positions: Tensor) -> tuple[Any, Any]:
    """The plot of jupyter-scatter, and the table that it draws."""
    import warnings

    import pandas

    with warnings.catch_warnings():  # of its own use of pandas
        warnings.simplefilter("ignore")
        import jscatter
    train = trail.setting.train
    frame = pandas.DataFrame({
        "x": positions[:, 0].numpy(), "y": positions[:, 1].numpy(),
        "class": pandas.Categorical.from_codes(train.targets.tolist(), list(train.classes)),
        "state": 0.0,  # a number: of categories, those that no point has would be left out, and the others shown as their neighbours
    })  # fmt: skip
    (left, low), (right, high) = (end.tolist() for end in (positions.amin(0), positions.amax(0)))
    across, up = MARGIN * (right - left), MARGIN * (high - low)
    ranges = {"x_scale": (left - across, right + across), "y_scale": (low - up, high + up)}
    plot = jscatter.Scatter(data=frame, x="x", y="y", height=HEIGHT, **ranges)
    if _several(trail):
        plot.color(by="class", map=dict(zip(train.classes, exploration.colours(train.classes), strict=True)))
    else:
        plot.color(by="state", map=[PALE, *STATE_COLOURS], norm=(POOL, ASKED))
    plot.color(selected=MARKED, hover=MARKED)
    plot.size(by="state", map=list(SIZES), norm=(POOL, ASKED))
    plot.opacity(by="state", map=list(OPACITIES), norm=(POOL, ASKED))
    plot.axes(False)
    plot.background("white")
    return plot, frame
