"""Weights as other programs save them: found inside their file, under the names and with the values of the plain net.

Wrapped by Lightning, ``DataParallel``, ``torch.compile``, averages of weights (``AveragedModel``, EMA); with counters
of ``thop``; with the masks of ``torch.nn.utils.prune`` or the factors of weight and spectral norm in place of weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from prunebench.errors import UserError
from prunebench.nets.factors import computed, targets
from prunebench.nets.stored import dense, same

# where training programs put the state dict, in the order in which they are tried
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "module", "weights", "params"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema", "shadow"),
)
# what DataParallel, Lightning modules, torch.compile and averages put in front of names, in the order of preference
PREFIXES = ("module.", "model.", "net.", "_orig_mod.", "ema_model.", "online_model.")
# what torch.compile and sharding put between names
_SEGMENTS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# numbers beside the weights: how many nets an average is of, what thop has counted
_COUNTERS = ("n_averaged", "total_ops", "total_params")
MAX_DEPTH = 4  # dictionaries inside dictionaries that are opened
NUM_SHOWN = 5  # names listed in a message

State = dict[str, Tensor]
Shapes = Mapping[str, torch.Size]


def unwrap(content: object, names: Collection[str], shapes: Shapes, path: Path) -> tuple[State, str]:
    """The state dict inside ``content``, under the net's ``names`` as far as possible; how it was found.

    Args:
        content: what the file holds.
        names: the net's, as other programs have them.
        shapes: by every name that the net knows. Nothing is computed or filled with zeros in another shape.
        path: the file, for messages.

    Raises:
        UserError: there are no weights, or two copies of them that differ, or they are stored in a way from which
            they cannot be computed.
    """
    tensors, opened = _open(content, path)
    tensors, counters = _without_counters(tensors, names)
    tensors, prefixes = _without_prefixes(tensors, names)
    tensors, segments = _without_segments(tensors, names, shapes, path)
    tensors, part = _one_part(tensors, names, shapes, "".join(prefixes), path)
    tensors, factors = computed(tensors, shapes, path)
    tensors, filled = _filled(tensors, shapes)
    stripped = [f"without the prefix {prefix}" for prefix in prefixes]
    return tensors, ", ".join([*opened, *counters, *stripped, *segments, *part, *factors, *filled])


def some(items: Iterable[str]) -> str:
    """The first few of ``items`` and how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - NUM_SHOWN} more" if len(listed) > NUM_SHOWN else ""
    return ", ".join(listed[:NUM_SHOWN]) + more


def _open(content: object, path: Path) -> tuple[State, list[str]]:
    steps: list[str] = []
    left = MAX_DEPTH
    while not _is_state_dict(content):
        inner = content if isinstance(content, Mapping) else {}
        rich = {key: _richness(inner.get(key), left - 1) for key in WRAPPERS}
        keys = [key for key in WRAPPERS if rich[key] and left]
        if not keys:
            what = _content(inner) if inner else type(content).__name__
            wanted = f"tensors by name, or these in one of {', '.join(WRAPPERS)}"
            raise UserError(f"{path} holds no weights: expected {wanted}, found {what}")
        key = max(keys, key=rich.__getitem__)  # the first of the richest
        content, left = inner[key], left - 1
        others = [other for other in keys if other != key]
        steps += [f"in {key}", *([f"others left out ({some(others)})"] if others else [])]
    tensors = dict(cast("Mapping[str, Tensor]", content))
    if nested := [name for name, tensor in tensors.items() if tensor.is_nested]:
        raise UserError(f"{path} holds nested tensors ({some(nested)}), which are no weights; save each part alone")
    return tensors, steps


def _richness(content: object, depth: int) -> int:
    """0 = no tensors in it; 1 = single numbers (an epoch, an accuracy); 2 = more than these."""
    if not isinstance(content, Mapping):
        return 0
    tensors = [value for key, value in content.items() if _is_tensor(key, value)]
    if tensors:
        return 2 if any(tensor.is_nested or tensor.dim() for tensor in tensors) else 1
    return max((_richness(content.get(key), depth - 1) for key in WRAPPERS), default=0) if depth > 0 else 0


def _content(inner: Mapping[object, object]) -> str:
    """What a table holds that is none of tensors by name: what is strange in it, if most of it is right."""
    strange = [f"{key} ({type(value).__name__})" for key, value in inner.items() if not _is_tensor(key, value)]
    if len(strange) < len(inner):
        return f"{some(strange)} beside tensors; take those out where the file was made"
    return f"the keys {some(map(str, inner))}"


def _is_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(_is_tensor(name, value) for name, value in content.items())
    )


