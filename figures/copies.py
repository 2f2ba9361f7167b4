"""Executed notebooks for visitors who run nothing: ``python -m figures.copies [NAME ...]`` (`make copies`) writes figures/notebooks/

Each is executed at scale laptop. Paths of this machine are removed, and the copy remembers what it was made from: a digest of the notebook,
and its run folders, whose names change with everything that decides a record.
"""

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from alnb import store
from alnb.notebook import execute, parameters

PROJECT = Path(__file__).parents[1]
COPIES = PROJECT / "figures" / "notebooks"
RUNS = PROJECT / "runs" / "copies"
MEASURED = PROJECT / "build" / "papers"  # runs of `python -m benchmarks bengar2021 yi2022`, which the papers' notebooks find here
NOTEBOOKS = {
    "quickstart": "quickstart.ipynb",
    "bengar2021-advisor": "bengar2021/advisor.ipynb",
    "bengar2021-table1": "bengar2021/table1.ipynb",
    "yi2022-table1": "yi2022/table1.ipynb",
    "teach": "teach.ipynb",
    "explore": "explore.ipynb",
    "label": "label.ipynb",
}
MAX_BYTES = 300_000


def make(name: str) -> None:
    """Execute the notebook called `name`, and write its copy."""
    source = PROJECT / "notebooks" / NOTEBOOKS[name]
    runs = MEASURED / name.split("-")[0] if "-" in name else RUNS / name
    known = parameters.read(source)
    values = {"scale": "laptop", "runs": str(runs), "figures": str(RUNS / "figures")}
    executed = execute.execute(source, {key: value for key, value in values.items() if key in known}, RUNS / f"{name}.ipynb")
    copy = json.loads(executed.read_text())
    copy["metadata"].pop("papermill", None)
    for cell in copy["cells"]:
        cell["metadata"].pop("papermill", None)
    folders = sorted(folder.name for folder in runs.rglob("*") if (folder / "manifest.json").exists())
    copy["metadata"]["alnb"] = {"notebook": parameters.digest(source), "runs": folders, "commit": store.commit()}
    text = json.dumps(copy, indent=1, ensure_ascii=False) + "\n"
    text = re.sub(re.escape(str(PROJECT)) + "/?", "", text)
    text = re.sub(r"iVBORw0KGgo[A-Za-z0-9+/=]{2000,}(\\n)?", lambda match: smaller(match[0]), text)
    COPIES.mkdir(parents=True, exist_ok=True)
    (COPIES / f"{name}.ipynb").write_text(text, encoding="utf-8")


def smaller(png: str) -> str:
    """A picture, as base64, with a palette of 96 colours and at most 900 pixels wide."""
    picture = Image.open(io.BytesIO(base64.b64decode(png.removesuffix("\\n")))).convert("RGB")
    picture.thumbnail((900, 4000))
    buffer = io.BytesIO()
    picture.quantize(96, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(png, base64.b64encode(buffer.getvalue()).decode(), key=len)


def made_from(name: str) -> dict[str, Any]:
    """What the committed copy called `name` was made from: digest of the notebook, run folders, commit."""
    origin: dict[str, Any] = json.loads((COPIES / f"{name}.ipynb").read_text(encoding="utf-8"))["metadata"]["alnb"]
    return origin


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NOTEBOOKS:
        make(wanted)
        print(f"{wanted}: {(COPIES / f'{wanted}.ipynb').stat().st_size:,} bytes")
