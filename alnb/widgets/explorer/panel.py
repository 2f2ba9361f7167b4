"""One run in the explorer: its scatter plot, the image under the pointer, and the queried images."""

import warnings
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import pandas
import torch
import traitlets
from torch import Tensor

from alnb.data import ImageSet
from alnb.widgets.explorer.pictures import PALE, STATE_COLOURS, colours, has_class_colours
from alnb.widgets.explorer.trail import POOL, QUERIED, Trail

HEIGHT = 380  # pixels, of a scatter plot
MAX_BYTES = 16 * 2**20  # the browser gets all pixels of a pool up to this size, and single images of a larger one
MARGIN = 0.04  # of a plot's width and height, so that no point is cut off
SIZES, OPACITIES = (4, 9, 16), (0.3, 0.9, 1.0)  # of points, by state
MARKED = "#FF00FF"  # points under the pointer or selected; no class has this colour
NO_IMAGE = -1


class Pointed(anywidget.AnyWidget):
    """The image under the pointer, with its class and cycle. The browser draws it, so that it need not wait for the kernel."""

    _esm = Path(__file__).with_name("pointed.js").read_text()  # anywidget 0.11 never releases widgets whose source is a path
    plot = traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization)  # of jupyter-scatter
    image = traitlets.Int(NO_IMAGE).tag(sync=True)  # a global index
    queried = traitlets.Dict().tag(sync=True)  # the cycle of each queried image
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    targets = traitlets.List(traitlets.Int()).tag(sync=True)
    size = traitlets.Tuple().tag(sync=True)  # height and width of an image

    def __init__(self, train: ImageSet, plot: ipywidgets.Widget) -> None:
        """`plot` is a widget with a trait `hovering`: the global index of the point under the pointer."""
        self._images = train.images
        first = train.images.batch(torch.tensor([0]))
        self._sends_all = len(train) * first.numel() <= MAX_BYTES
        super().__init__(plot=plot, classes=list(train.classes), targets=train.targets.tolist(), size=tuple(first.shape[-2:]))
        self.on_msg(self._answer)

    def _answer(self, _: object, content: Any, buffers: object) -> None:
        """Send pixels, uint8 [n,H,W,3], of one image, or of all if the browser asks for all and the pool is small."""
        image = content["image"]
        if image is not None or self._sends_all:
            images = list(range(len(self.targets))) if image is None else [int(image)]
            pixels = self._images.batch(torch.tensor(images)).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            self.send({"images": images}, [pixels.tobytes()])


class Panel:
    """The widgets of one run."""

    def __init__(self, trail: Trail, positions: Tensor, select: Callable[[Sequence[int]], None]) -> None:
        """`positions` [N,2] of the images. `select` is called with the global indices of a selection."""
        self.scatter, self._frame = _scatter(trail, positions)
        self._plot = self.scatter.show()
        self._plot.add_class("alnb-plot")
        self.fallback, self.strip = ipywidgets.HTML(), ipywidgets.HTML()
        self.pointed = Pointed(trail.train, self.scatter.widget)
        self.number = ipywidgets.BoundedIntText(
            0, 0, len(trail.train) - 1, description="image", layout=ipywidgets.Layout(width="170px"),
            tooltip="the number of an image, instead of pointing at it",
        )  # fmt: skip
        name = ipywidgets.HTML(f'<h3 style="margin:2px 0">{escape(trail.title)}, {escape(trail.tags["arm"])}</h3>')
        pointed = ipywidgets.HBox([self.number, self.pointed], layout=ipywidgets.Layout(align_items="center"))
        self.view = ipywidgets.VBox(
            [name, self._plot, self.fallback, pointed, self.strip],
            layout=ipywidgets.Layout(flex="1 1 400px", min_width="360px", padding="4px"),
        )
        self.number.observe(lambda change: self.pointed.set_trait("image", change.new), "value")
        self.pointed.observe(lambda change: self.number.set_trait("value", change.new), "image")
        self.scatter.widget.observe(lambda change: select(change.new), "selection")

    def show(self, trail: Trail, strip: str, fallback: str | None) -> None:
        """Show the run as `trail` has it, with HTML of the queried images, and instead of the plot for a browser without WebGL."""
        self._frame["state"] = trail.states().numpy().astype("float64")
        # opacity, and the colour of states, use the same coordinate as size; jscatter 1.0.1 recomputes it but does not send it
        self.scatter.size(by="state") if has_class_colours(trail.train.classes) else self.scatter.color(by="state")
        self.scatter.update_widget("points", self.scatter.get_point_list())
        self._plot.layout.display = "" if fallback is None else "none"
        self.fallback.value, self.strip.value = fallback or "", strip
        self.pointed.queried = {str(image): cycle for image, cycle in trail.queried_in().items()}


def close_all(view: ipywidgets.Widget) -> None:
    """Close a widget with all that is inside it, and drop its observers: ipywidgets keeps open widgets, and so their images."""
    for child in getattr(view, "children", ()):
        close_all(child)
    view.unobserve_all()
    view.close()


def _scatter(trail: Trail, positions: Tensor) -> tuple[Any, Any]:
    """The plot of jupyter-scatter, and the table that it draws."""
    with warnings.catch_warnings():  # jscatter uses pandas in a way that warns
        warnings.simplefilter("ignore")
        import jscatter
    train = trail.train
    frame = pandas.DataFrame({
        "x": positions[:, 0].numpy(), "y": positions[:, 1].numpy(),
        "class": pandas.Categorical.from_codes(train.targets.tolist(), list(train.classes)),
        "state": 0.0,  # a number: jscatter leaves out unused categories and then mixes up the others
    })  # fmt: skip
    (left, low), (right, high) = (end.tolist() for end in (positions.amin(0), positions.amax(0)))
    across, up = MARGIN * (right - left), MARGIN * (high - low)
    ranges = {"x_scale": (left - across, right + across), "y_scale": (low - up, high + up)}
    plot = jscatter.Scatter(data=frame, x="x", y="y", height=HEIGHT, **ranges)
    if has_class_colours(train.classes):
        plot.color(by="class", map=dict(zip(train.classes, colours(train.classes), strict=True)))
    else:
        plot.color(by="state", map=[PALE, *STATE_COLOURS], norm=(POOL, QUERIED))
    plot.color(selected=MARKED, hover=MARKED)
    plot.size(by="state", map=list(SIZES), norm=(POOL, QUERIED))
    plot.opacity(by="state", map=list(OPACITIES), norm=(POOL, QUERIED))
    plot.axes(False)
    plot.background("white")
    return plot, frame
