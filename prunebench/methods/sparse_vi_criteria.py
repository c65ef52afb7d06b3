"""Pruning the posterior of any run by signal-to-noise ratio, Fisher information or magnitude, and the curve of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveInt
from prunebench.core.context import Run
from prunebench.core.task import Batch, Classification
from prunebench.criteria.fisher import needs_fisher
from prunebench.criteria.per_example import squared_gradients
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.layers.sampling import Ensemble
from prunebench.methods.bases.backprop_posterior import BackpropPosterior
from prunebench.methods.bases.ranked_weights import RankedWeights
from prunebench.methods.bases.stored_posterior import StoredPosterior, read_posterior

log = logging.getLogger("prunebench")
CONV_EXAMPLES = 2048
"""Examples for Fisher information at most where a convolution may lose weights, which takes more time for each."""


@validated
class SparseVICriteria(BackpropPosterior, RankedWeights):
    """Rank the weights of a Gaussian posterior, remove the lowest of all together, and measure errors over the share.

    Graves 2011, Blundell et al. 2015 (signal-to-noise ratio), Tu et al. 2016 (Fisher information), Mohan et al. 2022
    (both). ``posterior`` is the folder of a run of any method that learns one; nothing is trained then. Without it the
    posterior is learned as by :class:`~prunebench.methods.bases.backprop_posterior.BackpropPosterior`.

    Fisher information of weight j is the mean over training samples of (d ln p(y | x, w) / d w_j)^2, with the gradient
    of each sample by itself.

    Args:
        posterior: folder of a finished run (.../seed_<n>); null = train one here.
        fisher_source: "empirical" = at the labels; "model" = at labels drawn from the net's own prediction; "adam" =
            second moments of the gradients of the whole loss of batches, from training.
        fisher_samples: training samples; null = all, at most 2048 where a convolution may lose weights.
        fisher_draws: draws of the weights over which it is averaged; null = at the means.
        **common: the arguments of the base classes.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        posterior: str | None,
        fisher_source: Annotated[str, Among(("empirical", "model", "adam"))],
        fisher_samples: PositiveInt | None,
        fisher_draws: PositiveInt | None,
        **common: Any,
    ) -> None:
        super().__init__(moments=fisher_source == "adam" and posterior is None, **common)
        self.source, self.fisher_source = posterior, fisher_source
        self.fisher_samples, self.fisher_draws = fisher_samples, fisher_draws

    @property
    def needs_fisher(self) -> bool:
        """Whether some ranking of the run looks at Fisher information."""
        return any(map(needs_fisher, (self.ranking, *(self.curve_rankings if self.curve_ratios else ()))))

    # -- hooks

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if self.source is not None:
            self._read(net, run)
        if self.needs_fisher and not isinstance(run.task, Classification):
            raise UserError("Fisher information needs one label for each sample; use method.ranking=snr or magnitude")
        if self.fisher_samples is not None and self.fisher_samples > run.data.num_train:
            raise UserError(
                f"method.fisher_samples must be at most the {run.data.num_train} training samples or null, "
                f"got {self.fisher_samples!r}"
            )

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        if self.source is None:
            return super().run(net, run)
        log.info("nothing is trained: the posterior is that of %s", self.source)
        self._choose(net, run)
        found = self._read(net, run)
        if self.fisher_source == "adam" and self.needs_fisher:
            self._know(torch.cat([found.moments[name] for name in self.ranked(found.net)]))
        return found.net

    def know_fisher(self, net: nn.Module, run: Run) -> None:
        if not self.needs_fisher or self.fisher_source == "adam":
            return
        layers = self.ranked(net)
        convs = any(isinstance(layer, nn.Conv2d) for layer in layers.values())
        number = min(run.data.num_train, CONV_EXAMPLES) if convs else run.data.num_train
        batches = run.samples("fisher", self.fisher_samples or number)
        run.data.to(run.device)
        found = run.once_tensors("fisher", lambda: {"fisher": self._fisher(net.to(run.device).eval(), batches, run)})
        net.to("cpu")
        self._know(found["fisher"])

    # -- helpers

    def _know(self, fisher: Tensor) -> None:
        self.register_buffer("fisher", fisher, persistent=False)  # known after training: no part of a checkpoint

    def _fisher(self, net: nn.Module, batches: Iterable[Batch], run: Run) -> Tensor:
        """Mean of the squared gradients by each weight in scope, ``[n]``."""
        labels = torch.Generator().manual_seed(stream("fisher-labels", run.seed).initial_seed())
        draws = self.fisher_draws
        drawn = Ensemble(net, num_samples=draws or 1, seed=run.seed)
        total, number = torch.zeros(0), 0
        for batch in batches:

            def squares(sample: nn.Module, batch: Batch = batch) -> Tensor:
                layers = list(self.ranked(sample).values())
                return _squares(sample, layers, batch, labels if self.fisher_source == "model" else None)

            found = (drawn.each(squares).mean(0) if draws else squares(net)).double().cpu()
            total = total + found if number else found
            number += len(batch[1])
        return (total / number).float()

    def _read(self, net: nn.Module, run: Run) -> StoredPosterior:
        assert self.source is not None
        found = read_posterior(self.source, net, run)
        layers = self.ranked(found.net)
        if missing := [name for name in self.pruned if name not in layers]:
            raise UserError(f"method.posterior={self.source} says nothing of the weights of '{missing[0]}'")
        if self.fisher_source == "adam" and self.needs_fisher and not set(layers) <= set(found.moments):
            raise UserError(
                f"method.fisher_source=adam needs the second moments of a training, which {self.source} does not keep "
                "for all layers in scope; use method.fisher_source=empirical"
            )
        return found


def _squares(net: nn.Module, layers: list[GaussianWeights], batch: Batch, labels: torch.Generator | None) -> Tensor:
    """Sum over a batch of the squared gradients of ln p(y | x); with ``labels`` y is drawn from the prediction."""

    def log_likelihoods(logits: Tensor) -> Tensor:
        logs = F.log_softmax(logits.float(), 1)
        y = batch[1]
        if labels is not None:
            drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=labels)
            y = drawn[:, 0].to(logs.device)
        return logs.gather(1, y[:, None])[:, 0]

    return squared_gradients(net, layers, batch[0], log_likelihoods)  # type: ignore[arg-type]
