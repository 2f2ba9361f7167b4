"""BALD and BatchBALD, each against its definition, and where their draws come from."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query_of
from torch import Tensor, nn

from alnb.acquire import STRATEGIES
from alnb.acquire.bayes import BALD, BatchBALD, Draws, bald, batch_bald
from alnb.learn import heads
from alnb.store import Stream


def draws_of(m: int, classes: int = 3, draws: int = 6, seed: int = 0) -> Tensor:
    """Log-probabilities [M,C,K] in float64."""
    generator = (Stream(seed) / "draws").generator()
    mean, noise = (torch.randn(m, classes, k, generator=generator, dtype=torch.float64) for k in (1, draws))
    return (2 * mean + noise).log_softmax(1)


def naive_joint(probs: Tensor, rows: list[int]) -> float:
    """The information that the labels of `rows` have together, over all configurations."""
    _, classes, draws = probs.shape
    entropy = conditional = 0.0
    for labels in product(range(classes), repeat=len(rows)):
        each = torch.stack([probs[row, label] for row, label in zip(rows, labels, strict=True)]).prod(0)
        entropy -= float(each.mean() * each.mean().log())
        conditional -= float((each * each.log()).mean())
    assert draws == probs.shape[2]
    return entropy - conditional


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(2, 7), st.integers(0, 99))
def test_bald_is_the_information_about_the_draw(m: int, classes: int, draws: int, seed: int) -> None:
    log_probs = draws_of(m, classes, draws, seed)
    expected = [naive_joint(log_probs.exp(), [row]) for row in range(m)]
    assert bald(log_probs).tolist() == pytest.approx(expected, abs=1e-12)
    assert float(bald(log_probs[:, :, :1].expand(-1, -1, 4)).max()) == pytest.approx(0, abs=1e-12)  # draws that agree


def test_bald_of_certain_predictions_that_disagree() -> None:
    certain = torch.eye(3)[None].log()  # draw k says class k
    assert float(bald(certain)) == pytest.approx(np.log(3))


def test_batch_bald_picks_greedily_by_joint_information() -> None:
    log_probs, chosen = draws_of(40), []
    for _ in range(4):
        gains = {row: naive_joint(log_probs.exp(), [*chosen, row]) for row in range(40) if row not in chosen}
        chosen.append(max(gains, key=lambda row: gains[row]))
    assert batch_bald(log_probs, 4, torch.Generator()).tolist() == chosen


def test_batch_bald_bounds_change_no_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full scan of 2,000 rows gives the same, both with all configurations and with drawn ones."""
    log_probs = draws_of(2000, 4, 8)
    fast = batch_bald(log_probs, 12, torch.Generator().manual_seed(0), 300)
    monkeypatch.setattr("alnb.acquire.bayes.ROUNDING", 100.0)  # no bound is below the best gain by so much
    assert batch_bald(log_probs, 12, torch.Generator().manual_seed(0), 300).tolist() == fast.tolist()


def test_drawn_configurations_estimate_the_joint_information() -> None:
    """Five picks by drawn configurations hold nearly the information of those by all configurations."""
    log_probs = draws_of(60)
    exact, drawn = (batch_bald(log_probs, 5, torch.Generator().manual_seed(0), r).tolist() for r in (3**5, 26))
    assert naive_joint(log_probs.exp(), drawn) > 0.97 * naive_joint(log_probs.exp(), exact)


def test_batch_bald_is_that_of_scikit_activeml() -> None:
    theirs = pytest.importorskip("skactiveml.pool").batch_bald
    log_probs = draws_of(300, 4, 8)
    utilities = theirs(log_probs.exp().permute(2, 0, 1).numpy().copy(), batch_size=4, n_MC_samples=4**4, random_state=0)
    assert batch_bald(log_probs, 4, torch.Generator()).tolist() == np.nanargmax(utilities, axis=1).tolist()


def test_batch_bald_does_not_ask_for_copies() -> None:
    """BALD asks for the best row and its copies; together these tell less."""
    log_probs = draws_of(30)
    best = int(bald(log_probs).argmax())
    copies = torch.cat([log_probs[best][None].repeat(5, 1, 1), log_probs])
    assert len(set(batch_bald(copies, 3, torch.Generator()).tolist()) & set(range(5))) < 2


def test_dropout_of_the_features_is_dropout_of_the_weights() -> None:
    head, features = nn.Linear(6, 3), torch.randn(5, 6, generator=Stream(0).generator())
    drawn = heads.dropout(head, 4, torch.Generator().manual_seed(1))
    kept = torch.rand(4, 1, 6, generator=torch.Generator().manual_seed(1)) >= heads.DROPOUT
    expected = torch.stack([head(features * mask / (1 - heads.DROPOUT)).log_softmax(1) for mask in kept], 2)
    torch.testing.assert_close(drawn.log_probs(features), expected.detach())


def test_an_ensemble_is_fitted_to_the_labels_of_the_pool() -> None:
    query = query_of()
    known, generator = query.pool.labelled, (query.stream / "draws").generator()
    drawn = heads.ensemble(query.features, known, query.pool.labels[known], 3, 5, generator)
    assert torch.equal(Draws("ensemble", K=5)(query), drawn.log_probs(query.features[query.candidates]))


@pytest.mark.parametrize("source", ["dropout", "ensemble"])
@pytest.mark.parametrize("kind", [BALD, BatchBALD])
def test_draws_come_from_the_source_that_is_named(source: str, kind: type[BALD | BatchBALD]) -> None:
    query, draws = query_of(4), Draws(source, K=5)
    assert draws(query).shape == (50, 3, 5)
    if kind is BALD:
        order = bald(draws(query)).sort(descending=True, stable=True).indices[:4]
        assert kind(draws)(query).tolist() == query.candidates[order].tolist()
    else:
        assert len(kind(draws)(query).unique()) == 4


def test_wrong_draws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Draws.source is 'laplace'.*dropout, ensemble"):
        Draws("laplace")
    query = query_of()
    query.net.head = nn.Sequential(query.net.head)
    with pytest.raises(ValueError, match="Sequential"):
        BALD()(query)


@pytest.mark.parametrize("name", ["badge", "bald", "batch_bald", "cluster_margin", "power_margin"])
def test_no_net_no_answer(name: str) -> None:
    with pytest.raises(ValueError, match="no trained net"):
        STRATEGIES[name](replace(query_of(), net=None))
