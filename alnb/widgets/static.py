"""Figures as PNG files, and as HTML."""

import io
from base64 import b64encode
from html import escape

from matplotlib.figure import Figure


def as_png(figure: Figure, dpi: int = 96) -> bytes:
    """A figure as a PNG file. pyplot is not used: callbacks in several threads would share its state."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})  # a larger file, but a faster one
    return out.getvalue()


def as_img(content: bytes, alt: str, style: str = "max-width:100%") -> str:
    """HTML that shows a PNG file, with `alt` as its text for people who cannot see it."""
    return f'<img alt="{escape(alt)}" style="display:inline-block;{style}" src="data:image/png;base64,{b64encode(content).decode()}">'
