"""The type checker that pytest puts round every function of the pure modules (see `--jaxtyping-packages` in pyproject.toml)."""

from importlib.util import find_spec
from typing import Any

checked: Any = lambda function: function  # noqa: E731  # where beartype is missing, as on a borrowed machine, nothing is checked
if find_spec("beartype"):
    import beartype

    # whole numbers pass for floats, as everywhere in Python
    checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
