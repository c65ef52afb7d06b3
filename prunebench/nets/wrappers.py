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


def unwrap(content: object, names: Collection[str], path: Path) -> tuple[State, str]:
    """The state dict inside ``content``, under the net's ``names`` as far as possible; how it was found.

    Raises:
        UserError: there are no weights, or they are stored in a way from which they cannot be computed.
    """
    tensors, steps = _open(content, path)
    for step in (_without_counters, _without_prefixes, _without_segments, _computed, _one_part):
        tensors, said = step(tensors, names, path)
        steps += said
    return tensors, ", ".join(steps)


def some(items: Iterable[str]) -> str:
    """The first few of ``items`` and how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - NUM_SHOWN} more" if len(listed) > NUM_SHOWN else ""
    return ", ".join(listed[:NUM_SHOWN]) + more


def _open(content: object, path: Path) -> tuple[State, list[str]]:
    steps: list[str] = []
    while not _is_state_dict(content):
        inner = content if isinstance(content, Mapping) else {}
        key = next((key for key in WRAPPERS if isinstance(inner.get(key), Mapping)), None)
        if key is None or len(steps) == MAX_DEPTH:
            what = _content(inner) if inner else type(content).__name__
            wanted = f"tensors by name, or these in one of {', '.join(WRAPPERS)}"
            raise UserError(f"{path} holds no weights: expected {wanted}, found {what}")
        content = inner[key]
        steps.append(f"in {key}")
    tensors = dict(cast("Mapping[str, Tensor]", content))
    sparse = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
    if sparse:
        steps.append(f"{len(sparse)} sparse tensors filled with zeros")
    return tensors | {name: tensors[name].to_dense() for name in sparse}, steps


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


def _without_segments(tensors: State, names: Collection[str], path: Path) -> tuple[State, list[str]]:
    """Without the names of wrappers that stand between those of layers."""
    found = {_SEGMENTS.sub("", name): tensor for name, tensor in tensors.items()}
    if any(_SEGMENTS.search(name) for name in names) or len(found) < len(tensors):
        return tensors, []
    segments = dict.fromkeys(match[1] for name in tensors for match in _SEGMENTS.finditer(name))
    return found, [f"without {segment} inside names" for segment in segments]


def _without_counters(tensors: State, names: Collection[str], path: Path) -> tuple[State, list[str]]:
    own = {name.rpartition(".")[2] for name in names}
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if (last := name.rpartition(".")[2]) not in _COUNTERS or last in own or tensor.numel() != 1
    }
    gone = sorted({name.rpartition(".")[2] for name in tensors if name not in kept})
    return kept, [f"without {' and '.join(gone)}"] if gone else []


def _computed(tensors: State, names: Collection[str], path: Path) -> tuple[State, list[str]]:
    """Weights that are stored as something from which they follow."""
    state, steps = dict(tensors), []
    for words, ending, rule in _RULES:
        if any(re.search(ending, name) for name in names):
            continue  # the net itself has such tensors
        found = [(name, match) for name in tensors if (match := re.search(ending, name))]
        made = [rule(state, name[: match.start()], match[1]) for name, match in found]
        if any(made):
            steps.append(f"{words} ({sum(made)} tensors)")
    strange = [name for name in state if re.search(r"(^|\.)parametrizations\.", name)]
    if strange and not any(re.search(r"(^|\.)parametrizations\.", name) for name in names):
        raise UserError(
            f"{path} holds parametrized weights ({some(strange)}), which cannot be computed without their program; "
            "save them there after torch.nn.utils.parametrize.remove_parametrizations"
        )
    return state, steps


def _masked(state: State, layer: str, name: str) -> bool:
    """``torch.nn.utils.prune``: the weights before the cut times their mask."""
    parts = [f"{layer}.{name}_orig", f"{layer}.{name}_mask"]
    if not all(part in state for part in parts) or state[parts[0]].shape != state[parts[1]].shape:
        return False
    whole, mask = (state.pop(part) for part in parts)
    state[f"{layer}.{name}"] = whole * mask.to(whole.dtype)
    return True


def _normed(state: State, layer: str, name: str) -> bool:
    """Weight norm: a length for each output, and directions."""
    return _from_pair(state, f"{layer}.{name}", f"{layer}.{name}_g", f"{layer}.{name}_v")


def _normed_now(state: State, layer: str, name: str) -> bool:
    """Weight norm as a parametrization."""
    place = f"{layer}.parametrizations.{name}"
    return _from_pair(state, f"{layer}.{name}", f"{place}.original0", f"{place}.original1")


def _from_pair(state: State, target: str, length: str, direction: str) -> bool:
    if length not in state or direction not in state:
        return False
    g, v = state.pop(length), state.pop(direction)
    dims = [dim for dim in range(v.dim()) if g.dim() != v.dim() or g.shape[dim] == 1]
    state[target] = v * (g / torch.linalg.vector_norm(v, dim=dims, keepdim=True))
    return True


def _spectral(state: State, layer: str, name: str) -> bool:
    """Spectral norm: the weights before, and the vectors of the largest singular value."""
    place = f"{layer}.{name}"
    return _by_value(state, place, f"{place}_orig", f"{place}_u", f"{place}_v")


def _spectral_now(state: State, layer: str, name: str) -> bool:
    """Spectral norm as a parametrization."""
    place = f"{layer}.parametrizations.{name}"
    return _by_value(state, f"{layer}.{name}", f"{place}.original", f"{place}.0._u", f"{place}.0._v")


def _by_value(state: State, target: str, *parts: str) -> bool:
    if not all(part in state for part in parts):
        return False
    weight, u, v = (state[part] for part in parts)
    if weight.dim() < 2 or u.shape != weight.shape[:1] or v.numel() != weight[0].numel():
        return False  # along another dimension than the outputs
    for part in parts:
        del state[part]
    state[target] = weight / torch.dot(u, weight.flatten(1) @ v.flatten())
    return True


_RULES = (
    ("masks of torch.nn.utils.prune applied", r"\.(\w+)_orig$", _masked),
    ("weight norm computed", r"\.(\w+)_g$", _normed),
    ("weight norm computed", r"\.parametrizations\.(\w+)\.original0$", _normed_now),
    ("spectral norm computed", r"\.(\w+)_orig$", _spectral),
    ("spectral norm computed", r"\.parametrizations\.(\w+)\.original$", _spectral_now),
)
"""What is said, the end of a name with the tensor's name in it, and how its tensor follows."""


