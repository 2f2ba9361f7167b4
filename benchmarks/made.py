"""What several benchmarks share: made-up features, and the peak memory of a fresh process."""

import subprocess
import sys

import torch
from torch import Tensor

from alnb import Stream

STREAM = Stream(0) / "benchmark"
PROBE = """
import pathlib, re, torch
def status(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
torch.set_num_threads(2)
{prepare}
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far; ru_maxrss would keep even the parent's
before = status("VmRSS")
{work}
print(status("VmHWM") - before)
"""


def clusters(n: int, width: int, number: int, stream: Stream, deviations: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Features [n,width] as pooled ones of a ResNet are: Gaussian clusters, of standard deviations between two, through ReLU."""
    draw, (low, high) = stream.generator(), deviations
    means, scale = torch.randn(number, width, generator=draw), low + (high - low) * torch.rand(number, 1, generator=draw)
    which = torch.randint(number, (n,), generator=draw)
    return torch.randn(n, width, generator=draw).mul_(scale[which]).add_(means[which]).relu_()


def extra_memory(prepare: str, work: str) -> tuple[float, str]:
    """Bytes by which `work` raises the peak resident size (Linux: VmHWM) of a fresh process; NaN and the reason where it fails."""
    process = subprocess.run([sys.executable, "-c", PROBE.format(prepare=prepare, work=work)], capture_output=True, text=True)
    if process.returncode:
        return float("nan"), f"not measured: {process.stderr.strip().splitlines()[-1]}"
    return float(process.stdout), ""
