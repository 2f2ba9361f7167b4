from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import alnb
from alnb import Experiment, Stream, acquire
from alnb.data import DataError, Embedded, ImageSet, pixels
from alnb.loop import oracle
from alnb.report import records

HEAD = alnb.Recipe(epochs=20, batch=16, lr=1.0, weight_decay=0, precision="float32")
LEARNER = alnb.Learner(partial(alnb.nets.linear, width=6), HEAD)


def embedded(image_set: ImageSet, views: int = 0) -> Embedded:
    generator = (Stream(0) / "features").generator()
    features = torch.randn(len(image_set), 6, generator=generator) + 3 * torch.eye(3).repeat(1, 2)[image_set.targets]
    drawn = features + 0.1 * torch.randn(views, *features.shape, generator=generator) if views else None
    return Embedded(image_set.images, features, drawn)


def test_features_stand_for_images(train: ImageSet) -> None:
    source = embedded(train, views=3)
    indices = torch.tensor([5, 0, 5])
    assert torch.equal(source.batch(indices), source.features[indices]) and len(source) == 60 and source.shape == (6,)
    assert pixels(source) is train.images and pixels(train.images) is train.images
    drawn = torch.stack([source.view(indices, (Stream(0) / k).generator()) for k in range(50)])
    assert source.views is not None
    for row, index in enumerate(indices.tolist()):
        views = {tuple(v) for v in drawn[:, row].tolist()}
        assert views == {tuple(v) for v in source.views[:, index].tolist()}  # every view of this image, and none of another
    with pytest.raises(IndexError):
        source.view(torch.tensor([60]), Stream(0).generator())
    plain = embedded(train)
    assert torch.equal(plain.view(indices, Stream(0).generator()), plain.batch(indices)) and plain.fingerprint != source.fingerprint


def test_features_that_do_not_fit_are_refused(train: ImageSet) -> None:
    with pytest.raises(DataError, match=r"features must be float \[60,D\].*\[59, 4\]"):
        Embedded(train.images, torch.zeros(59, 4))
    with pytest.raises(DataError, match=r"views must be \[V,60,4\].*\[2, 60, 5\]"):
        Embedded(train.images, torch.zeros(60, 4), torch.zeros(2, 60, 5))
    with pytest.raises(DataError, match="features of 1 images are not finite"):
        Embedded(train.images, torch.zeros(60, 4).index_fill(0, torch.tensor([7]), torch.inf))


@pytest.mark.parametrize("strategy", ["entropy", "kcenter", "random"])
def test_the_loop_runs_on_features(strategy: str, train: ImageSet, test: ImageSet, tmp_path: Path) -> None:
    experiment = Experiment(
        alnb.Pool.of(embedded(train, views=2)), replace(test, images=embedded(test)), LEARNER, acquire.STRATEGIES[strategy],
        oracle.simulated(train.targets), alnb.Protocol(9, 6, 3), tags={"arm": "frozen", "seed": 0},
    )  # fmt: skip
    first = [cycle.reproducible for cycle in alnb.cycles(tmp_path / "a", experiment)]
    assert first == [cycle.reproducible for cycle in alnb.cycles(tmp_path / "b", experiment)]
    assert first[-1]["metrics"]["accuracy"] > 0.8
    with pytest.raises(alnb.store.ManifestDiffers, match="tags"):
        next(alnb.cycles(tmp_path / "a", replace(experiment, tags={"arm": "scratch", "seed": 0})))
    frame = records.frame(records.find(tmp_path, arm="frozen"))
    assert list(frame["cycle"]) == [0, 1, 2] * 2 and set(frame["seed"]) == {0}
    assert not records.find(tmp_path, arm="scratch")


def test_fewer_labels_than_a_batch_are_learned_from(train: ImageSet) -> None:
    sizes: list[int] = []

    def loss(net: alnb.nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return alnb.train.cross_entropy(net, x, y)

    learner = replace(LEARNER, recipe=replace(HEAD, epochs=3, batch=256), loss=loss)
    alnb.train.fit(learner.build(3, Stream(0)), embedded(train), torch.arange(5), train.targets[:5], learner, Stream(0))
    assert sizes == [5, 5, 5]
