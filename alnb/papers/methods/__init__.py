"""Published methods that train nets of their own and that one paper compares; and `STRATEGIES`, those of `acquire` and these."""

from alnb import acquire
from alnb.acquire import Strategy
from alnb.papers.methods.gcn import CoreGCN, UncertainGCN
from alnb.papers.methods.pal import PAL

STRATEGIES: dict[str, Strategy] = {**acquire.STRATEGIES, "core_gcn": CoreGCN(), "uncertain_gcn": UncertainGCN(), "pal": PAL()}
