"""Prior densities of a single weight, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, OpenFraction, PositiveFloat, Range
from prunebench.errors import UserError
from prunebench.layers import kl

PriorName = Annotated[str, Among(("gaussian", "gmm", "laplace", "laplace_mixture"))]
Scale = Annotated[float, Range(low=1e-8)]


@validated
@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Scale mixture of two densities around 0: weight of the wide one, and both scales."""

    share: OpenFraction
    wide: PositiveFloat
    narrow: PositiveFloat


@dataclass(frozen=True, kw_only=True)
class WeightPrior:
    """One of four densities around 0, the same for each weight.

    Attributes:
        name: which one.
        gaussian_std: standard deviation of ``gaussian``.
        laplace_scale: b of ``laplace``.
        gmm, laplace_mixture: of the mixtures of that name.

    Raises:
        UserError: the chosen mixture's narrow part is not the narrower one.
    """

    name: PriorName
    gaussian_std: Scale
    laplace_scale: Scale
    gmm: Mixture
    laplace_mixture: Mixture

    def __post_init__(self) -> None:
        for key, mixture in (("gmm", self.gmm), ("laplace_mixture", self.laplace_mixture)):
            if not mixture.narrow < mixture.wide:
                raise UserError(
                    f"method.{key}.narrow={mixture.narrow!r} must be below method.{key}.wide={mixture.wide!r}"
                )

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p of each value, nats."""
        if self.name == "gaussian":
            return kl.gaussian_log_prob(value, 0.0, self.gaussian_std)
        if self.name == "laplace":
            return kl.laplace_log_prob(value, self.laplace_scale)
        if self.name == "gmm":
            return kl.scale_mixture_log_prob(value, **vars(self.gmm))
        return kl.laplace_mixture_log_prob(value, **vars(self.laplace_mixture))
