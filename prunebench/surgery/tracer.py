"""The forward pass of a net written down as a list of operations, or why that list would not be the net."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from prunebench.errors import UserError, first_line
from prunebench.surgery.places import owner, place_of, where
from prunebench.surgery.sizes_seen import Seen
from prunebench.surgery.stand_ins import Notes, Proxy, known_as_tensors
from prunebench.surgery.torch_blocks import followed

_FACTORIES = ("zeros", "ones", "full", "empty", "arange", "eye", "linspace", "finfo", "iinfo")
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


def symbolic(net: nn.Module, inputs: Tensor, leaves: Collection[str], *, training: bool) -> tuple[fx.Graph, list[str]]:
    """The operations of ``net`` in one mode, and the modules where a single sample would have taken another branch.

    Args:
        net: is put into the mode.
        inputs: ``[2, ...]``, say how many dimensions tensors have.
        leaves: paths of modules that are one operation, beside torch's own layers.
        training: which mode. It is traced with gradients and autocast on in the one and off in the other, so that a
            block that switches either is seen.

    Raises:
        CannotFollow: names file and line.
    """
    tracer = _Tracer(leaves, Seen(net, inputs))
    before = _tensors_of(net)
    with _switched(training), _sizes_noted(tracer), known_as_tensors():
        try:
            graph = tracer.trace(net.train(training))
        except Exception as error:
            reason = first_line(error)
            for advice in (" by default. If you want", ". This can be attempted when"):  # torch's, for its own users
                reason = reason.partition(advice)[0]
            text = f"cannot follow the channels of {type(net).__name__} through {place_of(error)}: {reason}"
            raise CannotFollow(text, tracer.failed, advice=_ADVICE) from error
    _put_back(net, before)
    return graph, [owner(node) for node in tracer.seen.alone]


def _tensors_of(net: nn.Module) -> list[tuple[nn.Module, dict[str, Any], str, Any]]:
    """Module, the dictionary of its buffers or of its attributes, name and tensor; stand-ins count as tensors."""
    return [
        (module, place, name, value)
        for module in net.modules()
        for place in (module._buffers, vars(module))
        for name, value in place.items()
        if isinstance(value, Tensor | fx.Proxy)
    ]


def _put_back(net: nn.Module, before: Sequence[tuple[nn.Module, dict[str, Any], str, Any]]) -> None:
    """Take the stand-ins out of a net that was traced: what it keeps to be looked at, or makes anew at each call.

    Whether it would have been read at the next call shows when the net is run twice; see
    :mod:`prunebench.surgery.faithful`.

    Args:
        net: after it was traced.
        before: what :func:`_tensors_of` had said.

    Raises:
        CannotFollow: a stored buffer was given another tensor, which the list of operations would never do.
    """
    paths = {id(module): path for path, module in net.named_modules()}
    known = {(id(place), name): value for _, place, name, value in before}
    for module, place, name, value in _tensors_of(net):
        if not isinstance(value, fx.Proxy):
            continue
        if place is module._buffers and name not in module._non_persistent_buffers_set:
            text = f"the forward pass of {type(module).__name__} replaces its buffer {name}{where(value.node)}"
            raise CannotFollow(text, paths[id(module)], advice=_ADVICE)
        if (id(place), name) in known:
            place[name] = known[id(place), name]
        else:
            del place[name]


def require(found: bool, expected: bool) -> None:
    """What a followed net does where the forward pass has a branch on sizes.

    Raises:
        UserError: the other branch would be taken.
    """
    if isinstance(found, fx.Proxy):  # a pickled net is traced once more when it is read
        found.tracer.create_proxy("call_function", require, (found, expected), {})
    elif bool(found) is not expected:
        raise UserError(
            "the forward pass takes another branch for inputs of these sizes than for those that it was followed with; "
            "prune the net with inputs of the sizes that it is used with"
        )


class _Tracer(Notes):
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
        self._installed: set[int] = set()  # ids of the net's own modules

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """As torch's, in the present modes."""
        self._modes = _modes()
        self._installed = {id(module) for module in root.modules()}
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True for a layer of torch, but for those made of several."""
        if module_qualified_name not in self._leaves and followed(m) is not None:
            return False
        of_torch = not isinstance(m, nn.Sequential) and type(m).forward.__module__.startswith("torch.nn.")
        return of_torch or module_qualified_name in self._leaves

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As torch's, and notes where it fails; a layer that is made as it is called is the functions that it calls."""
        if id(m) not in self._installed and not [*m.parameters(), *m.buffers()]:
            return forward(*args, **kwargs)
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
        return Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition on sizes is the same for all inputs of these sizes; the small net refuses others."""
        truth = self.seen.truth(obj.node)
        if truth is None:
            return bool(super().to_bool(obj))
        if obj.node not in self.seen.alone and not self.seen.is_of_type(obj.node):
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
    """Functions that make tensors from sizes, or ask a type of numbers, ask no proxy what to do with it."""

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
