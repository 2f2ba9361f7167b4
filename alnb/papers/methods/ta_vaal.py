"""TA-VAAL: the game of VAAL, in which decoder and discriminator also see how large a loss the task's net predicts for each image.

Source: Kim et al. 2021 (Task-aware variational adversarial active learning), section 3, with the settings of the authors' code
(cubeyoung/TA-VAAL). The task's net learns to rank losses: `learning_loss.learner(base, ranking=True)`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alnb import store
from alnb.acquire.query import Query
from alnb.acquire.vaal import VAAL, Conditioning, least_labelled
from alnb.learn.train import predict
from alnb.papers.methods import learning_loss

GAME = VAAL(kl="mean_all", beta=1.0, vae_steps=1, adv_steps=1)
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # mean and deviation that the authors' code normalises by


@dataclass(frozen=True)
class TAVAAL:
    """Queries the images that VAAL's discriminator thinks least likely to be labelled, given their predicted losses r.

    The decoder receives the code and sigmoid(r), the discriminator the mean and r. In the first update noise in [0, 1) replaces both,
    as in the authors' code. Losses are predicted once for each query, in evaluation mode and without augmentation. An epoch is a pass
    over the labelled images and the candidates.

    Differs from the authors' code: both sets are shuffled; in the default, which is ours, scores do not depend on one another, and images
    are in [-1, 1].

    Memory: as `VAAL`, and O(candidates + labelled).
    """

    game: VAAL = GAME

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n], least labelled first. Raises: as `least_labelled`; ValueError if the net predicts no losses."""
        net, rows = learning_loss.with_module(query.trained), torch.cat([query.pool.labelled, query.candidates])
        predicted = predict(net.predicted_loss, query.pool.images, rows)[:, None]
        return least_labelled(self.game, query, self.game.count(len(rows)), Conditioning(predicted, store.fingerprint(net.state_dict())))


AS_RELEASED = TAVAAL(replace(GAME, eval_sampling=False, colours=CIFAR10))
"""As in the authors' code. When scoring, batch normalisation takes its statistics from each chunk of candidates. Images have six times the
variance of those in [-1, 1], so the divergence weighs a sixth as much against their error. No image is mirrored, unlike in VAAL's code."""

PAPER = replace(AS_RELEASED, game=replace(AS_RELEASED.game, kl="mean"))
"""The paper's objective, whose divergence is an expectation as in VAAL. All that the paper leaves open is as in the code."""
