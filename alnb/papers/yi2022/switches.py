"""Where the paper, its published code and what we hold for clean differ: switches, and the presets that set them together."""

from dataclasses import asdict, dataclass, replace
from typing import Any

VALUES: dict[str, tuple[Any, ...]] = {
    "key": ("float", "text"), "first_batch": tuple(range(10)), "confidence": ("softmax", "normalised"), "init": ("fresh", "warm"),
    "checkpoint": ("last", "best_test"), "colour": ("rgb", "bgr"), "augment": ("crop_flip", "resized_crop", "none"),
    "pretext_epoch": ("last", "best"), "rotation": ("one_batch", "four_batches"), "normalise": ("pool", "authors"),
    "baselines": ("clean", "paper", "as_released"),
}  # fmt: skip


@dataclass(frozen=True)
class Switches:
    """Choices that change accuracies."""

    key: str = "float"  # losses are sorted as numbers; as "text" in the code
    first_batch: int = 0  # the batch of the first labels; the code for the cold start takes 5
    confidence: str = "softmax"  # of the net's logits; of the "normalised" logits in the code
    init: str = "fresh"  # the net of a cycle; "warm" in the code: from the cycle before
    checkpoint: str = "last"  # the epoch that is evaluated; "best_test" in the code
    colour: str = "rgb"  # order of the channels; "bgr" in the code
    augment: str = "crop_flip"  # of the main task, as in the code; the paper says "resized_crop"
    pretext_epoch: str = "last"  # of the pretext, whose losses count; the "best" in the paper (section 4.2) and the code
    rotation: str = "one_batch"  # in which the four angles of B images are learned; "four_batches" of B in the code
    normalise: str = "pool"  # images by the mean and deviation of the pool's colours; by those of the "authors" in the code
    baselines: str = "clean"  # the preset of VAAL, TA-VAAL and CoreGCN; it changes neither PT4AL nor random

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the switch, its value and what it may be."""
        for name, allowed in VALUES.items():
            value = getattr(self, name)
            if value not in allowed or type(value) is not type(allowed[0]):  # True equals 1, but has another fingerprint
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(map(str, allowed))}")


CLEAN = Switches()
CODE: dict[str, Any] = {
    "init": "warm", "checkpoint": "best_test", "pretext_epoch": "best", "rotation": "four_batches", "normalise": "authors",
}  # fmt: skip
PRESETS = {
    "clean": CLEAN,
    # what the paper states; where it is silent (start of the nets, reported checkpoint, batches of rotation, normalisation), what its code
    # does, but for the order of colours, which is an accident of the code's image reader
    "paper": replace(CLEAN, augment="resized_crop", baselines="paper", **CODE),
    "as_released": replace(CLEAN, key="text", confidence="normalised", colour="bgr", baselines="as_released", **CODE),
}


def name_of(switches: Switches) -> str:
    """The preset, or the nearest preset and what differs from it, as "clean, init=warm"."""

    def differing(preset: Switches) -> dict[str, Any]:
        return {name: value for name, value in asdict(switches).items() if value != getattr(preset, name)}

    nearest = min(PRESETS, key=lambda name: len(differing(PRESETS[name])))
    return ", ".join([nearest, *(f"{name}={value}" for name, value in differing(PRESETS[nearest]).items())])
