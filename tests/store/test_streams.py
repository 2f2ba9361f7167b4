import torch
from hypothesis import given
from hypothesis import strategies as st

from alnb.store import Stream

places = st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=3)), max_size=4).map(tuple)


@given(st.integers(0, 2**40), places, places)
def test_a_stream_depends_on_the_place_and_on_nothing_else(seed: int, here: tuple, there: tuple) -> None:
    assert Stream(seed, here).seed == Stream(seed, here).seed
    assert 0 <= Stream(seed, here).seed < 2**63
    assert (Stream(seed, here).seed == Stream(seed, there).seed) == (here == there)
    assert Stream(seed, here).seed != Stream(seed + 1, here).seed


def test_places_do_not_run_together() -> None:
    assert (
        len({(Stream(0) / "a" / 11).seed, (Stream(0) / "a" / 1 / 1).seed, (Stream(0) / "a1" / 1).seed, (Stream(0) / "a" / "11").seed}) == 4
    )


def test_generator_draws_what_its_place_says() -> None:
    first = torch.rand(4, generator=(Stream(3) / "augment" / 1 / 2).generator())
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=(Stream(3) / "augment" / 1 / 2).generator()))


def test_scope_leaves_the_global_stream_alone() -> None:
    state = torch.random.get_rng_state()
    with (Stream(0) / "init").scope():
        inside = torch.rand(3)
    with (Stream(0) / "init").scope():
        assert torch.equal(inside, torch.rand(3))
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_address_is_built_place_by_place() -> None:
    assert Stream(3) / "cycle" / 1 == Stream(3, ("cycle", 1)) and str(Stream(3) / "cycle" / 1) == "cycle 1" and str(Stream(3)) == ""
