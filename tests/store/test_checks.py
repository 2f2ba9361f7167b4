import math

import pytest

from alnb.store.checks import at_least, one_of, within


@pytest.mark.parametrize("value", [-1, 0, True, 2.0, "2", None, math.nan])
def test_a_whole_number_has_a_minimum(value: object) -> None:
    at_least("Recipe.batch", 1, 1)
    with pytest.raises(ValueError, match=rf"^Recipe.batch is {value!r}: .* whole number, at least 1$"):
        at_least("Recipe.batch", value, 1)


def test_a_value_is_one_of_those_allowed() -> None:
    one_of("Protocol.init", "warm", ("fresh", "warm"))
    with pytest.raises(ValueError, match=r"^Protocol.init is 'cold': .* fresh, warm$"):
        one_of("Protocol.init", "cold", (name for name in ("fresh", "warm")))


@pytest.mark.parametrize("value", [-0.1, 1, math.inf, math.nan, "0.5", None, True])
def test_a_number_lies_within_a_range_without_its_end(value: object) -> None:
    for good in (0, 0.0, 0.999):
        within("Recipe.momentum", good, 0, 1)
    with pytest.raises(ValueError, match=rf"^Recipe.momentum is {value!r}: .* at least 0 and below 1$"):
        within("Recipe.momentum", value, 0, 1)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_the_start_of_a_range_may_be_left_out_and_the_end_may_be_open(value: float) -> None:
    within("Recipe.lr", 1e-9, 0, above=True)
    within("Recipe.weight_decay", 0, 0)
    with pytest.raises(ValueError, match=rf"^Recipe.lr is {value!r}: .* above 0, and finite$"):
        within("Recipe.lr", value, 0, above=True)
