"""Checks of parameters: the error names the place, the value and what is allowed."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any


def one_of(where: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises: ValueError if `value` is not in `allowed`. `where` names the parameter, as in "Recipe.schedule"."""
    values = tuple(allowed)
    if value not in values:
        raise ValueError(f"{where} is {value!r}: it must be one of {', '.join(map(str, values))}")


def at_least(where: str, value: Any, low: int) -> None:
    """Raises: ValueError if `value` is not an int (a bool is not), or is below `low`."""
    if type(value) is not int or value < low:
        raise ValueError(f"{where} is {value!r}: it must be a whole number, at least {low}")


def within(where: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises: ValueError if `value` is not a number with `low` <= `value` < `high`; with `above`, `low` itself is not allowed either."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value < high or (above and value == low):
        start = f"above {low}" if above else f"at least {low}"
        end = ", and finite" if high == math.inf else f" and below {high}"
        raise ValueError(f"{where} is {value!r}: it must be {start}{end}")
