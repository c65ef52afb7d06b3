"""What all methods have in common that learn a distribution over weights by the evidence lower bound."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart
from prunebench.core.task import Batch, Task
from prunebench.layers import kl
from prunebench.layers.sampling import Ensemble, Stochastic, is_stochastic
from prunebench.methods.bases.dead_channels import without_dead_channels
from prunebench.methods.bases.gaussian_nets import ordinary_layers, to_plain, with_spread
from prunebench.methods.bases.stored_states import load_fitting

log = logging.getLogger("prunebench")


@validated
class VariationalMethod(Method):
    """Minimise cross-entropy + KL / N: the mean over the batch, and the sum over all weights by N training samples.

    The KL term has the weight ``kl_weight`` (1 = Bayes) from epoch ``kl_start + kl_warmup`` on, 0 before ``kl_start``
    and a line between. Validation during training is one pass at the mean of the weights. A measurement is that too,
    or, with ``num_samples``, the mean prediction of S nets drawn from the posterior; those are the same S nets for all
    pictures, a function of the seed.

    Args:
        layers: names and globs of the convolutions and linear layers that are made random.
        kl_weight: final weight of the KL term, at least 0.
        kl_start: epochs without it.
        kl_warmup: epochs of its linear rise.
        num_samples: S; null = one pass at the mean.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"simultaneous"})
    sizes_given = False
    objective: ClassVar[str] = "elbo"
    kl_now: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        kl_weight: NonNegativeFloat,
        kl_start: NonNegativeInt,
        kl_warmup: NonNegativeInt,
        num_samples: PositiveInt | None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.kl_weight = float(kl_weight)
        self.kl_start, self.kl_warmup = kl_start, kl_warmup
        self.num_samples = num_samples
        self.names: list[str] = []
        self.num_train = 1
        self.register_buffer("kl_now", torch.zeros(()))  # weight of the KL term in the epoch in progress

    # -- what a method adds

    def swap(self, net: nn.Module) -> nn.Module:
        """A copy of ``net`` whose layers ``self.names`` are random."""
        raise NotImplementedError

    def divergence(self, net: nn.Module) -> Tensor:
        """KL of all posteriors from their priors, a sum over weights, nats."""
        raise NotImplementedError

    # -- hooks

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        self._choose(net, run)
        log.info("random layers: %s", ", ".join(self.names))

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self._choose(net, run)
        self.num_train = run.data.num_train
        return net if is_stochastic(net) else self.swap(net)

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        # the prior is the only pull on random weights: the decay of the phase is for the others
        layers = [module for module in net.modules() if isinstance(module, Stochastic)]
        random = [p for layer in layers for p in layer.parameters() if p.requires_grad]
        return apart(super().param_groups(net, phase), random, weight_decay=0.0)

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self.kl_now.fill_(kl.warmup(clock.epoch, weight=self.kl_weight, start=self.kl_start, length=self.kl_warmup))

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        return {**task.losses(net, batch), "kl": self.kl_now * self.divergence(net) / self.num_train}

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"kl_nats": float(self.divergence(net)), "kl_weight": float(self.kl_now)}

    def stored_posterior(self, net: nn.Module, state: Mapping[str, Tensor], run: Run) -> nn.Module | None:
        stored = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
        if not any(name.endswith("spread") for name in stored):
            return None
        self._choose(net, run)
        with torch.random.fork_rng([]):  # first values are drawn, only to be overwritten
            made = self.swap(net)
        load_fitting(made, stored)
        return made.eval()

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        if self.num_samples is None or not is_stochastic(net):
            return net
        return Ensemble(net, num_samples=self.num_samples, seed=run.seed)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        if isinstance(net, Ensemble):
            return net.each(lambda drawn: task.probabilities(drawn, batch))
        return super().predict(net, batch, task)

    # -- helpers

    def cut_unread(
        self, net: nn.Module, run: Run, *, whole: Sequence[dict[str, str]], achieved: Mapping[str, Any]
    ) -> Extracted:
        """The compact net of ``net`` with Gaussian layers: dead weights are 0, channels that do nothing are gone.

        Its layers are ordinary ones at the means, or with ``num_samples`` Gaussian ones, whose ``spread`` is the
        standard deviation, 0 for dead weights.

        Args:
            whole: layers without a dead weight, with the reason.
            achieved: facts for the result.
        """
        sparse = to_plain(net)
        # with drawn weights a constant channel adds noise to its readers, so it has to stay
        found = without_dead_channels(sparse, run, whole=whole, achieved=achieved, constants=not self.num_samples)
        if not self.num_samples:
            return found
        assert found.plan is not None
        return replace(found, net=with_spread(found.net, net, run.graph, found.plan))

    def _choose(self, net: nn.Module, run: Run) -> None:
        self.names = match_layers(self.layers, ordinary_layers(net, run.graph), what="method.layers")
