"""How long `import alnb` takes beyond `import torch`."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

REPEATS = 7
SCRIPT = "import time, torch; a = time.perf_counter(); import alnb; print(time.perf_counter() - a)"


def measure() -> Iterator[dict[str, Any]]:
    """One row, in seconds: the one figure that is not a ratio."""
    times = [
        float(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout) for _ in range(REPEATS)
    ]
    detail = f"seconds; median of {REPEATS} fresh processes"
    yield {"name": "`import alnb` beyond `import torch`", "ratio": statistics.median(times), "bar": 0.3, "sense": "<=", "detail": detail}
