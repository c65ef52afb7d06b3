"""The shapes that a search may end with, and the temperature of its draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers.width_mixture import candidate_widths
from prunebench.methods.bases.shape_costs import NetSizes, Shape, depth_candidates, keep_chances
from prunebench.models.shaped_resnet import ShapedResNet

MAX_DRAWS = 10_000
MAX_TILT = 60.0


def temperature(progress: float, *, start: float, end: float, schedule: str) -> float:
    """Temperature after the share ``progress`` of the epochs, falling from ``start`` to ``end``: cosine or linear."""
    falling = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return end + (start - end) * falling


@dataclass(frozen=True)
class ShapeSpace:
    """Candidates of widths and depths.

    Attributes:
        sizes: of the whole net.
        widths: of each convolution of the whole net; ``depths``: of each stage.
    """

    sizes: NetSizes
    widths: Sequence[tuple[int, ...]]
    depths: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, net: ShapedResNet, sizes: NetSizes, *, width: bool, depth: bool) -> ShapeSpace:
        """Those of the whole ``net``; what is not searched has one candidate."""
        widths = [candidate_widths(c) if width else (c,) for c in net.widths]
        if width and (narrow := [c for c in net.widths if len(candidate_widths(c)) < 2]):
            raise UserError(
                f"two widths of each convolution are mixed, and one has {narrow[0]} channel; use a wider net"
            )
        depths = depth_candidates(net.blocks) if depth else [(num,) for num in net.blocks]
        if depth and not width and all(len(row) < 2 for row in depths):
            raise UserError("method.search=depth needs stages of several blocks, and each stage of this net has one")
        return cls(sizes, widths, depths)

    def share(self, shape: Shape) -> float:
        """MACs of ``shape`` as a share of the whole net's."""
        whole = Shape(tuple(row[-1] for row in self.widths), tuple(row[-1] for row in self.depths))
        return self.sizes.built(shape) / self.sizes.built(whole)

    def check(self, low: float, high: float) -> None:
        """Refuse an interval of shares of MACs that no shape reaches.

        Raises:
            UserError: the smallest shape has more, or, where only depths differ, none lies inside.
        """
        smallest = self.share(Shape(tuple(row[0] for row in self.widths), tuple(row[0] for row in self.depths)))
        if smallest > high:
            raise UserError(
                f"method.target_macs: at most {high:.4f} of the MACs are asked for, and the smallest shape has "
                f"{smallest:.4f}; ask for more"
            )
        if all(len(row) == 1 for row in self.widths):
            widths = tuple(row[0] for row in self.widths)
            shares = sorted(self.share(Shape(widths, blocks)) for blocks in itertools.product(*self.depths))
            if not any(low <= share <= high for share in shares):
                nearest = min(shares, key=lambda share: max(low - share, share - high))
                raise UserError(
                    f"method.target_macs: no combination of depths has between {low:.4f} and {high:.4f} of the MACs, "
                    f"the nearest has {nearest:.4f}; change method.target_macs or method.tolerance"
                )

    def draw(self, low: float, high: float, *, seed: int) -> Shape:
        """A random shape with a share of MACs in the interval: a function of ``seed``.

        Candidates are drawn independently, with chances that grow or fall exponentially with their size, so steeply
        that the expected MACs are in the middle of the interval; the first shape inside is taken.

        Raises:
            UserError: none was found.
        """
        draws = stream("random shape", seed)
        tilt = self._tilt((low + high) / 2)
        chances = [_tilted(row, tilt) for row in (*self.widths, *self.depths)]
        for _ in range(MAX_DRAWS):
            picks = [int(torch.multinomial(row, 1, generator=draws)) for row in chances]
            found = [row[pick] for row, pick in zip((*self.widths, *self.depths), picks, strict=True)]
            shape = Shape(tuple(found[: len(self.widths)]), tuple(found[len(self.widths) :]))
            if low <= self.share(shape) <= high:
                return shape
        raise UserError(
            f"none of {MAX_DRAWS} random shapes has between {low:.4f} and {high:.4f} of the MACs; "
            "widen method.tolerance"
        )

    def _tilt(self, middle: float) -> float:
        """The slope with which the expected share of MACs is ``middle``, by bisection."""
        low, high = -MAX_TILT, MAX_TILT
        for _ in range(60):
            tilt = (low + high) / 2
            low, high = (tilt, high) if self._expected(tilt) < middle else (low, tilt)
        return tilt

    def _expected(self, tilt: float) -> float:
        widths = [(_tilted(row, tilt) * torch.tensor(row)).sum() for row in self.widths]
        keep = [
            keep_chances(_tilted(row, tilt), row, len(blocks))
            for row, blocks in zip(self.depths, self.sizes.stages, strict=True)
        ]
        whole = Shape(tuple(row[-1] for row in self.widths), tuple(row[-1] for row in self.depths))
        return float(self.sizes.expected(widths, keep)) / self.sizes.built(whole)


def _tilted(candidates: Sequence[int], tilt: float) -> Tensor:
    """Chances proportional to exp(tilt x candidate / largest), float64 ``[candidates]``."""
    sizes = torch.tensor(candidates, dtype=torch.float64)
    return (tilt * sizes / sizes.max()).softmax(0)
