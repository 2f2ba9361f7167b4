"""Many heads in place of one: draws of the linear head of a net, by dropout or from a Laplace posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alnb.learn.nets import Net
from alnb.store.shapes import Float

DROPOUT = 0.5  # of the penultimate features; Gal and Ghahramani 2016, and the active-learning code bases


@dataclass(frozen=True)
class Heads:
    """K linear heads on the same features of D numbers: draws of what the head of C classes might be."""

    weights: Float[Tensor, "K C D"]
    bias: Float[Tensor, "K C"]

    def log_probs(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M C K"]:
        """Log-probabilities of each head, on the device of the features."""
        draws, classes, width = self.weights.shape
        weights, bias = self.weights.to(features).reshape(-1, width), self.bias.to(features).flatten()
        return torch.addmm(bias, features, weights.T).view(-1, draws, classes).transpose(1, 2).log_softmax(1)


def linear_head(net: Net) -> nn.Linear:
    """The head of `net`. Raises: ValueError if it is not linear."""
    if not isinstance(net.head, nn.Linear):
        raise ValueError(f"the head is {type(net.head).__name__}, but draws of heads need nn.Linear: use a net of learn.nets")
    return net.head


def dropout(head: nn.Linear, draws: int, generator: torch.Generator, rate: float = DROPOUT) -> Heads:
    """`draws` heads in evaluation mode with dropout on the features: each with one mask for all images.

    For one image it is the usual dropout. The joint distribution of several images, which BatchBALD needs, asks for the common mask.
    Source: Gal and Ghahramani 2016; Kirsch et al. 2019, section 4.1 (consistent masks).
    """
    mask = torch.rand(draws, 1, head.in_features, generator=generator) >= rate
    weights, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    return Heads(weights * mask / (1 - rate), bias.expand(draws, -1))
