"""Pictures that are changed a little so that a net is wrong: L_inf attacks with the gradient of the NLL.

Goodfellow, Shlens, Szegedy, ICLR 2015 (FGSM); Madry et al., ICLR 2018 (PGD); Croce, Hein, ICML 2020 (AutoAttack).

Every attack sees a net as a function from pixels to ln p of the classes. For one softmax that has the gradients of its
logits; where several predictions are averaged it is ln of the MEAN probability, so that the mean itself is attacked and
no single net of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from prunebench.errors import UserError

Scores = Callable[[Tensor], Tensor]
"""Pixels ``[B, C, H, W]`` to ln p of the classes (or logits), ``[B, classes]``."""
PAPER, OFFICIAL = "paper", "official"
ThreatModel = Annotated[str, Among((PAPER, OFFICIAL))]
"""Where eps and the clipping act: on pixels in [0, 1] (``paper``), or on what the net is given (``official``)."""
MADRY = 2.5
"""Steps of PGD together reach so many times eps (Madry et al., challenge on CIFAR-10)."""
_TARGETS = 9
"""Classes besides the right one that the targeted attacks of AutoAttack aim at."""
_WRONG = 1e6
"""A restart that makes the net wrong beats any that does not, however high the NLL is."""


@dataclass(frozen=True)
class Space:
    """Between pixels in [0, 1] and what a net is given, ``(pixel - mean) / std`` for each channel."""

    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], threat_model: str) -> Space:
        """That of pictures with this normalisation; under ``official`` inputs are taken for pixels."""
        return cls(mean, std) if threat_model == PAPER else cls([0.0] * len(mean), [1.0] * len(std))

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the net is given, ``[B, C, H, W]``."""
        mean, std = self._factors(pixels)
        return (pixels - mean) / std

    def pixels(self, inputs: Tensor) -> Tensor:
        """The pixels behind what the net is given, ``[B, C, H, W]``."""
        mean, std = self._factors(inputs)
        return inputs * std + mean

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return mean, std


def log_mean(samples: Tensor) -> Tensor:
    """ln of the mean of probabilities ``[S, B, classes]``, ``[B, classes]``."""
    return samples.mean(0).clamp_min(torch.finfo(samples.dtype).tiny).log()


def nll_of(scores: Tensor, labels: Tensor) -> Tensor:
    """NLL of each example in nats, ``[B]``, from logits or ln p."""
    return F.cross_entropy(scores, labels, reduction="none")


def ascend(scores: Scores, pixels: Tensor, labels: Tensor, *, eps: float, step: float, start: Tensor) -> Tensor:
    """One step up the NLL from ``start``, back into the eps-ball around ``pixels`` and then into [0, 1]."""
    with torch.enable_grad():
        moved = start.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nll_of(scores(moved), labels).sum(), moved)
    moved = start.detach() + step * gradient.sign()
    return torch.minimum(torch.maximum(moved, pixels - eps), pixels + eps).clamp(0.0, 1.0)


def climb(
    scores: Scores, pixels: Tensor, labels: Tensor, *, eps: float, step: float, steps: int, start: Tensor
) -> Tensor:
    """``steps`` times :func:`ascend` from ``clip(start, 0, 1)``; the net keeps its mode and its gradients.

    Args:
        pixels: ``[B, C, H, W]`` in [0, 1]; with others the clipping wins over the ball, as in the official code of
            ANP-VS (attacks.py:77, 90).
    """
    moved = start.clamp(0.0, 1.0)
    for _ in range(steps):
        moved = ascend(scores, pixels, labels, eps=eps, step=step, start=moved)
    return moved.detach()


def random_start(pixels: Tensor, eps: float, draws: torch.Generator | None = None) -> Tensor:
    """A uniform point of the L_inf ball around each picture; drawn on the CPU, so that it is the same everywhere."""
    noise = torch.rand(pixels.shape, generator=draws, dtype=pixels.dtype)
    return pixels + eps * (2 * noise - 1).to(pixels.device)


