"""Weights that are stored as something from which they follow.

The masks of ``torch.nn.utils.prune``, the lengths and directions of weight norm, the weights of spectral norm with the
vectors of their largest singular value; both norms as hooks and as parametrizations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from prunebench.errors import UserError
from prunebench.nets.stored import ROUNDING, is_float, kind, numbers, same

ALONG = 0.9
"""Cosine from which a vector of spectral norm belongs to the weights: an optimiser's step later it is still near 1."""

CLEAR = 0.02
"""How far the two cosines of the right dimension add up to more than those of another one."""


class _UnfitError(ValueError):
    """Why the parts cannot be those of a weight."""


@dataclass(frozen=True)
class _Rule:
    """How a tensor follows from others.

    Attributes:
        words: what is said.
        parts: names of the others, with ``{}`` for the tensor's; the first one has its shape.
        value: the tensor, from the others.
    """

    words: str
    parts: tuple[str, ...]
    value: Callable[..., Tensor]

    def uses(self, stored: Collection[str]) -> Iterator[tuple[str, list[str]]]:
        """Names of tensors that follow, each with its parts, which are all there."""
        pattern = re.compile(r"((?:.*\.)?)" + re.escape(self.parts[0]).replace(r"\{\}", r"(\w+)"))
        for name in stored:
            if match := pattern.fullmatch(name):
                parts = [match[1] + part.format(match[2]) for part in self.parts]
                if all(part in stored for part in parts):
                    yield match[1] + match[2], parts


def targets(stored: Collection[str]) -> set[str]:
    """Names of the tensors that follow from what is stored."""
    return {target for rule in RULES for target, _ in rule.uses(stored)}


def computed(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with those that follow in place of their parts, and what has been done.

    Only tensors with the name and shape of one of the net's are computed, since those of a small file may be of any
    size. Others get the shape that they would have: no net takes them.

    Args:
        tensors: by name, as stored.
        shapes: of the net's tensors.
        path: the file, for messages.

    Raises:
        UserError: the parts do not belong together, a weight is stored twice and differs, or it is parametrized by a
            program that is not known here.
    """
    state, steps = dict(tensors), dict[str, int]()
    for rule in RULES:
        for target, parts in list(rule.uses(state)):
            if shapes.keys() & parts:
                continue  # the net itself has such tensors
            values = [state.pop(part) for part in parts]
            made = values[0]
            if made.shape == shapes.get(target):
                made = _value(rule, target, dict(zip(parts, values, strict=True)), path)
                steps[rule.words] = steps.get(rule.words, 0) + 1
            if target in state and _differs(made, state[target], shapes.get(target)):
                raise UserError(
                    f"{path} holds {target} twice, as it is and as {' and '.join(parts)}, and the two differ; "
                    "take one of them out where the file was made"
                )
            state[target] = made
    strange = [name for name in state if re.search(r"(^|\.)parametrizations\.", name) and name not in shapes]
    if strange:
        raise UserError(
            f"{path} holds parametrized weights ({', '.join(strange[:5])}), which cannot be computed without their "
            "program; save them there after torch.nn.utils.parametrize.remove_parametrizations"
        )
    return state, [f"{words} ({count} tensors)" for words, count in steps.items()]


def _differs(made: Tensor, plain: Tensor, shape: torch.Size | None) -> bool:
    return made.shape != plain.shape or (made.shape == shape and not same(made, plain))


def _value(rule: _Rule, target: str, parts: Mapping[str, Tensor], path: Path) -> Tensor:
    try:
        for part, tensor in parts.items():
            if tensor.is_meta or tensor.is_quantized:
                raise _UnfitError(f"{part} is {'quantised' if tensor.is_quantized else 'a shape without values'}")
        return rule.value(*parts.values())
    except _UnfitError as error:
        found = " and ".join(f"{part} {kind(tensor)}" for part, tensor in parts.items())
        raise UserError(
            f"{path} holds {target} as {found}, from which it cannot be computed: {error}; save plain weights where "
            "the file was made (prune.remove, remove_weight_norm, remove_spectral_norm, remove_parametrizations)"
        ) from None


def _masked(whole: Tensor, mask: Tensor) -> Tensor:
    """``torch.nn.utils.prune``: the weights before the cut times their mask, both ``[...]``."""
    if mask.shape != whole.shape:
        raise _UnfitError("a mask has the shape of its weights")
    values = numbers(whole)
    return values * numbers(mask).to(values.dtype)


def _normed(directions: Tensor, lengths: Tensor) -> Tensor:
    """Weight norm: directions ``[...]`` and a length for each index of one dimension, or one for all."""
    _check_floats(directions, lengths)
    beside = lengths.dim() == directions.dim()
    along = [dim for dim, size in enumerate(lengths.shape) if beside and size != 1]
    one_each = len(along) == 1 and lengths.shape[along[0]] == directions.shape[along[0]]
    if lengths.numel() != 1 and not one_each:
        raise _UnfitError(f"there is one length for each output, [{(*directions.shape, 1)[0]}, 1, ...], or one for all")
    v, g = numbers(directions), numbers(lengths)
    over = [dim for dim in range(v.dim()) if dim not in along]
    norm = torch.linalg.vector_norm(v, dim=over, keepdim=True) if over else v.abs()  # no dimensions = all, for torch
    return v * ((g if one_each else g.reshape(())) / norm)


def _spectral(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Spectral norm: weights ``[...]`` over the singular value of ``u`` ``[n]`` and ``v`` ``[m]``.

    The weights are a matrix ``[n, m]`` with one of their dimensions first, which the file does not name: the second
    for the transposed convolutions of torch, else the first. It is the one for which ``u`` is W v or ``v`` is W' u,
    whichever of them was updated last.
    """
    _check_floats(weight, u, v)
    dims = [dim for dim, size in enumerate(weight.shape) if size == u.numel() and size * v.numel() == weight.numel()]
    if weight.dim() < 2 or not dims:
        raise _UnfitError("u has the size of one dimension and v that of all others")
    whole = numbers(weight).double()
    u, v = (numbers(part).double().flatten() for part in (u, v))
    fitting = []
    for dim in dims:
        matrix = whole.movedim(dim, 0).flatten(1)
        image = matrix @ v
        cosines = [cosine_similarity(u, image, dim=0).item(), cosine_similarity(v, u @ matrix, dim=0).item()]
        if max(cosines) > ALONG:
            fitting.append((sum(cosines), torch.dot(u, image).item()))
    if not fitting:
        raise _UnfitError("u and v are not the vectors of its largest singular value, as after a step of training")
    best, sigma = max(fitting)
    if any(best - other < CLEAR and abs(value - sigma) > ROUNDING * sigma for other, value in fitting):
        raise _UnfitError("u and v fit more than one dimension of so small a weight")
    return numbers(weight) / sigma


def _check_floats(*parts: Tensor) -> None:
    if not all(map(is_float, parts)):
        raise _UnfitError("all of them must be floating-point numbers")


RULES = (
    _Rule("masks of torch.nn.utils.prune applied", ("{}_orig", "{}_mask"), _masked),
    _Rule("weight norm computed", ("{}_v", "{}_g"), _normed),
    _Rule("weight norm computed", ("parametrizations.{}.original1", "parametrizations.{}.original0"), _normed),
    _Rule("spectral norm computed", ("{}_orig", "{}_u", "{}_v"), _spectral),
    _Rule(
        "spectral norm computed",
        ("parametrizations.{}.original", "parametrizations.{}.0._u", "parametrizations.{}.0._v"),
        _spectral,
    ),
)
"""In the order in which they are tried."""