def _without_prefixes(tensors: State, names: Collection[str], path: Path) -> tuple[State, list[str]]:
    """Without prefixes that all names in the file share and that the net's own names do not."""
    steps = []
    while prefix := _shared_prefix(tensors, names):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        steps.append(f"without the prefix {prefix}")
    return tensors, steps


def _shared_prefix(tensors: Collection[str], names: Collection[str]) -> str | None:
    for prefix in PREFIXES:
        shared, own = (all(name.startswith(prefix) for name in part) for part in (tensors, names))
        if shared and not own:
            return prefix
    return None


def _one_part(tensors: State, names: Collection[str], path: Path) -> tuple[State, list[str]]:
    """Of a file with more than the net (a loss, a teacher, an average): the part that is the net."""
    needed = {name for name in names if not name.endswith("num_batches_tracked")}
    if needed <= tensors.keys():
        return tensors, []
    whole = [
        part
        for part in _parts(tensors)
        if needed <= {name.removeprefix(part) for name in tensors if name.startswith(part)}
    ]
    if not whole:
        return tensors, []
    known = [prefix for prefix in PREFIXES if prefix in whole]
    if not known and len(whole) > 1:
        raise UserError(f"{path} holds the whole net more than once, under {some(whole)}; save one of them alone")
    prefix = (known or whole)[0]
    left = [name for name in tensors if not name.startswith(prefix)]
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    others = [f"{len(left)} others left out ({some(left)})"] if left else []
    return kept, [f"without the prefix {prefix}", *others]


def _parts(tensors: Collection[str]) -> Iterator[str]:
    """The first words of names, with their point."""
    yield from dict.fromkeys(f"{name.partition('.')[0]}." for name in tensors if "." in name)
