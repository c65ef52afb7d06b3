"""Layers of other libraries written anew, with other parameters under other names."""

from __future__ import annotations

from torch import Tensor, nn


class Rewritten(nn.Module):
    """A layer that computes what another one does."""

    def from_written(self, state: dict[str, Tensor], prefix: str) -> None:
        """Give the tensors of the original at ``prefix`` the names and shapes that they have here, in place."""
        raise NotImplementedError

    def to_written(self, state: dict[str, Tensor], prefix: str) -> None:
        """The other way round."""
        raise NotImplementedError

    def take_over(self, original: nn.Module) -> None:
        """Copy the parameters and the mode of the original."""
        state = dict(original.state_dict())
        self.from_written(state, "")
        self.load_state_dict(state)
        self.train(original.training)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody listens to its forward pass, who would be lost with it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
