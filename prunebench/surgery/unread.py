"""What the forward pass never reads: it stays as it is, and counts before and after a cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter

from torch import Tensor, fx, nn

from prunebench.layers.own_weight import has_own_weight
from prunebench.surgery.families import CONVOLUTIONS, LINEAR, NORMS, TRANSPOSED
from prunebench.surgery.trace import Traced

_OF_SIMPLE_LAYERS = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})
COMPUTED = "its weight is computed from other parameters"
"""Why a parametrised layer stays whole."""


def unread_tensors(traced: Traced) -> tuple[str, ...]:
    """Parameters and stored buffers that no operation uses."""
    read: set[int] = set()
    for path in {str(node.target) for node in traced.graph.nodes if node.op in ("call_module", "get_attr")}:
        read |= {id(tensor) for tensor in _read(attrgetter(path)(traced.net))}
    return tuple(name for name, tensor in traced.net.state_dict(keep_vars=True).items() if id(tensor) not in read)


def _read(found: Tensor | nn.Module) -> Iterable[Tensor]:
    """What an operation reads of a module: all it has, but of torch's simple layers only what their class has."""
    if isinstance(found, Tensor):
        return [found]
    state: dict[str, Tensor] = found.state_dict(keep_vars=True)
    kinds = (*CONVOLUTIONS, *TRANSPOSED, *LINEAR, *NORMS)
    simple = next((kind for kind in kinds if type(found).forward is kind.forward and isinstance(found, kind)), None)
    if simple is None or not has_own_weight(found):
        return state.values()
    return [tensor for name, tensor in state.items() if name in _OF_SIMPLE_LAYERS]


def unfollowed_layers(
    traced: Traced, kinds: tuple[type[nn.Module], ...], known: Collection[str], unread: Collection[str]
) -> dict[str, str]:
    """The layers of some ``kinds`` that are no operation of the graph, with the reason.

    Args:
        traced: the graph.
        kinds: classes of the layers.
        known: the layers that the graph has.
        unread: see :func:`unread_tensors`.
    """
    reasons: dict[str, str] = {}
    for name, module in traced.net.named_modules():
        if not isinstance(module, kinds) or name in known:
            continue
        outer = [path for path in _called(traced.graph) if name.startswith(f"{path}.")]
        if f"{name}.weight" in unread:
            reasons[name] = "the forward pass never reads it"
        elif not has_own_weight(module):
            reasons[name] = COMPUTED
        elif outer:
            reasons[name] = f"it is inside {outer[0]}, {_why_whole(outer[0], traced.leaves)}"
        else:
            reasons[name] = "its weight is read, but it is not called as a layer"
    return reasons


def keep_unread(small: nn.Module, net: nn.Module, names: Collection[str]) -> None:
    """Give a shrunk net, in place, the tensors of the dense one that nothing reads.

    Args:
        small: the shrunk net.
        net: the dense net, or a copy whose tensors may be taken over.
        names: of the tensors.
    """
    for name in names:
        path, _, last = name.rpartition(".")
        source, target = net.get_submodule(path), _submodule(small, net, path)
        if last in source._parameters:
            target.register_parameter(last, source._parameters[last])
        else:
            target.register_buffer(last, source.get_buffer(last))


def _submodule(small: nn.Module, net: nn.Module, path: str) -> nn.Module:
    """The module at ``path``: a layer of the dense net that has no parts as it is, or a plain container."""
    inside, outside = small, net
    for item in path.split(".") if path else []:
        outside = outside.get_submodule(item)
        if not hasattr(inside, item):
            inside.add_module(item, nn.Module() if list(outside.children()) else outside)
        inside = inside.get_submodule(item)
    return inside


def _called(graph: fx.Graph) -> list[str]:
    return list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"))


def _why_whole(path: str, leaves: Mapping[str, str]) -> str:
    return f"which is taken as one operation: {leaves[path]}" if path in leaves else "which is taken as one operation"
