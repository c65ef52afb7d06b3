"""Which inputs of a layer rebuild its output: LASSO over one coefficient for each, solved from second moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float64]
_NULL = 1e-12  # of the largest eigenvalue: directions in which the inputs do not vary
_DOUBLINGS, _HALVINGS = 100, 60


@dataclass(frozen=True)
class Moments:
    """Second moments of a regression of y ``[rows]`` on a design Z ``[rows, inputs]``.

    Attributes:
        gram: Z'Z, ``[inputs, inputs]``.
        cross: Z'y, ``[inputs]``.
        rows: their number.
    """

    gram: Vector
    cross: Vector
    rows: int


def channel_moments(windows: Tensor, weight: Tensor, targets: Tensor, *, intercept: bool) -> Moments:
    """Moments of the design in which each input channel is one column.

    The row of sample a and output o holds the channels' parts of that output, <windows[a, c], weight[o, c]> in column
    c (He et al. 2017, eq. 1). There are samples x outputs rows; their products are never formed, because
    Z'Z[c, d] sums over taps the product of the moments of the windows and those of the weights.

    Args:
        windows: ``[samples, channels, taps]``.
        weight: ``[outputs, channels, taps]``.
        targets: ``[samples, outputs]``.
        intercept: one constant for all rows is fitted too: columns and targets are centred.
    """
    (num_samples, channels, taps), outputs = windows.shape, len(weight)
    x = windows.reshape(num_samples, -1).double()
    w = weight.reshape(outputs, -1).double()
    y = targets.double()
    gram = ((x.T @ x) * (w.T @ w)).reshape(channels, taps, channels, taps).sum(dim=(1, 3))
    cross = ((x.T @ y) * w.T).reshape(channels, taps, outputs).sum(dim=(1, 2))
    rows = num_samples * outputs
    if intercept:
        sums = (x.sum(0) * w.sum(0)).reshape(channels, taps).sum(1)
        gram = gram - torch.outer(sums, sums) / rows
        cross = cross - sums * y.sum() / rows
    return Moments(gram.cpu().numpy(), cross.cpu().numpy(), rows)


class Lasso:
    """min over b of |y - Zb|^2 / (2 rows) + alpha |b|_1, from the moments of Z and y alone.

    A square root A of Z'Z and the y' with A'y' = Z'y have the same minimum up to a constant, in as many rows as there
    are inputs, so that the coordinate descent does not depend on the number of samples.
    """

    def __init__(self, moments: Moments) -> None:
        values, vectors = np.linalg.eigh(moments.gram)
        varies = values > _NULL * max(values[-1], 0.0)
        roots = np.sqrt(values[varies])
        self._design = np.asfortranarray(roots[:, None] * vectors[:, varies].T)
        self._target = (vectors[:, varies].T @ moments.cross) / roots
        self._scale = moments.rows / max(len(roots), 1)
        self.largest = float(np.abs(moments.cross).max()) / moments.rows
        """The penalty from which on all coefficients are 0."""
        self.size = len(moments.cross)

    def __call__(self, alpha: float) -> Vector:
        """The coefficients, ``[inputs]``."""
        from sklearn.linear_model import Lasso as Solver

        if alpha >= self.largest or not len(self._target):
            return np.zeros(self.size)
        # warm starts would make the result depend on the penalties tried before
        solver = Solver(alpha=alpha * self._scale, fit_intercept=False, tol=1e-7, max_iter=100_000)
        found: Vector = solver.fit(self._design, self._target).coef_
        return found


def select_channels(moments: Moments, number: int, *, start: float = 1e-3, max_excess: float = 0.0) -> list[int]:
    """The channels that a LASSO with a rising penalty leaves, ascending.

    As in the official code (lib/decompose.py:487-525) the penalty doubles from ``start`` until fewer than ``number``
    coefficients are left and is then bisected until their number lies between ``number`` and ``number * (1 +
    max_excess)``. Where it jumps over that, the ``number`` largest coefficients of the last penalty that left more
    are taken; where even no penalty leaves so many (channels that never vary), those of largest variance fill up.

    Args:
        moments: see :func:`channel_moments`.
        number: channels that stay, below their number.
        start: of the penalty, relative to the one that removes all.
        max_excess: share of ``number`` by which more may stay (official code: 0.1).
    """
    lasso = Lasso(moments)
    low, high = 0.0, start * lasso.largest
    for _ in range(_DOUBLINGS):
        if np.count_nonzero(lasso(high)) < number:
            break
        low, high = high, 2 * high
    best = lasso(low) if low else lasso(start * 1e-3 * lasso.largest)
    for _ in range(_HALVINGS):
        left = int(np.count_nonzero(best))
        if number <= left <= int(number * (1 + max_excess)):
            break
        middle = (low + high) / 2
        found = lasso(middle)
        if np.count_nonzero(found) < number:
            high = middle
        else:
            low, best = middle, found
    left = int(np.count_nonzero(best))
    kept = left if number <= left <= int(number * (1 + max_excess)) else number
    order = np.lexsort((-np.diag(moments.gram), -np.abs(best)))
    return sorted(int(channel) for channel in order[:kept])
