"""What torchattacks 3.5.1 and foolbox 3.3.4 make of generated pictures; both pin packages that torch 2.13 lacks.

They were installed without their dependencies (``pip install --no-deps torchattacks foolbox eagerpy gitpython gitdb
smmap``) and called as ``tests/measure/test_attacks.py`` calls them where they are
installed: FGSM with eps 0.1; PGD with eps 0.1 and 7 steps of 0.03 from the picture itself. Sums over each picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.models.lenet import lenet5

TORCHATTACKS_FGSM = torch.tensor([274.5084, 268.1496, 277.3087, 269.4418, 260.617, 265.049, 268.9385, 282.6225])
TORCHATTACKS_PGD = torch.tensor([271.8405, 266.6596, 275.65, 265.8817, 258.3405, 266.0213, 269.8805, 281.0536])
FOOLBOX_PGD = TORCHATTACKS_PGD
"""Both make the same pictures, to 4e-9."""


def pictures() -> tuple[Tensor, Tensor]:
    """Eight grey pictures ``[8, 1, 28, 28]`` in [0, 1], a third of the pixels black, and labels."""
    draws = torch.Generator().manual_seed(0)
    pixels = (1.5 * torch.rand(8, 1, 28, 28, generator=draws) - 0.5).clamp_min(0.0)
    return pixels, torch.randint(0, 10, (8,), generator=draws)


def small_net(seed: int = 0) -> nn.Module:
    """LeNet-5 with random weights, in evaluation mode."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return lenet5().eval()
