"""Pretexts: tasks whose labels come from the images themselves, each as a loss of every image."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from alnb.learn.nets import Net
from alnb.learn.pretexts import colorization, jigsaw, rotation, simsiam


@dataclass(frozen=True)
class Pretext:
    """A task whose labels come from the images themselves."""

    name: str
    outputs: int  # of the net's head
    loss: Callable[[Net, Tensor, Tensor], Tensor]  # as `train.Loss`; it ignores the labels
    head: Callable[[int, int], nn.Module] = nn.Linear  # from the width of the trunk and the number of outputs
    views: int = 1  # random views of each image in one call of the loss
    draws: int = 0  # an image's loss is the mean over this many draws of views; 0: one loss, of the image without augmentation
    spread: Callable[[Net, Tensor], float] | None = None  # of images [B,3,H,W]: near 1 when healthy, 0 when collapsed
    # share [B] of right answers about images [B,3,H,W], in evaluation mode; None: no answer is right. `pretrain` describes it if it decides
    correct: Callable[[Net, Tensor], Tensor] | None = field(default=None, metadata={"result": False})


PRETEXTS: dict[str, Pretext] = {
    pretext.name: pretext
    for pretext in (
        Pretext("rotation", rotation.TURNS, rotation.rotation_loss, correct=rotation.rotation_correct),
        Pretext("simsiam", 2048, simsiam.simsiam_loss, simsiam.SimSiamHead, views=2, draws=8, spread=simsiam.spread),
        Pretext("colorization", 2, colorization.colour_regression_loss, colorization.ColourHead),
        Pretext("colorization_ab", colorization.BINS, colorization.colour_bin_loss, colorization.ColourHead),
        Pretext("jigsaw", len(jigsaw.ORDERS), jigsaw.jigsaw_loss, correct=jigsaw.jigsaw_correct),
        Pretext("jigsaw_gap", len(jigsaw.ORDERS), jigsaw.jigsaw_gap_loss, correct=jigsaw.jigsaw_gap_correct),
    )
}
