"""From a net to a graph of operations with the shape that each of them has."""

from __future__ import annotations

import copy
import inspect
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from prunebench.errors import UserError

# Functions that get the net's training flag as an argument: symbolic tracing writes its present value down.
DROPOUTS: dict[Any, Callable[..., nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}

_BATCH = 2  # a batch of one would hide a reshape that mixes samples
_ADVICE = "write the forward pass with operations that do not depend on the data, or use a method that keeps the shapes"


@dataclass(frozen=True)
class Traced:
    """A net as a list of operations.

    Attributes:
        graph: of ``torch.fx``, without dead code.
        values: what each node returns: a tensor without data (its shape for two samples), a number, a tuple.
        macs: multiply-accumulates of each node for one sample.
        net: a copy of the net in evaluation mode.
    """

    graph: fx.Graph
    values: dict[fx.Node, Any]
    macs: dict[fx.Node, int]
    net: nn.Module


def trace(net: nn.Module, example: Tensor) -> Traced:
    """Follow one input through the net; nothing is computed and the net stays as it is.

    Args:
        net: takes one tensor.
        example: ``[batch, ...]``; only the shape of one sample, the type and the device matter.

    Raises:
        UserError: the forward pass depends on the data or on the training flag, or fails; names file and line.
    """
    net = copy.deepcopy(net)
    training, graph = (_symbolic(net.train(mode)) for mode in (True, False))
    _refuse_modes(training, graph)
    module = fx.GraphModule(net, graph)
    graph.eliminate_dead_code()
    module.recompile()
    shapes = _Shapes(module)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    sample = fake.from_tensor(example[:1].detach().expand(_BATCH, *example.shape[1:]).clone())
    with torch.no_grad(), fake, shapes.counter:
        shapes.run(sample)
    return Traced(graph, shapes.values, shapes.macs, net)


def where(node: fx.Node) -> str:
    """``" at file:line"`` of the net's code, or an empty string where it is unknown."""
    places = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(path, line) for path, line in places if not _is_torch(path)]
    return f" at {_short(own[-1][0])}:{own[-1][1]}" if own else ""


def describe(node: fx.Node, net: nn.Module) -> str:
    """What a node is, for a message: the class and path of a module, or the name of a function, and the line."""
    if node.op == "call_module":
        return f"{type(net.get_submodule(str(node.target))).__name__} '{node.target}'{where(node)}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"'{name}'{where(node)}"


class _Tracer(fx.Tracer):
    """Keeps torch's own layers whole, also subclasses that inherit their forward."""

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True for a layer of torch."""
        return not isinstance(m, nn.Sequential) and type(m).forward.__module__.startswith("torch.nn.")

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Only the input is symbolic; arguments with a default keep it."""
        name = next(iter(inspect.signature(self.root.forward).parameters), "x")
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]


class _Shapes(fx.Interpreter):
    """Runs each node on tensors without data and counts."""

    def __init__(self, net: fx.GraphModule) -> None:
        super().__init__(net)
        self.extra_traceback = False  # it would turn a sentence into a page
        self.values: dict[fx.Node, Any] = {}
        self.macs: dict[fx.Node, int] = {}
        self.counter = FlopCounterMode(display=False)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep its value."""
        before = self.counter.get_total_flops()
        try:
            value = super().run_node(n)
        except Exception as error:
            what, reason = describe(n, self.module), str(error).partition("\n")[0]
            raise UserError(f"the forward pass failed in {what} for {_BATCH} samples: {reason}") from error
        self.values[n] = value
        self.macs[n] = (self.counter.get_total_flops() - before) // (2 * _BATCH)
        return value


def _symbolic(net: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(net)
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_torch(frame.filename)]
        frames = [frame for frame in frames if frame.filename != __file__]
        place = f"{_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else "its forward"
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"cannot follow the channels of {type(net).__name__} through {place}: {reason}; {_ADVICE}"
        ) from error


def _refuse_modes(training: fx.Graph, evaluation: fx.Graph) -> None:
    """The shrunk net has one graph for both modes, so the mode may only switch modules and dropout functions."""
    pairs = list(zip(training.nodes, evaluation.nodes, strict=False))
    for one, other in pairs:
        same = (one.op, one.name) == (other.op, other.name)
        if same and (one.target in DROPOUTS or str((one.args, one.kwargs)) == str((other.args, other.kwargs))):
            continue
        raise UserError(
            f"the forward pass depends on self.training{where(other) or where(one)}; put what differs into a module "
            "such as nn.Dropout"
        )
    assert len(training.nodes) == len(evaluation.nodes), "the output is the last node, so one list cannot be longer"


def _is_torch(path: str) -> bool:
    return Path(torch.__file__).parent in Path(path).parents or path.startswith("<")


def _short(path: str) -> str:
    """Relative to the working directory where the file lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if here in Path(path).parents else path
