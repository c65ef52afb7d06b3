"""Particles of weights and gates around a trained net, and their common step.

Choices of our own on top of Liu and Wang's SVGD.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunebench.core.task import Batch
from prunebench.layers.quantile_prior import QuantilePrior
from prunebench.layers.step_gates import sigmoid_slope, step_gates
from prunebench.methods.bases.gated_units import each_row, own_parameters
from prunebench.methods.bases.net_ensembles import nets_of
from prunebench.methods.bases.stein import full_repulsion, stein_direction


def gate_prior_score(scores: Tensor, price: float, *, temperature: float, spread: float) -> Tensor:
    """d/ds of -price sigmoid(s / temperature) - s^2 / (2 spread^2), in the shape of ``scores``."""
    return -price * sigmoid_slope(scores, temperature) - scores / spread**2


@torch.no_grad()
def scattered(net: nn.Module, stds: Mapping[str, float], draws: torch.Generator) -> nn.Module:
    """A copy of ``net`` with N(0, std^2) added to each parameter of ``stds`` (names without gates)."""
    net = copy.deepcopy(net)
    parameters = own_parameters(net)
    for name, std in stds.items():
        noise = torch.randn(parameters[name].shape, generator=draws)
        parameters[name].add_(std * noise.to(parameters[name]))
    return net


@torch.no_grad()
def scatter_gates(net: nn.Module, std: float, draws: torch.Generator) -> None:
    """All scores are 1 plus N(0, std^2), in place."""
    for gate in step_gates(net).values():
        gate.score.copy_((1 + std * torch.randn(gate.score.shape, generator=draws)).to(gate.score))


def gate_scores(nets: Sequence[nn.Module], path: str) -> Tensor:
    """Scores of the gates ``path`` of all particles, ``[K, ...]``: of K nets, or of the K rows of one net."""
    return torch.cat([step_gates(net)[path].score.detach() for net in nets])


def inclusion(nets: Sequence[nn.Module], path: str, temperature: float) -> Tensor:
    """Mean over the particles of sigmoid(s / temperature), in the shape of the gates ``path``."""
    return torch.sigmoid(gate_scores(nets, path) / temperature).mean(0)


def opened(nets: Sequence[nn.Module], paths: Mapping[str, str]) -> dict[str, Tensor]:
    """Weight tensor -> which weights are in open groups, bool ``[K, ...]``, 1 where a group goes over a dimension.

    Args:
        paths: layer -> path of its gates.
    """
    found = {}
    for name, path in paths.items() if step_gates(nets[0]) else ():
        opened = gate_scores(nets, path) > 0
        weight = own_parameters(nets[0])[f"{name}.weight"]
        found[f"{name}.weight"] = opened.view(*opened.shape, *[1] * (weight.dim() + 1 - opened.dim()))
    return found


def each_particle(net: nn.Module) -> Iterator[nn.Module]:
    """All particles, one after the other: nets, or one net under each set of its gates."""
    for own in nets_of(net):
        yield from each_row(own)


@torch.no_grad()
def accuracy(net: nn.Module, batches: Iterable[Batch]) -> float:
    """Of the mean prediction of the particles, in evaluation mode; their mode comes back."""
    training = net.training
    net.eval()
    hits = [
        torch.stack([particle(x).softmax(1) for particle in each_particle(net)]).mean(0).argmax(1) == y
        for x, y in batches
    ]
    net.train(training)
    return float(torch.cat(hits).float().mean())


@dataclass(frozen=True, kw_only=True)
class SteinSteps:
    """Turns the gradients of the mean loss into those of one SVGD step, block by block.

    The log density is -N x mean loss + ``prior_weight`` x ln p(weights) + ln p(gate scores) for N training samples; a
    gradient becomes -phi / N. A block is one weight tensor, or the gates of one layer. Parameters with a flat prior
    (biases, norms) have no spread to keep: each particle follows its own gradient there.

    Attributes:
        num_train: N.
        prior_weight: beta.
        spread_weight: T: the repulsion of weights is T D / ln(K + 1) for a block of D, that of gates 1.
        temperature, gate_spread: of the gates' surrogate gradient, of their prior.
    """

    num_train: int
    prior_weight: float
    spread_weight: float
    temperature: float
    gate_spread: float

    @torch.no_grad()
    def turn_weights(
        self,
        nets: Sequence[nn.Module],
        priors: Mapping[str, QuantilePrior],
        opened: Mapping[str, Tensor],
        *,
        scale: float,
    ) -> None:
        """The gradients of the nets' own parameters, in place.

        Args:
            nets: the particles, of one shape.
            priors: name of a weight tensor -> its prior.
            opened: name -> whether each weight is in an open group, bool ``[K, ...]`` that spreads over the tensor; one
                net may have several sets of gates, whose mean it follows. Without an entry all are open.
            scale: by which a gradient is that of the particle's own mean loss.
        """
        parameters = [own_parameters(net) for net in nets]
        for name in parameters[0]:
            own = [part[name] for part in parameters]
            grads = [parameter.grad for parameter in own if parameter.grad is not None]
            if len(grads) < len(own):
                continue  # the forward pass never reads it
            losses = torch.stack(grads) * scale
            if name not in priors:
                _write(own, losses)
                continue
            weights = torch.stack(list(own))
            prior = priors[name].score(weights, opened.get(name))
            if len(prior) != len(weights):
                prior = prior.mean(0, keepdim=True)
            score = -self.num_train * losses + self.prior_weight * prior
            repulsion = self.spread_weight * full_repulsion(own[0].numel(), len(own))
            phi = stein_direction(weights.flatten(1), score.flatten(1), repulsion=repulsion)
            _write(own, -phi.view_as(weights) / self.num_train)

    @torch.no_grad()
    def turn_gates(self, nets: Sequence[nn.Module], prices: Mapping[str, float]) -> None:
        """The gradients of the scores, in place: those of the mean over all particles come in.

        Args:
            prices: path of a layer with gates -> nats for each open one.
        """
        for path, price in prices.items():
            own = [step_gates(net)[path].score for net in nets]
            if any(score.grad is None for score in own):
                continue
            scores = torch.cat(list[Tensor](own))
            losses = torch.cat([score.grad for score in own if score.grad is not None]) * len(scores)
            prior = gate_prior_score(scores, price, temperature=self.temperature, spread=self.gate_spread)
            phi = stein_direction(scores.flatten(1), (-self.num_train * losses + prior).flatten(1))
            turned = -phi.view_as(scores) / self.num_train
            _write(own, list(turned.split([len(score) for score in own])))


def _write(parameters: Sequence[nn.Parameter], gradients: Tensor | Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(parameter).contiguous()
