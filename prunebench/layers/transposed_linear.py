"""The layer of GPT-2 in ``transformers``, whose weight lies the other way round, as a linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import skip_init

from prunebench.layers.rewritten import Rewritten, is_hooked


class TransposedLinear(Rewritten):
    """What ``transformers.pytorch_utils.Conv1D`` computes.

    Args:
        original: such a layer: ``weight`` is ``[in, out]``, ``bias`` is ``[out]``; they are copied.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        weight = original.get_parameter("weight")
        self.linear = skip_init(nn.Linear, *weight.shape, device=weight.device, dtype=weight.dtype)
        self.take_over(original)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is such a layer as it was made; the package need not be there."""
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        return name == "transformers.pytorch_utils.Conv1D" and not is_hooked(module)

    def from_written(self, state: dict[str, Tensor], prefix: str) -> None:
        """Give the tensors of the layer at ``prefix`` the names and shapes that they have here, in place."""
        for name in ("weight", "bias"):
            if f"{prefix}{name}" in state:
                tensor = state.pop(f"{prefix}{name}")
                state[f"{prefix}linear.{name}"] = tensor.T.contiguous() if name == "weight" else tensor

    def to_written(self, state: dict[str, Tensor], prefix: str) -> None:
        """The other way round."""
        for name in ("weight", "bias"):
            tensor = state.pop(f"{prefix}linear.{name}")
            state[f"{prefix}{name}"] = tensor.T.contiguous() if name == "weight" else tensor

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        out: Tensor = self.linear(x)
        return out
