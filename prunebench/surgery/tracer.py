"""The forward pass of a net written down as a list of operations, or why that list would not be the net."""

from __future__ import annotations

import inspect
import operator
import re
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from prunebench.errors import UserError, first_line
from prunebench.surgery.norm_forms import norms_with_parts
from prunebench.surgery.sizes_seen import Seen
from prunebench.surgery.torch_blocks import followed

# Functions that get the net's training flag as an argument: symbolic tracing writes its present value down.
DROPOUTS: dict[Any, Callable[..., nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}

_FACTORIES = ("zeros", "ones", "full", "empty", "arange", "eye", "linspace")
DROPPED = "dropped in training"
"""Key of a node's ``meta``: the share of the weights that attention drops."""
_DEVICES = ("cpu", "cuda")
_ADVICE = (
    "put what a list of operations cannot hold into a module of its own, which then stays whole, or use a method that "
    "keeps the shapes"
)


class CannotFollow(Exception):
    """Something in a forward pass that a list of operations does not hold.

    Attributes:
        module: path of the innermost module of the user's in whose forward it is; empty for the net's own forward.
        advice: what to do where it is the net's own.
    """

    def __init__(self, text: str, module: str, *, advice: str = "") -> None:
        super().__init__(text)
        self.module = module
        self.advice = advice


class _Context(Exception):
    """Operations under a context manager that would be lost."""


def symbolic(net: nn.Module, inputs: Tensor, leaves: Collection[str], *, training: bool) -> fx.Graph:
    """The operations of ``net`` in one mode.

    Args:
        net: is put into the mode.
        inputs: ``[batch, ...]``, say how many dimensions tensors have.
        leaves: paths of modules that are one operation, beside torch's own layers.
        training: which mode. It is traced with gradients and autocast on in the one and off in the other, so that a
            block that switches either is seen.

    Raises:
        CannotFollow: names file and line.
    """
    tracer = _Tracer({*leaves, *norms_with_parts(net)}, Seen(net, inputs))
    with _switched(training), _sizes_noted(tracer):
        try:
            return tracer.trace(net.train(training))
        except Exception as error:
            reason = first_line(error)
            for advice in (" by default. If you want", ". This can be attempted when"):  # torch's, for its own users
                reason = reason.partition(advice)[0]
            text = f"cannot follow the channels of {type(net).__name__} through {_place(error)}: {reason}"
            raise CannotFollow(text, tracer.failed, advice=_ADVICE) from error


def check_modes(training: fx.Graph, evaluation: fx.Graph) -> None:
    """The shrunk net has one graph for both modes, so the mode may only switch modules and dropout functions.

    Raises:
        CannotFollow: names file and line.
    """
    for one, other in zip(training.nodes, evaluation.nodes, strict=False):
        same = (one.op, one.name) == (other.op, other.name)
        if not same or (_arguments(one) != _arguments(other) and not _only_drops(one, other)):
            longer, shorter = (one, other) if len(training.nodes) > len(evaluation.nodes) else (other, one)
            raise CannotFollow(
                f"the forward pass depends on self.training{where(longer) or where(shorter)}",
                max(owner(one), owner(other), key=lambda path: path.count(".") + bool(path)),
                advice="put what differs into a module such as nn.Dropout",
            )
    assert len(training.nodes) == len(evaluation.nodes), "the output is the last node, so one list cannot be longer"


def switched_dropouts(training: fx.Graph, evaluation: fx.Graph) -> frozenset[fx.Node]:
    """The dropout functions of the second graph that follow the net's mode; attention notes what it drops."""
    pairs = [(a, b) for a, b in zip(training.nodes, evaluation.nodes, strict=True) if _arguments(a) != _arguments(b)]
    for one, other in pairs:
        if one.target is F.scaled_dot_product_attention:
            other.meta[DROPPED] = attention_arguments(one).get("dropout_p", 0.0)
    return frozenset(other for _, other in pairs)


def attention_arguments(node: fx.Node) -> dict[str, Any]:
    """What ``F.scaled_dot_product_attention`` is called with, by name."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _only_drops(training: fx.Node, evaluation: fx.Node) -> bool:
    """Whether two calls differ in their dropout alone."""
    if training.target is not F.scaled_dot_product_attention:
        return training.target in DROPOUTS
    one, other = ({**attention_arguments(node), "dropout_p": None} for node in (training, evaluation))
    return str(one) == str(other) and attention_arguments(evaluation).get("dropout_p", 0.0) == 0


def where(node: fx.Node) -> str:
    """``" at file:line"`` of the net's code, or an empty string where it is unknown."""
    places = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(path, line) for path, line in places if not _is_ours(path)]
    return f" at {_short(own[-1][0])}:{own[-1][1]}" if own else ""


def describe(node: fx.Node, net: nn.Module) -> str:
    """What a node is, for a message: the class and path of a module, or the name of a function, and the line."""
    if node.op == "call_module":
        return f"{type(net.get_submodule(str(node.target))).__name__} '{node.target}'{where(node)}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"'{name}'{where(node)}"


