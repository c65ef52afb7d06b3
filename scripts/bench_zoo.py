"""Public nets cut by prunebench and by torch-pruning: does it work, is it exact, is it counted right, what is left?

    pip install -e '.[zoo,peers]'                                       works without torchvision, too
    python scripts/bench_zoo.py                                         every net, each in a process of its own
    python scripts/bench_zoo.py 'timm:*' yolo                           some of them; half a minute a net
    python scripts/bench_zoo.py --to zoo.json                           the answers as data, too

All weights are random, and nothing is downloaded. Each layer loses 30 % of its filters, those of the smallest L1 norm,
and layers that meet in additions the same ones. Ours must compute what the net with those filters at zero computes (at
the precision of float64 where float32 cannot tell), and have the MACs and parameters of the plan, counted anew on
the small net. Of torch-pruning it is asked that the net still runs. "whole" is how many layers lost no weight, of those
that are not the output.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_timing import console
from bench_zoo_nets import NETS
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from prunebench import budget
from prunebench.errors import Parser, UserError, program
from prunebench.measure import cost
from prunebench.nets.opened import opened
from prunebench.surgery.equality import same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero

RATIO = 0.3
BATCH = 2


def randomised(net: nn.Module) -> nn.Module:
    """Norms as after a training, so that a channel at zero is not like any other; in evaluation mode."""
    draws = torch.Generator().manual_seed(0)
    for module in net.modules():
        for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2)):
            values = getattr(module, name, None)
            if isinstance(values, Tensor) and values.dim() == 1:
                values.data.uniform_(low, high, generator=draws)
    return net.eval()


def ours(net: nn.Module, x: Tensor) -> tuple[dict[str, Any], set[str]]:
    """What came of it: MACs left, layers whole of all, seconds, what is ``wrong``; and the output layers."""
    start = time.monotonic()
    net = opened(net)
    graph = ChannelGraph.trace(net, x[:1])
    dense = cost.count(net, x)
    scores = {
        name: layer.by_outputs(net.get_parameter(f"{name}.weight")).detach().abs().flatten(1).sum(1)
        for name, layer in graph.layers.items()
        if not layer.is_output and layer.kind != "depthwise"
    }
    plan = budget.choose(scores, graph, prune_ratio=RATIO, coupling="aligned", count="keep_floor").plan
    small = shrink(net, graph, plan)
    counted = cost.count(small, x)
    wrong = []
    if (graph.macs(plan), graph.params(plan)) != (counted.macs, counted.params):
        wrong.append(f"counted {counted.macs} MACs, the plan says {graph.macs(plan)}")
    found = same(zero(net, graph, plan), small, x, lambda own, inputs: own(inputs.clone()))
    return {
        "wrong": wrong,
        "difference": found.largest / max(found.scale, 1e-30),
        "left": counted.macs / dense.macs,
        "layers": len(scores),
        "whole": sum(small.get_submodule(name).weight.shape == net.get_submodule(name).weight.shape for name in scores),
        "seconds": time.monotonic() - start,
    }, {name for name, layer in graph.layers.items() if layer.is_output}


def theirs(net: nn.Module, x: Tensor, output: set[str]) -> dict[str, Any]:
    """The same by torch-pruning, group by group, with the heads of attention named to it."""
    import torch_pruning as tp

    start = time.monotonic()
    dense = cost.count(net, x)
    heads = {
        module.get_submodule(name): int(count)
        for module in net.modules()
        for name in ("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "c_attn", "in_proj")
        if name in dict(module.named_children())
        and (count := getattr(module, "num_heads", None) or getattr(module, "num_attention_heads", None))
    }
    pruner = tp.pruner.BasePruner(
        net,
        x[:1],
        tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=[module for name, module in net.named_modules() if name in output],
        num_heads=heads,
        prune_num_heads=bool(heads),
        head_pruning_ratio=RATIO,
    )
    pruner.step()
    net(x)
    return {"left": cost.count(net, x).macs / dense.macs, "seconds": time.monotonic() - start}


def one(name: str) -> Iterator[dict[str, Any]]:
    """Ours on one net, then both; an ``error`` in place of what did not work."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net, x = NETS[name](BATCH)
    randomised(net)
    last = [path for path, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    outputs = {last}
    answer: dict[str, Any] = {"net": name}
    try:
        answer["ours"], outputs = ours(copy.deepcopy(net), x)
    except Exception as error:
        answer["ours"] = {"error": _said(error), "refused": isinstance(error, UserError)}
    yield {**answer, "peer": {"error": "it took too long"}}
    try:
        answer["peer"] = theirs(net, x, outputs)
    except Exception as error:
        answer["peer"] = {"error": _said(error)}
    yield answer


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def asked(name: str, seconds: float) -> dict[str, Any]:
    """:func:`one` in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        said, errors = process.stdout, process.stderr
    except subprocess.TimeoutExpired as expired:
        said, errors = (expired.stdout or b"").decode(), f"longer than {seconds:g} s"
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        last = (errors.strip().splitlines() or ["no word"])[-1]
        return {"net": name, "ours": {"error": last[:200]}, "peer": {"error": ""}}
    return dict(json.loads(lines[-1]))


def shown(answers: list[dict[str, Any]]) -> None:
    """A line a net, and the sums."""
    table = Table(title="MACs left when each layer loses 30 % of its filters", title_justify="left")
    for heading in ("net", "ours", "torch-pruning", "whole", "seconds", ""):
        table.add_column(heading, justify="left" if heading in ("net", "") else "right")
    for answer in answers:
        own, peer = answer["ours"], answer["peer"]
        cells = [f"{part['left']:.3f}" if "left" in part else "–" for part in (own, peer)]
        whole, seconds = (f"{own['whole']}/{own['layers']}", f"{own['seconds']:.0f}") if "left" in own else ("", "")
        table.add_row(answer["net"], *cells, whole, seconds, "; ".join(own.get("wrong", [])) or own.get("error", ""))
    console.print(table)
    cut = [a for a in answers if a["ours"].get("left", 1) < 1]
    both = [a for a in cut if a["peer"].get("left", 1) < 1]
    less = sum(a["ours"]["left"] <= a["peer"]["left"] + 0.005 for a in both)
    console.print(
        f"{len(answers)} nets: {len(cut)} cut by prunebench, {sum(a['peer'].get('left', 1) < 1 for a in answers)} by "
        f"torch-pruning; wrong numbers of ours {sum(bool(a['ours'].get('wrong')) for a in answers)}, refused in a "
        f"sentence {sum(a['ours'].get('refused', False) for a in answers)}; of the {len(both)} that both cut, not more "
        f"MACs are left by ours than by the peer (to half a point) in {less}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help="names, or globs of them; none = all")
    parser.add_argument("--to", type=Path, help="a JSON file for the answers")
    parser.add_argument("--seconds", type=float, default=300, help="how long a net may take")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        for answer in one(given.one):
            print(json.dumps(answer), flush=True)
        return 0
    names = [name for name in NETS if not given.nets or any(fnmatch.fnmatch(name, glob) for glob in given.nets)]
    answers = []
    for name in track(names, "nets", console=console):
        answers.append(asked(name, given.seconds))
        if given.to:
            given.to.write_text(json.dumps(answers, indent=1))
    shown(answers)
    return int(any(a["ours"].get("wrong") or ("error" in a["ours"] and not a["ours"].get("refused")) for a in answers))


if __name__ == "__main__":
    program(main)
