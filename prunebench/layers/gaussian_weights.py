"""Weights that are independent normal variables: what linear layers and convolutions of that kind share.

The posterior of a weight is N(w, s^2): the mean w is the parameter ``weight``, s follows from the parameter ``spread``.
Priors and divergences are in :mod:`prunebench.layers.kl`; the layers know of none. Three estimators of the expected
output, all with the same distribution for each single input of a linear layer:

- ``lrt``: local reparameterisation (Kingma et al. 2015, sec. 2.3): the output itself is drawn, from
  N(op(x, w), op(x^2, s^2)), for each input anew. For convolutions the positions are drawn independently, which is
  exact for each of them, not for all together.
- ``weight``: one draw of the weights for the whole batch.
- ``flipout``: one draw, whose signs are flipped for each input (Wen et al. 2018).

A fourth one has another posterior, in which all weights of an input unit share their noise, w (1 + sqrt(alpha) eps):

- ``input``: the input is multiplied by 1 + sqrt(alpha) eps (Gaussian dropout, Kingma et al. 2015, sec. 3.1, type A);
  in a convolution each position of a channel has noise of its own, while a draw of weights has one for the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among
from prunebench.errors import UserError
from prunebench.layers.sampling import Stochastic

EPS = 1e-8  # keeps ln w^2 and the derivative of the square root finite
LIMIT = 8.0  # |log alpha| of scale=log_variance stays below (Molchanov et al., nets/layers.py:79)

SCALES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softplus": lambda spread, weight: F.softplus(spread),
    "exp": lambda spread, weight: spread.exp(),
    "log_variance": lambda spread, weight: (0.5 * _near(spread, weight)).exp(),
    "log_alpha": lambda spread, weight: (0.5 * spread).exp() * weight.abs(),
    "std": lambda spread, weight: spread.expand_as(weight),
}
"""How ``spread`` becomes a standard deviation: s = ln(1 + e^spread), e^spread, e^(spread/2) kept within a factor e^4 of
|w|, |w| e^(spread/2) (multiplicative noise), spread itself (of a finished net; 0 = a weight without noise)."""
SpreadScale = Annotated[str, Among(SCALES)]
Estimator = Annotated[str, Among(("lrt", "weight", "flipout", "input"))]
Shape = Annotated[str, Among(("weight", "unit", "layer"))]
"""What has a spread of its own: each weight, each input unit or channel, the whole layer."""


def log_square(weight: Tensor) -> Tensor:
    """ln(w^2 + 1e-8)."""
    return (weight.square() + EPS).log()


def _near(log_variance: Tensor, weight: Tensor) -> Tensor:
    """ln s^2 with ln alpha = ln s^2 - ln w^2 clamped to +-8; unclamped it does not depend on the weight at all."""
    centre = log_square(weight)
    return torch.minimum(torch.maximum(log_variance, centre - LIMIT), centre + LIMIT)


class GaussianWeights(Stochastic):
    """What both layers share; see :class:`~prunebench.layers.gaussian_layers.GaussianLinear` for the arguments.

    Attributes:
        weight: means, ``[out, in, ...]``. ``spread``: of the same shape, or one that broadcasts to it.
        bias: means, ``[out]``. ``bias_spread``: makes them random too; None = they are plain parameters.
        held: weights and biases that the output is computed with, see :func:`holding`; None = as the mode says.
    """

    weight: Tensor
    bias: Any
    clips_noise: ClassVar[bool]
    held: tuple[Tensor, Tensor | None] | None = None

    @validated
    def _add(
        self,
        scale: SpreadScale,
        estimator: Estimator,
        shape: Shape,
        initial: float,
        bias_initial: float | None,
        threshold: float | None,
        train_clip: bool,
    ) -> None:
        """Parameters and options beside those of the plain layer."""
        if estimator == "input" and (scale != "log_alpha" or shape == "weight"):
            raise UserError("estimator=input multiplies inputs: it needs scale=log_alpha and shape unit or layer")
        self.scale, self.estimator, self.shape = scale, estimator, shape
        self.initial, self.bias_initial = initial, bias_initial
        self.threshold, self.train_clip = threshold, train_clip
        ones = [1] * (self.weight.dim() - 2)
        sizes = {"weight": [*self.weight.shape], "unit": [1, self.weight.shape[1], *ones], "layer": [1, 1, *ones]}
        self.spread = nn.Parameter(torch.full(sizes[shape], float(initial)))
        self.bias_spread: nn.Parameter | None = None
        if bias_initial is not None and self.bias is not None:
            self.bias_spread = nn.Parameter(torch.full(self.bias.shape, float(bias_initial)))

    def _options(self) -> dict[str, Any]:
        names = ("scale", "estimator", "shape", "initial", "bias_initial", "threshold", "train_clip")
        return {"bias": self.bias is not None, **{name: getattr(self, name) for name in names}}

    def _op(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    # -- the posterior

    def std(self) -> Tensor:
        """Standard deviations of the weights, dead ones too, ``[out, in, ...]``."""
        return SCALES[self.scale](self.spread, self.weight)

    def bias_std(self) -> Tensor | None:
        """Standard deviations of the biases, ``[out]``; None if they are plain parameters."""
        if self.bias is None or self.bias_spread is None:
            return None
        return SCALES[self.scale](self.bias_spread, self.bias)

    def log_alpha(self) -> Tensor:
        """ln of the dropout rate alpha = s^2 / w^2, of the shape of ``spread`` or of ``weight``."""
        if self.scale == "log_alpha":
            return self.spread
        centre = log_square(self.weight)
        if self.scale == "log_variance":
            return (self.spread - centre).clamp(-LIMIT, LIMIT)
        return 2.0 * self.std().log() - centre

    def variance(self) -> Tensor:
        """Their variances: where ``spread`` is ln s^2 itself without the detour by the root."""
        if self.scale == "log_variance":
            return _near(self.spread, self.weight).exp()
        return self.std().square()

    @torch.no_grad()
    def live(self) -> Tensor | None:
        """False where a weight is dead, ``[out, in, ...]``; None without a threshold: all live."""
        if self.threshold is None:
            return None
        return (self.log_alpha() < self.threshold).expand_as(self.weight)

    @torch.no_grad()
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, both exactly 0 where a weight is dead; ``[out, in, ...]`` each."""
        live = self.live()
        mask = torch.ones_like(self.weight) if live is None else live.to(self.weight.dtype)
        return self.weight * mask, self.std() * mask

    def draw(self) -> tuple[Tensor, Tensor | None]:
        """One draw of weights and biases; dead weights are 0."""
        if self.estimator == "input":
            noise = (
                torch.randn_like(self.weight[:1])
                if self.weight.dim() == 2
                else torch.randn_like(self.weight[:1, :, :1, :1])
            )
            weight = self.weight * (1 + (0.5 * self.spread).exp() * noise)
        else:
            weight = self.weight + self.std() * torch.randn_like(self.weight)
        live = self.live()
        return weight if live is None else weight * live, self._drawn_bias()

    # -- the output

    def forward(self, x: Tensor) -> Tensor:
        """As the plain layer; in training mode a draw of the output, with ``sampling`` one with drawn weights."""
        if self.held is not None:
            return self._op(x, *self.held)
        if self.training:
            return self._estimate(x)
        if self.sampling:
            return self._op(x, *self.draw())
        live = self.live()
        return self._op(x, self.weight if live is None else self.weight * live, self.bias)

    def _drawn_bias(self) -> Tensor | None:
        bias: Tensor | None = self.bias
        std = self.bias_std()
        return bias if bias is None or std is None else bias + std * torch.randn_like(bias)

    def _estimate(self, x: Tensor) -> Tensor:
        mean, live = self.weight, self.live() if self.train_clip else None
        if live is not None:
            mean = mean * live
        clipped = live if live is not None and self.clips_noise else None
        if self.estimator == "input":
            factor = (0.5 * self.spread[0]).exp()  # [in] or [in, 1, 1], or of size 1
            return self._op(x * (1 + factor * torch.randn_like(x)), mean, self._drawn_bias())
        if self.estimator == "lrt":
            variance = self.variance()
            return self._local(x, mean, variance if clipped is None else variance * clipped)
        noise = self.std() * torch.randn_like(self.weight)
        noise = noise if clipped is None else noise * clipped
        if self.estimator == "weight":
            return self._op(x, mean + noise, self._drawn_bias())
        return self._op(x, mean, self._drawn_bias()) + self._flipped(x, noise)

    def _local(self, x: Tensor, mean: Tensor, variances: Tensor) -> Tensor:
        centre, bias_std = self._op(x, mean, self.bias), self.bias_std()
        # the variance has no mean bias; convolution algorithms may leave it a rounding error below 0
        variance = self._op(x.square(), variances, None if bias_std is None else bias_std.square())
        return centre + (variance.clamp_min(0.0) + EPS).sqrt() * torch.randn_like(centre)

    def _flipped(self, x: Tensor, noise: Tensor) -> Tensor:
        """op(x * s, noise) * r with random signs s and r for each input and channel."""
        moved = self._op(x * self._signs(x), noise, None)
        return moved * self._signs(moved)

    def _signs(self, x: Tensor) -> Tensor:
        shape = x.shape if isinstance(self, nn.Linear) else (*x.shape[:2], *[1] * (x.dim() - 2))
        return torch.randint(0, 2, shape, device=x.device).to(x.dtype) * 2 - 1


@contextmanager
def holding(
    layers: Mapping[str, GaussianWeights], drawn: Mapping[str, tuple[Tensor, Tensor | None]] | None = None
) -> Iterator[Mapping[str, tuple[Tensor, Tensor | None]]]:
    """Inside, the layers compute with weights and biases that a loss can look at: one new draw each, or ``drawn``."""
    drawn = {name: layer.draw() for name, layer in layers.items()} if drawn is None else drawn
    try:
        for name, layer in layers.items():
            layer.held = drawn[name]
        yield drawn
    finally:
        for layer in layers.values():
            layer.held = None
