"""The state of a net at one moment of its training, to which it is rewound."""

from __future__ import annotations

import torch
from torch import nn


class Origin(nn.Module):
    """A buffer for each entry of a net's state dict, norm statistics and output layer among them.

    Their names have "/" where the net's have ".", which no buffer may have.
    """

    @torch.no_grad()
    def take(self, net: nn.Module) -> None:
        """Remember ``net`` as it is now."""
        for name, value in net.state_dict().items():
            key = name.replace(".", "/")
            if key in self._buffers:
                self.get_buffer(key).copy_(value)
            else:
                self.register_buffer(key, value.detach().clone())

    def restore(self, net: nn.Module) -> None:
        """Take ``net`` back, in place, bit for bit."""
        net.load_state_dict({key.replace("/", "."): value for key, value in self.named_buffers()})
