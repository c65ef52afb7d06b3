"""Which kind each operation of a traced net is, and which of its modules must be taken as they are."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, fx, nn

from prunebench.layers.own_weight import has_own_weight
from prunebench.surgery import functions, head_rules, module_rules
from prunebench.surgery.families import CONVOLUTIONS, LINEAR, NORMS, TRANSPOSED
from prunebench.surgery.gates import following
from prunebench.surgery.rule_context import Context
from prunebench.surgery.steps import Opaque, Output, Source, Step
from prunebench.surgery.trace import Traced
from prunebench.surgery.unread import COMPUTED


def build(traced: Traced, net: nn.Module) -> tuple[list[Step], dict[str, str]]:
    """One step for each node, in the same order.

    Args:
        traced: the graph.
        net: the dense net itself, which knows what it shares.

    Returns:
        The steps, and for each module that must be taken as it is why so: it is used more than once, it has hooks, or
        its forward cannot be followed.
    """
    shared = {**_shared(traced, net), **traced.leaves}
    context = Context(traced, net, shared)
    for node in traced.graph.nodes:
        step = _step(context, node)
        exact = step is not None and not head_rules.misread(context, step)
        context.append(node, step if step is not None and exact else _opaque(context, node))
    return following(context.steps), shared


def _step(context: Context, node: fx.Node) -> Step | None:
    if node.op == "placeholder":
        return Source(index=context.index)
    if node.op == "get_attr":
        return Source(index=context.index, params=context.parameters(str(node.target)))
    if node.op == "call_module":
        return module_rules.step(context, node)
    return functions.step(context, node) if node.op != "output" else None


def _opaque(context: Context, node: fx.Node) -> Step:
    inputs = context.inputs(node)
    kind = Output if node.op == "output" else Opaque
    module = str(node.target) if node.op == "call_module" else ""
    return kind(
        index=context.index,
        inputs=inputs,
        complete=tuple(context.complete(source) for source in inputs),
        why=context.why(node),
        module=module,
        macs=context.traced.macs[node],
        params=context.parameters(module) if module else (),
    )


def _shared(traced: Traced, net: nn.Module) -> dict[str, str]:
    """Modules with a state that are called twice, have two names, share a tensor with another module, or have
    hooks."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    reads = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    owners: dict[int, list[str]] = {}
    states: dict[str, list[Tensor]] = {}
    for name in calls:
        module = net.get_submodule(name)
        states[name] = [*module.parameters(), *module.buffers()]
        for tensor in states[name]:
            owners.setdefault(id(tensor), []).append(name)
    for name in reads:
        if name not in traced.constants:
            owners.setdefault(id(functions.attribute(net, name)), []).append(name)
    shared = {name: f"it is called {count} times" for name, count in calls.items() if count > 1 and states[name]}
    for name in calls:
        if any(module._forward_hooks or module._forward_pre_hooks for module in net.get_submodule(name).modules()):
            shared.setdefault(name, "it has forward hooks")
        further = net.get_submodule(name)._parameters.keys() - {"weight", "bias"}
        if further and isinstance(net.get_submodule(name), (*CONVOLUTIONS, *TRANSPOSED, *LINEAR, *NORMS)):
            shared[name] = f"it has parameters beside weight and bias: {', '.join(sorted(further))}"
        has_some = getattr(net.get_submodule(name), "weight", None) is not None
        if has_some and not has_own_weight(net.get_submodule(name)) and name not in traced.known.channelwise:
            shared[name] = COMPUTED
    for name, tensors in states.items():
        others = {other for tensor in tensors for other in owners[id(tensor)]} - {name}
        if others:
            shared.setdefault(name, f"it shares its weights with {min(others)}")
    return shared
