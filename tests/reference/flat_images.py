"""Image files of a single colour, for tests of folders."""

from pathlib import Path

from PIL import Image


def flat_image(path: Path, shade: int, size: int = 12) -> Path:
    """An image file whose colour, and so whose sha256, depends on `shade`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade % 256, shade // 256, 90)).save(path)
    return path
