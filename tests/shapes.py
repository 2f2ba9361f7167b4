"""The type checker that pytest puts round every function of the pure modules (see `--jaxtyping-packages` in pyproject.toml)."""

from typing import Any

import beartype

# whole numbers pass for floats, as everywhere in Python
checked: Any = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