def owner(node: fx.Node) -> str:
    """Path of the module whose forward has this operation, empty for the net itself."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module" and paths and paths[-1] == node.target:
        paths.pop()
    return paths[-1] if paths else ""


def require(found: bool, expected: bool) -> None:
    """What a followed net does where the forward pass has a branch on sizes.

    Raises:
        UserError: the other branch would be taken.
    """
    if bool(found) is not expected:
        raise UserError(
            "the forward pass takes another branch for inputs of these sizes than for those that it was followed with; "
            "prune the net with inputs of the sizes that it is used with"
        )


class _Proxy(fx.Proxy):
    """``x += y`` writes into ``x``, which torch's own proxies take for ``x = x + y``; some know their length."""

    tracer: _Tracer

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        return _Attribute(self, k)

    def __len__(self) -> int:
        return _length(self)

    def dim(self) -> Any:
        """The number of dimensions, which is the net's and not the data's."""
        number = self.tracer.seen.num_dims(self.node)
        return self.tracer.create_proxy("call_method", "dim", (self,), {}) if number is None else number

    @property
    def ndim(self) -> Any:
        """The same."""
        return self.dim()


class _Attribute(fx.proxy.Attribute):
    """``x.shape``, of which ``len`` is asked."""

    tracer: _Tracer

    def __len__(self) -> int:
        return _length(self)


def _length(proxy: _Proxy | _Attribute) -> int:
    number = proxy.tracer.seen.length(proxy.node)
    return fx.Proxy.__len__(proxy) if number is None else number


def _written(name: str) -> Callable[[Any, Any], Any]:
    function = getattr(operator, name)
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _written(_name))


class _Tracer(fx.Tracer):
    """Keeps torch's own layers whole, also subclasses that inherit their forward, and the named modules.

    Attributes:
        failed: path of the innermost module that was followed when an exception came.
    """

    def __init__(self, leaves: Collection[str], seen: Seen) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.proxy_buffer_attributes = True
        self.failed = ""
        self.seen = seen
        self._leaves = leaves
        self._modes: tuple[bool, ...] = ()

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """As torch's, in the present modes."""
        self._modes = _modes()
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True for a layer of torch, but for those made of several."""
        if module_qualified_name not in self._leaves and followed(m) is not None:
            return False
        own = not isinstance(m, nn.Sequential) and type(m).forward.__module__.startswith("torch.nn.")
        return own or module_qualified_name in self._leaves

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As torch's, and notes where it fails."""
        if not self.is_leaf_module(m, self.path_of_module(m)):
            forward = followed(m) or forward
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            path = self.path_of_module(m)
            if not self.failed and not self.is_leaf_module(m, path):
                self.failed = path
            raise

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """As torch's, outside of context managers that the list of operations would lose."""
        if _modes() != self._modes:
            raise _Context("it runs under a block that switches gradients, autocast or inference mode")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """One that records what is written in place."""
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition on sizes is the same for all inputs of these sizes; the small net refuses others."""
        truth = self.seen.truth(obj.node)
        if truth is None:
            return bool(super().to_bool(obj))
        if not self.seen.is_of_type(obj.node):
            self.create_proxy("call_function", require, (obj, truth), {})
        return truth

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """As torch's, and the items of a tuple one by one: ``chunk(3)``, ``split([4, 8])``, ``shape[:2]``."""
        number = self.seen.length(obj.node)
        if number is None:
            return super().iter(obj)
        return (self.create_proxy("call_function", operator.getitem, (obj, place), {}) for place in range(number))

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Only the input is symbolic; arguments with a default keep it."""
        name = next(iter(inspect.signature(self.root.forward).parameters), "x")
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]


def _modes() -> tuple[bool, ...]:
    autocast = [torch.is_autocast_enabled(device) for device in _DEVICES]
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """Gradients and autocast on or off."""
    before = [torch.is_autocast_enabled(device) for device in _DEVICES]
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(on):
            for device in _DEVICES:
                torch.set_autocast_enabled(device, on)
            yield
    finally:
        for device, was_on in zip(_DEVICES, before, strict=True):
            torch.set_autocast_enabled(device, was_on)


@contextmanager
def _sizes_noted(tracer: fx.Tracer) -> Iterator[None]:
    """Functions that make tensors from sizes ask no proxy what to do with it, as all others do."""

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            symbolic = any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs)))
            make = tracer.create_proxy if symbolic else None
            return make("call_function", function, args, kwargs) if make else function(*args, **kwargs)

        return call

    before = {name: getattr(torch, name) for name in _FACTORIES}
    try:
        for name, function in before.items():
            setattr(torch, name, noted(function))
        yield
    finally:
        for name, function in before.items():
            setattr(torch, name, function)


def _arguments(node: fx.Node) -> str:
    return str((node.args, node.kwargs))


def _place(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else "its forward"


def _is_ours(path: str) -> bool:
    """Torch's or this package's, not the net's."""
    places = (Path(torch.__file__).parent, Path(__file__).parent)
    return path.startswith("<") or any(place in Path(path).parents for place in places)


def _short(path: str) -> str:
    """Relative to the working directory where the file lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if here in Path(path).parents else path
