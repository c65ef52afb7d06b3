"""How far ordered masks, and the Gaussian weights whose channels they mask, are from their priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prunebench.layers import kl, ordered_mask
from prunebench.methods.bases.ordered_nets import Masked, masks_of


def mask_divergence(net: nn.Module, *, prior_keep: float) -> Tensor:
    """KL of all masks of ``net`` from the chain of ``prior_keep``, a sum over the layers, nats."""
    masks = masks_of(net)
    prior = [torch.full_like(mask.logits, prior_keep) for mask in masks.values()]
    pairs = zip(masks.values(), prior, strict=True)
    return torch.stack([ordered_mask.divergence(mask.keep(), p) for mask, p in pairs]).sum()


def weight_divergence(net: nn.Module, names: Sequence[str], masked: Mapping[str, str]) -> Tensor:
    """Sum over layers and channels of P(channel stays) x the MEAN over the channel's weights of their KL, nats.

    Args:
        net: with multiplicative Gaussian noise (``log_alpha``) on the weights of the layers ``names``.
        masked: path of what a mask stands behind -> the layer whose channels it masks; those of others stay.
    """
    stays = {masked[path]: mask.stays() for path, mask in masks_of(net).items()}
    terms = []
    for name in names:
        module = net.get_submodule(name)
        layer = module.layer if isinstance(module, Masked) else module
        form = kl.log_uniform_linear if isinstance(layer, nn.Linear) else kl.log_uniform_conv
        # the mean over a filter: with the sum, a weight of the KL would be C_in * 9 times as strong
        each = form(layer.get_parameter("spread")).flatten(1).mean(1)
        terms.append((stays[name] * each if name in stays else each).sum())
    return torch.stack(terms).sum()
