"""Colours and markers of strategies and classes, made for readers with any colour vision."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any
from zlib import crc32

from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from alnb.acquire import STRATEGIES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DARK = ("#000000", "#6600CC", "#663300")
CLASS_COLOURS = (*COLOURS, *DARK[1:])
"""Ten colours. Any two differ by 16 or more in CIE L*a*b*, whatever the colour vision of the reader (Machado et al. 2009)."""


def looks(strategies: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each strategy, as keyword arguments for matplotlib. No two strategies have the same colour.

    The first ten members of `STRATEGIES` have the same look in every figure. Another name has a colour that depends on the name, or the
    next free one. After ten names the ten colours come again, mixed with grey, and are harder to tell apart.
    """
    first = {name: k for k, name in enumerate(STRATEGIES)}
    names, slots, ten = list(dict.fromkeys(strategies)), dict[str, int](), len(CLASS_COLOURS)
    for name in sorted(names, key=lambda name: (first.get(name, len(first)), name)):
        start, taken = first.get(name, crc32(name.encode())), set(slots.values())
        slots[name] = next(slot for turn in count() for k in range(ten) if (slot := turn * ten + (start + k) % ten) not in taken)
    return {name: {"color": _colour(slots[name]), "marker": MARKERS[slots[name] % len(MARKERS)]} for name in names}


def _colour(slot: int) -> str:
    """The colour of a slot; of the slots from 10 on, closer and closer to grey."""
    turn, place = divmod(slot, len(CLASS_COLOURS))
    red, green, blue = (0.5 + (value - 0.5) / 2**turn for value in to_rgb(CLASS_COLOURS[place]))
    return to_hex((red, green, blue)).upper()


def class_colour(label: int) -> str:
    """The colour of class number `label`. After ten classes the colours come again."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def class_edge(label: int) -> str:
    """The colour of an edge that is visible around `class_colour`: white or black."""
    return "white" if class_colour(label) in DARK else "black"


def draw_legend(figure: Any, marks: Mapping[str, Mapping[str, Any]], classes: Sequence[str] = ()) -> None:
    """Draw a legend beside a figure: the marks, then the colours of the classes if there are at most ten.

    marks: by name, properties of a `Line2D`.
    """
    named = enumerate(classes) if len(classes) <= len(CLASS_COLOURS) else ()
    entries = [*marks.items(), *((name, {"color": class_colour(c), "markeredgecolor": class_edge(c)}) for c, name in named)]
    common: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 6}
    handles = [Line2D([], [], label=name, **common | dict(look)) for name, look in entries]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
