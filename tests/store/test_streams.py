import torch
from hypothesis import given
from hypothesis import strategies as st

from alnb.store import streams as rng

places = st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=3)), max_size=4).map(tuple)


@given(st.integers(0, 2**40), places, places)
def test_a_stream_depends_on_the_place_and_on_nothing_else(seed: int, here: tuple, there: tuple) -> None:
    assert rng.integer(seed, *here) == rng.integer(seed, *here)
    assert 0 <= rng.integer(seed, *here) < 2**63
    assert (rng.integer(seed, *here) == rng.integer(seed, *there)) == (here == there)
    assert rng.integer(seed, *here) != rng.integer(seed + 1, *here)


def test_places_do_not_run_together() -> None:
    assert len({rng.integer(0, "a", 11), rng.integer(0, "a", 1, 1), rng.integer(0, "a1", 1), rng.integer(0, "a", "11")}) == 4


def test_generator_draws_what_its_place_says() -> None:
    first = torch.rand(4, generator=rng.generator(3, "augment", 1, 2))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=rng.generator(3, "augment", 1, 2)))


def test_scope_leaves_the_global_stream_alone() -> None:
    state = torch.random.get_rng_state()
    with rng.scope(0, "init"):
        inside = torch.rand(3)
    with rng.scope(0, "init"):
        assert torch.equal(inside, torch.rand(3))
    assert torch.equal(state, torch.random.get_rng_state())
