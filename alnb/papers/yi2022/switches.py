"""Where the paper, its published code and what we hold for clean differ: switches, and the presets that set them together."""

from dataclasses import asdict, dataclass, replace
from typing import Any

VALUES: dict[str, tuple[Any, ...]] = {
    "key": ("float", "text"), "first_batch": tuple(range(10)), "confidence": ("softmax", "normalised"), "init": ("fresh", "warm"),
    "checkpoint": ("last", "best_test"), "colour": ("rgb", "bgr"), "augment": ("crop_flip", "resized_crop", "none"),
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

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the switch, its value and what it may be."""
        for name, allowed in VALUES.items():
            value = getattr(self, name)
            if value not in allowed or type(value) is not type(allowed[0]):  # True equals 1, but has another fingerprint
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(map(str, allowed))}")


CLEAN = Switches()
PRESETS = {
    "clean": CLEAN,
    # what the paper states; where it is silent (start of the nets, reported checkpoint), what its code does
    "paper": replace(CLEAN, init="warm", checkpoint="best_test", augment="resized_crop"),
    "as_released": replace(CLEAN, key="text", confidence="normalised", init="warm", checkpoint="best_test", colour="bgr"),
}


def name_of(switches: Switches) -> str:
    """The preset, or the nearest preset and what differs from it, as "clean, init=warm"."""

    def differing(preset: Switches) -> dict[str, Any]:
        return {name: value for name, value in asdict(switches).items() if value != getattr(preset, name)}

    nearest = min(PRESETS, key=lambda name: len(differing(PRESETS[name])))
    return ", ".join([nearest, *(f"{name}={value}" for name, value in differing(PRESETS[nearest]).items())])
