"""Bayes by backprop: a normal distribution for every weight, then the weights with the most noise go."""

from __future__ import annotations

from prunebench.methods.bases.backprop_posterior import BackpropPosterior
from prunebench.methods.bases.noisiest_weights import NoisiestWeights


class BayesByBackprop(BackpropPosterior, NoisiestWeights):
    """Learn N(mean, std^2) for each weight under a prior; prune by |mean| / std at the end. Blundell et al. 2015.

    Args:
        **options: the arguments of :class:`~prunebench.methods.bases.backprop_posterior.BackpropPosterior`, of
            :class:`~prunebench.methods.bases.noisiest_weights.NoisiestWeights` and of
            :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """
