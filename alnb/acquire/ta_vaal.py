"""TA-VAAL: VAAL's game, in which the decoder and the discriminator are told how large a loss the task's net expects of each image.

Source: Kim et al. 2021 (Task-aware variational adversarial active learning), section 3, with the settings of the authors' code
(cubeyoung/TA-VAAL). The net that is queried learns to rank losses: `learning_loss.learner(base, ranking=True)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import learning_loss
from alnb.acquire.query import Query
from alnb.acquire.vaal import VAAL, Given, least_labelled
from alnb.learn.train import predict

GAME = VAAL(kl="mean_all", beta=1.0, vae_steps=1, adv_steps=1)


@dataclass(frozen=True)
class TAVAAL:
    """Those that VAAL's discriminator holds for the least labelled, when it and the decoder are told the predicted losses r.

    The decoder gets the code and sigmoid(r), the discriminator the mean and r itself; in the first update noise in [0, 1) stands for
    both, as in the authors' code. The predictions are computed once for each query, by the net in evaluation mode and without
    augmentation. An epoch counts the labelled images and the candidates.

    Differs from the authors' code: both sets are shuffled, and scores do not depend on one another (`AS_RELEASED` undoes the latter).

    Memory: as `VAAL`, and O(candidates + labelled).
    """

    game: VAAL = GAME

    def __call__(self, query: Query) -> Tensor:
        """The `query.n` candidates whose logits of being labelled are the smallest, smallest first.

        Raises:
            ValueError: the net predicts no losses, nothing is labelled, or there are no candidates.
            train.NonFiniteLoss: it names the update.
            store.Corrupted: the checkpoint in `query.folder` is damaged, or belongs to another training.
        """
        net, labelled = learning_loss.net_of(query), query.pool.labelled
        rows = torch.cat([labelled, query.candidates])
        predicted = predict(net.predicted_loss, query.pool.images, rows)[:, None]
        given = Given(predicted[: len(labelled)], predicted[len(labelled) :], store.fingerprint(net.state_dict()))
        return least_labelled(self.game, query, self.game.count(len(rows)), given)


AS_RELEASED = TAVAAL(replace(GAME, eval_sampling=False))
"""With batch normalisation that takes its statistics from the chunk of candidates that is scored."""
