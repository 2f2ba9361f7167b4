"""jaxtyping's annotations; on a machine that has torch and little else, names that mean a plain tensor."""

from typing import Any

try:
    from jaxtyping import Bool, Float, Int, Integer, Shaped
except ImportError:

    class _Plain:
        """``Float[Tensor, "N D"]`` is then `Tensor`: nothing is checked. With jaxtyping, only pytest checks."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float = Int = Integer = Shaped = _Plain  # type: ignore[assignment]

__all__ = ["Bool", "Float", "Int", "Integer", "Shaped"]
