"""Checks of parameters: the error names the place, the value and what is allowed."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def one_of(where: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises: ValueError if `value` is not in `allowed`. `where` names the parameter, as in "Recipe.schedule"."""
    values = tuple(allowed)
    if value not in values:
        raise ValueError(f"{where} is {value!r}: it must be one of {', '.join(map(str, values))}{nearest(value, values)}")


def nearest(name: Any, known: Iterable[Any]) -> str:
    """A question that names the nearest of the `known` names, in brackets; "" if none is near."""
    close = difflib.get_close_matches(name, [each for each in known if isinstance(each, str)], n=1) if isinstance(name, str) else []
    return f" (did you mean {str(close[0])!r}?)" if close else ""


def at_least(where: str, value: Any, low: int) -> None:
    """Raises: ValueError if `value` is not a whole number, of Python or NumPy (a bool is none), or is below `low`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{where} is {value!r}: it must be a whole number, at least {low}")


def within(where: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises: ValueError if `value` is not a number with `low` <= `value` < `high`; with `above`, `low` itself is not allowed either."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value < high or (above and value == low):
        start = f"above {low}" if above else f"at least {low}"
        end = ", and finite" if high == math.inf else f" and below {high}"
        raise ValueError(f"{where} is {value!r}: it must be {start}{end}")