@validated
class Attack(ABC):
    """What all attacks have in common.

    Args:
        name: in results.
        eps: largest change of a pixel, in pixels of [0, 1] (threat model ``paper``).
        threat_model: see :data:`ThreatModel`.
        source: folder of a finished run on whose saved net the examples are made (black box); null = on the net that
            is measured (white box).
        num_samples: test pictures that are attacked, a draw from ``seed`` alone; null = all.
        batch_size: pictures of a batch. ``seed``: of the draw and of the random starts.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        name: str,
        eps: NonNegativeFloat,
        threat_model: ThreatModel,
        source: str | None,
        num_samples: PositiveInt | None,
        batch_size: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        self.name, self.eps, self.threat_model, self.source = name, float(eps), threat_model, source
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed

    @abstractmethod
    def examples(self, scores: Scores, pixels: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """Pictures that are at most ``eps`` away, ``[B, C, H, W]`` like ``pixels``, made on the net ``scores``.

        Args:
            labels: of the classes, ``[B]``.
            draws: a generator on the CPU.
        """

    def facts(self) -> dict[str, Any]:
        """The settings that a number under attack needs beside it."""
        return {"name": self.name, "norm": "linf", "eps": self.eps, "threat_model": self.threat_model}


class FGSM(Attack):
    """One step of size eps, clipped to [0, 1]."""

    def examples(self, scores: Scores, pixels: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """See :class:`Attack`."""
        return climb(scores, pixels, labels, eps=self.eps, step=self.eps, steps=1, start=pixels)


@validated
class PGD(Attack):
    """Steps of the sign of the gradient, from one or several starts in the ball.

    Args:
        step: of one step, in pixels; null = 2.5 eps / steps.
        steps: how many.
        restarts: random starts; of several results one that makes the net wrong stays, else that of the highest NLL.
        random_start: begin at a uniform point of the ball and not at the picture.
        **common: of :class:`Attack`.

    Raises:
        UserError: an option outside its values, or restarts that would all be the same.
    """

    def __init__(
        self,
        *,
        step: PositiveFloat | None,
        steps: PositiveInt,
        restarts: PositiveInt,
        random_start: bool,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if restarts > 1 and not random_start:
            raise UserError(f"attack.restarts={restarts} needs attack.random_start=true, else all of them are the same")
        self.step = MADRY * self.eps / steps if step is None else float(step)
        self.steps, self.restarts, self.random_start = steps, restarts, random_start

    def examples(self, scores: Scores, pixels: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """See :class:`Attack`; only with several restarts they are compared."""
        best, worst = pixels, torch.full(labels.shape, -torch.inf, device=pixels.device)
        for _ in range(self.restarts):
            start = random_start(pixels, self.eps, draws) if self.random_start else pixels
            moved = climb(scores, pixels, labels, eps=self.eps, step=self.step, steps=self.steps, start=start)
            if self.restarts == 1:
                return moved
            with torch.no_grad():
                found = scores(moved)
                damage = nll_of(found, labels) + _WRONG * (found.argmax(1) != labels)
            better = damage > worst
            best = torch.where(better.view(-1, 1, 1, 1), moved, best)
            worst = torch.maximum(worst, damage)
        return best

    def facts(self) -> dict[str, Any]:
        """Those of :class:`Attack` and the steps."""
        own = {"step": self.step, "steps": self.steps, "restarts": self.restarts, "random_start": self.random_start}
        return {**super().facts(), **own}


@validated
class AutoAttack(Attack):
    """The parameter-free ensemble of APGD-CE, targeted APGD, targeted FAB and Square, of the package pyautoattack.

    Nets that draw have the same draws for each picture here, so that they are attacked as any other.

    Args:
        **common: of :class:`Attack`.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        try:
            import pyautoattack  # noqa: F401
        except ImportError:
            raise UserError(
                "attack=autoattack needs the package pyautoattack: pip install 'prunebench[robust]', or take attack=pgd"
            ) from None

    def examples(self, scores: Scores, pixels: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """See :class:`Attack`; pictures on which the net is wrong anyway stay as they are."""
        import pyautoattack

        seed = int(torch.randint(2**31, (), generator=draws))
        found = pyautoattack.AutoAttack(
            _AsModule(scores), eps=self.eps, norm="Linf", version="standard", seed=seed, device=pixels.device
        )
        with torch.no_grad():
            others = scores(pixels[:1]).shape[1] - 1
        found.apgd_targeted.n_target_classes = found.fab.n_target_classes = min(_TARGETS, others)
        with torch.random.fork_rng(), torch.enable_grad():
            moved: Tensor = found.run_standard_evaluation(pixels, labels, batch_size=len(pixels))[0]
        return moved.detach()


class _AsModule(nn.Module):
    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self._scores = scores
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return self._scores(pixels)
