"""How much goes when, if a net is pruned in small steps while it trains."""

from __future__ import annotations

from prunebench.errors import UserError


def cubic_sparsity(epoch: int, *, initial: float, final: float, start: int, end: int, every: int = 1) -> float:
    """Sparsity in force during ``epoch`` (0-based): fast at first, slow at the end (Zhu and Gupta 2017, equation 1).

    s = final + (initial - final) (1 - (e - start) / span)^3, where e is the last multiple of ``every`` epochs after
    ``start`` and span = ((end - start - 1) // every) every, so that the last update, in epoch ``end - 1`` or a little
    before, reaches ``final`` (IntelLabs/distiller, distiller/pruning/automated_gradual_pruner.py:29-37).

    Args:
        epoch: before ``start`` nothing is pruned.
        start, end: first epoch of the ramp, and the first one after it.
    """
    if epoch < start:
        return 0.0
    span = (end - start - 1) // every * every
    done = min((epoch - start) // every * every, span)
    if done == span:  # also a ramp of a single epoch
        return final
    return final + (initial - final) * (1 - done / span) ** 3


def ramp_epochs(start: float, end: float, num_epochs: int, *, where: str) -> tuple[int, int]:
    """``start`` and ``end``, shares of a phase of ``num_epochs``, as epochs; the ramp has at least one.

    Raises:
        UserError: not 0 <= start < end <= 1.
    """
    if not 0 <= start < end <= 1:
        raise UserError(
            f"{where}: the ramp must start and end at shares of the epochs with 0 <= start < end <= 1, "
            f"got start={start!r} and end={end!r}"
        )
    first = min(int(start * num_epochs), max(0, num_epochs - 1))
    return first, max(first + 1, int(end * num_epochs))


def check_sparsities(initial: float, final: float) -> None:
    """Refuse what is no ramp.

    Raises:
        UserError: not 0 <= initial <= final < 1.
    """
    if not 0 <= initial <= final < 1:
        raise UserError(
            "method.initial_sparsity and method.target_sparsity are shares that go, 0 <= initial <= target < 1, "
            f"got {initial!r} and {final!r}"
        )
