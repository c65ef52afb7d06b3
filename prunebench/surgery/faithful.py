"""Whether a traced graph computes what the net computes."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.equality import difference
from prunebench.surgery.places import describe
from prunebench.surgery.recorder import SEED, Recording, tensors
from prunebench.surgery.tracer import CannotFollow

_ROUNDING = 1e-4  # share of the outputs: the same operations in the same order


def differing_weights(net: nn.Module) -> None:
    """Move parameters that are all equal, in place: a branch that ends in zeros would hide what was lost in it."""
    draws = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.is_floating_point() and _is_constant(parameter):
                parameter.add_(torch.rand(parameter.shape, generator=draws).to(parameter) * 0.1 + 0.05)


def _is_constant(tensor: Tensor) -> bool:
    """Whether all entries are equal; the ends, which mostly differ, are looked at first."""
    ends = tensor.flatten()[[0, -1]] if tensor.numel() else None
    return ends is not None and bool(ends[0] == ends[1]) and bool(tensor.amin() == tensor.amax())


def twin(net: nn.Module, *, own: Collection[str] = ()) -> nn.Module:
    """A copy of ``net`` with the same parameters, and buffers of its own.

    Args:
        own: paths of modules whose parameters are copied too: nobody sees whether their forward writes into them.
    """
    inside = [net.get_submodule(path) for path in own]
    copied = {id(parameter) for module in inside for parameter in module.parameters()}
    return copy.deepcopy(net, {id(p): p for p in net.parameters() if id(p) not in copied})


def outputs(net: nn.Module, inputs: Tensor, *, seed: int = SEED) -> list[Tensor]:
    """The tensors that ``net`` returns, with random numbers from ``seed``; the global stream stays where it is."""
    return _run(net, inputs, seed)[0]


def _run(net: nn.Module, inputs: Tensor, seed: int = SEED) -> tuple[list[Tensor], Tensor]:
    """What ``net`` returns, and where it leaves the stream of random numbers."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return tensors(net(inputs.clone())), torch.get_rng_state()


def _other_streams() -> tuple[object, ...]:
    """Where Python's and NumPy's random numbers are."""
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # the stream that a net of somebody may draw from
    return random.getstate(), str(of_numpy)


def check_training(net: nn.Module, traced: nn.Module, inputs: Tensor) -> None:
    """Compare in training mode.

    Args:
        net: its buffers change.
        traced: the operations of a copy, as they are in training mode.

    Raises:
        UserError: they differ, or the net cannot be called.
    """
    before = _other_streams()
    try:
        runs = [_run(net.train(), inputs) for _ in range(2)]  # a net may count how often it has been called
    except Exception as error:
        raise UserError(f"the forward pass of {type(net).__name__} fails in training mode: {error}") from error
    other = before != _other_streams()
    again = [_run(traced.train(), inputs) for _ in runs]
    _compare(net, runs[0][0], again[0][0], "training")
    if not _agree(runs[1][0], again[1][0]):
        raise UserError(_counts(net))
    if other or not torch.equal(runs[-1][1], again[-1][1]):
        raise UserError(
            f"the forward pass of {type(net).__name__} draws random numbers of its own in training mode, for example "
            "to leave a branch out, which the traced graph would do always or never; multiply the branch by a random "
            "mask, or draw in a module of its own"
        )


def check_evaluation(net: nn.Module, record: Recording, inputs: Tensor) -> None:
    """Compare in evaluation mode, where nothing may be random.

    Args:
        net: its buffers may change.

    Raises:
        UserError: they differ, or the net's outputs are random; names file and line.
    """
    expected = outputs(net.eval(), inputs)
    if record.random and not _agree(expected, outputs(net, inputs, seed=SEED + 1)):
        raise UserError(
            f"the outputs of {type(net).__name__} are random in evaluation mode: "
            f"{describe(record.random[0], net)} draws numbers; let it do so in training only (F.dropout: "
            "training=self.training)"
        )
    _compare(net, expected, tensors(record.output), "evaluation")
    if not record.random and not _agree(expected, outputs(net, inputs)):
        raise UserError(_counts(net))


def _counts(net: nn.Module) -> str:
    return (
        f"{type(net).__name__} computes something else when it is called again: its forward counts its calls or keeps "
        "what it has seen, which a cut net would not do; put that into a module of its own, which then stays whole, or "
        "use a method that keeps the shapes"
    )


def check_one_sample(net: nn.Module, traced: nn.Module, inputs: Tensor, *, where: str) -> None:
    """Compare for a single sample, which takes another branch in the forward pass of the module at ``where``.

    Raises:
        CannotFollow: they differ.
    """
    if not _agree(outputs(net, inputs), outputs(traced, inputs)):
        kind = type(net.get_submodule(where)).__name__
        raise CannotFollow(
            f"the forward pass of {kind} computes something else for a single sample",
            where,
            advice="let it do the same for any number of samples",
        )


def _compare(net: nn.Module, expected: Sequence[Tensor], found: Sequence[Tensor], mode: str) -> None:
    if _agree(expected, found):
        return
    if _hooked(net):
        lost = "its forward hooks are"
    elif mode == "training" and type(net).train is not nn.Module.train:
        lost = "its own train(), which may keep layers in evaluation mode, is"
    else:
        lost = "something that its forward does beside torch's operations is"
    raise UserError(
        f"the traced graph of {type(net).__name__} does not compute what the net computes in {mode} mode: {lost} lost; "
        "put it into a module of its own, or use a method that keeps the shapes"
    )


def _hooked(net: Any) -> bool:
    return bool(net._forward_hooks or net._forward_pre_hooks)


def _agree(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    if len(expected) != len(found):
        return False
    return all(difference(*pair).within(_ROUNDING) for pair in zip(expected, found, strict=True))