def _without_segments(tensors: State, names: Collection[str], shapes: Shapes, path: Path) -> tuple[State, list[str]]:
    """Without the names of wrappers that stand between those of layers."""
    if any(_SEGMENTS.search(name) for name in names):
        return tensors, []
    given: dict[str, str] = {}  # the name in the file, by the name without segments
    pairs = []
    for name in tensors:
        if (first := given.setdefault(_SEGMENTS.sub("", name), name)) != name:
            pairs.append((first, name))
    if unequal := [(one, other) for one, other in pairs if not _equal(tensors[one], tensors[other], shapes)]:
        raise UserError(
            f"{path} holds two copies of the weights that differ, under names with and without those of wrappers "
            f"({some(map(' and '.join, unequal))}); save one of them alone"
        )
    segments = dict.fromkeys(match[1] for name in tensors for match in _SEGMENTS.finditer(name))
    found = {plain: tensors[name] for plain, name in given.items()}
    return found, [f"without {segment} inside names" for segment in segments]


def _equal(one: Tensor | None, other: Tensor, shapes: Shapes) -> bool:
    """Whether two copies are the same; False for what is larger than all of the net, as it may be of any size."""
    return (
        one is not None
        and one.numel() <= max((shape.numel() for shape in shapes.values()), default=0)
        and same(one, other)
    )


def _without_counters(tensors: State, names: Collection[str]) -> tuple[State, list[str]]:
    own = {name.rpartition(".")[2] for name in names}
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if (last := name.rpartition(".")[2]) not in _COUNTERS or last in own or tensor.numel() != 1
    }
    gone = sorted({name.rpartition(".")[2] for name in tensors if name not in kept})
    return kept, [f"without {' and '.join(gone)}"] if gone else []


def _without_prefixes(tensors: State, names: Collection[str]) -> tuple[State, list[str]]:
    """Without prefixes that all names in the file share and that the net's own names do not; the prefixes."""
    prefixes = []
    while prefix := _shared_prefix(tensors, names):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        prefixes.append(prefix)
    return tensors, prefixes


def _shared_prefix(tensors: Collection[str], names: Collection[str]) -> str | None:
    for prefix in PREFIXES:
        shared, own = (all(name.startswith(prefix) for name in part) for part in (tensors, names))
        if tensors and shared and not own:
            return prefix
    return None


def _one_part(
    tensors: State, names: Collection[str], shapes: Shapes, before: str, path: Path
) -> tuple[State, list[str]]:
    """Of a file with more than the net (a loss, a teacher, an average, a copy): the part that is the net.

    Args:
        tensors: by names without ``before``, the prefix that all of them had.
        names: the net's.
        shapes: of the net's tensors.
        before: for messages.
        path: the file, for messages.
    """
    needed = {name for name in names if not name.endswith("num_batches_tracked")}
    there = [*tensors, *targets(tensors)]
    whole = [part for part in ("", *_parts(there)) if needed <= _under(there, part)]
    if not needed or not whole or whole == [""]:
        return tensors, []
    known = [prefix for prefix in PREFIXES if prefix in whole and "" not in whole]
    prefix, *copies = known[:1] or whole
    for copy in copies:
        if not all(_equal(tensors.get(prefix + name), tensors[copy + name], shapes) for name in _under(tensors, copy)):
            places = some(f"{before}{part}" or "no prefix" for part in whole)
            raise UserError(
                f"{path} holds the whole net more than once, under {places}, and the copies differ; "
                "save one of them alone"
            )
    alone = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(copies))}
    kept = {name.removeprefix(prefix): tensor for name, tensor in alone.items() if name.startswith(prefix)}
    left = [name for name in alone if not name.startswith(prefix)]
    steps = [f"without the prefix {prefix}"] if prefix else []
    steps += [f"without an equal copy under {some(copies)}"] if copies else []
    return kept, [*steps, *([f"{len(left)} others left out ({some(left)})"] if left else [])]


def _under(names: Collection[str], part: str) -> set[str]:
    return {name.removeprefix(part) for name in names if name.startswith(part)}


def _parts(tensors: Collection[str]) -> Iterator[str]:
    """The first words of names, with their point."""
    yield from dict.fromkeys(f"{name.partition('.')[0]}." for name in tensors if "." in name)


def _filled(tensors: State, shapes: Shapes) -> tuple[State, list[str]]:
    """With zeros in sparse tensors of the net's shapes; no net takes the others."""
    sparse = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
    filled = {name: dense(tensors[name]) for name in sparse if tensors[name].shape == shapes.get(name)}
    return tensors | filled, [f"{len(filled)} sparse tensors filled with zeros"] if filled else []
