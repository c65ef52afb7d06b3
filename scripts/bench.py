"""How fast is prunebench? Each answer is a ratio of things that are timed in turn in one process.

    python scripts/bench.py              all sections
    python scripts/bench.py 1 4          some of them
    python scripts/bench.py --quick      few steps and rounds: shows that everything runs, measures little

In every round each contender runs once, and the order turns round from round to round, so that a change of the
machine's clock or load meets all of them. A ratio is the median of the ratios within the rounds, with its quartiles.
Sections 1 and 2 read CIFAR-10 below PRUNEBENCH_DATA, or take random pictures of the same shape and say so; section 8
needs it, and the weights of model.pretrained=akamaster.
"""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import statistics
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from prunebench.errors import Parser, program
from prunebench.layers.memory_format import to_memory_format
from prunebench.run import runtime

runtime.limit_spinning()  # as the command line does; it has to come before torch

import bench_epochs
import torch
import torch.nn.functional as F
from bench_equal_time import equal_time
from bench_timing import console, paired, show
from torch import Tensor, nn

from prunebench.budget import choose
from prunebench.criteria.filters import geometric_median
from prunebench.measure import cost, latency
from prunebench.models.resnet_cifar import resnet20, resnet56
from prunebench.models.vgg_cifar import vgg16
from prunebench.nets.engines import runner
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero

BATCH = 128
EXAMPLE = torch.zeros(1, 3, 32, 32)


def training_step(net: nn.Module, *, channels_last: bool = True, bf16: bool = False) -> Callable[[], None]:
    """One step of SGD of a copy of ``net`` on a random batch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = to_memory_format(copy.deepcopy(net).train(), layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=layout), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    return step


def scores(net: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """FPGM's score of each filter of each convolution."""
    layers = [name for name, layer in graph.layers.items() if layer.kind == "conv"]
    return {name: geometric_median(net.get_parameter(f"{name}.weight")) for name in layers}


def macs_column(nets: Mapping[str, nn.Module]) -> dict[str, str]:
    """Cells with the MACs of each net as a share of the first one's."""
    macs = {label: cost.count(net, EXAMPLE).macs for label, net in nets.items()}
    return {label: f"{count / next(iter(macs.values())):.3f}" for label, count in macs.items()}


def _epochs(title: str, name: str, loop: Callable[[bench_epochs.Part], Callable[[], None]], quick: bool) -> None:
    steps = 2 if quick else 60
    data = bench_epochs.Part(steps * BATCH)
    ours, others = bench_epochs.measure(loop(data), data, rounds=2 if quick else 9)
    times = {"prunebench": ours, name: others}
    whole = {key: f"{statistics.median(seconds) / steps * 50_000 / BATCH:.1f}" for key, seconds in times.items()}
    title = f"{title}; epochs of {steps} steps of {BATCH} pictures"
    show(title, times, reference=name, more={"s for 50,000 pictures": whole})


def against_plain_loop(quick: bool) -> None:
    title = "1. ResNet-20, CIFAR-10: the Trainer against a plain loop over the same tensors (goal: 1.05)"
    _epochs(title, "plain loop", bench_epochs.plain_loop, quick)


def against_usual_loop(quick: bool) -> None:
    title = "2. The same against a loader with two workers that transforms picture by picture"
    _epochs(title, "usual loop", bench_epochs.usual_loop, quick)


def precisions(quick: bool) -> None:
    for name, net in (("ResNet-20", resnet20()), ("VGG-16", vgg16())):
        steps = {
            "float32, channels first": training_step(net, channels_last=False),
            "float32, channels last": training_step(net),
            "bfloat16 mixed, channels last": training_step(net, bf16=True),
        }
        times = paired(steps, 2 if quick else 15)
        show(f"3. Training step of {name}, {BATCH} pictures", times, reference="float32, channels first")


def latencies(quick: bool) -> None:
    for name, net in (("ResNet-56", resnet56()), ("VGG-16", vgg16())):
        net = to_memory_format(net.eval(), torch.channels_last)
        graph = ChannelGraph.trace(net, EXAMPLE)
        nets: dict[str, nn.Module] = {"dense": net}
        for label, options in (
            ("free", {"coupling": "free"}),
            ("aligned", {"coupling": "aligned"}),
            ("aligned, round_to=8", {"coupling": "aligned", "round_to": 8}),
        ):
            chosen = choose(scores(net, graph), graph, prune_ratio=0.4, **options)
            nets[label] = shrink(net, graph, chosen.plan)
        more = {"MACs / dense": macs_column(nets)}
        for batch in (1, 64):
            images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                calls = {label: functools.partial(small, images) for label, small in nets.items()}
                times = paired(calls, 3 if quick else 300 // batch + 20)
            title = f"4. Latency of {name}, FPGM, 40 % of the filters cut, batch {batch}"
            show(title, times, reference="dense", more=more)


def budget_search(quick: bool) -> None:
    import torch_pruning as tp

    # with option-A shortcuts the peer cuts the padded stream apart: its net no longer runs
    net = resnet56(shortcut="B").eval()
    dense = cost.count(net, EXAMPLE).macs
    reached: dict[str, str] = {}
    alone = 0.0

    def ours() -> None:
        nonlocal alone
        graph = ChannelGraph.trace(net, EXAMPLE)
        ranked = scores(net, graph)
        chosen = choose(ranked, graph, target_macs=0.5, scope="global", normalise="mean", coupling="aligned")
        reached["prunebench"] = f"{chosen.achieved['macs_kept']:.4f}"
        alone = chosen.achieved["seconds"] or 0.0

    def theirs() -> None:
        small = copy.deepcopy(net)
        options = {"pruning_ratio": 1.0, "global_pruning": True, "iterative_steps": 200}
        last = [small.get_submodule("linear")]
        pruner = tp.pruner.BasePruner(small, EXAMPLE, tp.importance.FPGMImportance(), ignored_layers=last, **options)
        macs = dense
        while macs > 0.5 * dense:
            pruner.step()
            macs = tp.utils.count_ops_and_params(small, EXAMPLE)[0]
        reached["torch-pruning"] = f"{cost.count(small, EXAMPLE).macs / dense:.4f}"

    times = paired({"prunebench": ours, "torch-pruning": theirs}, 2 if quick else 7)
    title = "5. ResNet-56 (B), half of its MACs, global and aligned: trace, score, search, against a progressive search"
    more = {"MACs kept": reached, "search alone": {"prunebench": f"{1e3 * alone:.1f} ms"}}
    show(title, times, reference="torch-pruning", more=more)


def training_steps(quick: bool) -> None:
    net = resnet56()
    graph = ChannelGraph.trace(net.eval(), EXAMPLE)
    nets: dict[str, nn.Module] = {"dense": net}
    for ratio in (0.4, 0.5):
        plan = choose(scores(net, graph), graph, prune_ratio=ratio).plan
        nets[f"{100 * ratio:g} % zeroed"] = zero(net, graph, plan)
        nets[f"{100 * ratio:g} % cut"] = shrink(net, graph, plan)
    more = {"MACs / dense": macs_column(nets)}
    times = paired({label: training_step(other) for label, other in nets.items()}, 2 if quick else 15)
    show(f"6. Training step of ResNet-56, FPGM, free, {BATCH} pictures", times, reference="dense", more=more)


def _steps_on_demand(pipe: Connection, tuned: bool) -> None:
    """In a process of its own: an answer for each request for so many training steps."""
    if tuned:
        runtime.tune_allocator()
    step = training_step(resnet20())
    while count := pipe.recv():
        for _ in range(count):
            step()
        pipe.send(count)


def allocator(quick: bool) -> None:
    spawn = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for name in ("default", "tuned"):
        pipes[name], far = spawn.Pipe()
        workers.append(spawn.Process(target=_steps_on_demand, args=(far, name == "tuned"), daemon=True))
        workers[-1].start()

    def ask(pipe: Any) -> None:
        pipe.send(1 if quick else 5)
        pipe.recv()

    times = paired({name: functools.partial(ask, pipe) for name, pipe in pipes.items()}, 2 if quick else 15)
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(0)
        worker.join()
    show("7. Training steps of ResNet-20 with glibc's allocator as it is and tuned", times, reference="default")


def free_sets(quick: bool) -> None:
    net = to_memory_format(resnet56(shortcut="B").eval(), torch.channels_last)
    graph = ChannelGraph.trace(net, EXAMPLE)
    nets: dict[str, nn.Module] = {"dense": net}
    for ratio in (0.4, 0.5, 0.75):
        for coupling in ("free", "aligned"):
            chosen = choose(scores(net, graph), graph, prune_ratio=ratio, coupling=coupling)
            nets[f"{coupling}, {100 * ratio:g} % cut"] = shrink(net, graph, chosen.plan)
    more = {"MACs / dense": macs_column(nets)}
    images = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for engine in (latency.TORCH, latency.ONNXRUNTIME):
        ready = {label: runner(engine, small, EXAMPLE) for label, small in nets.items()}
        with torch.inference_mode():
            times = paired(
                {label: functools.partial(call, images) for label, call in ready.items()}, 2 if quick else 25
            )
        show(f"9. Latency of ResNet-56 (B), FPGM, batch 64, {engine}", times, reference="dense", more=more)


SECTIONS: dict[int, Callable[[bool], None]] = {
    1: against_plain_loop,
    2: against_usual_loop,
    3: precisions,
    4: latencies,
    5: budget_search,
    6: training_steps,
    7: allocator,
    8: equal_time,
    9: free_sets,
}


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = ", ".join(f"{number} {section.__name__}" for number, section in SECTIONS.items())
    parser.add_argument("sections", nargs="*", type=int, metavar="SECTION", help=f"{listed}; all by default")
    parser.add_argument("--quick", action="store_true", help="few steps and rounds")
    parser.add_argument("--threads", type=int, help="CPU threads of torch; all cores by default")
    given = parser.parse_args(arguments)
    if unknown := set(given.sections) - SECTIONS.keys():
        parser.error(f"there is no section {min(unknown)}; choose from 1 to {len(SECTIONS)}")
    if given.threads is not None and given.threads < 1:
        parser.error(f"--threads must be at least 1, got {given.threads}")
    runtime.tune_allocator()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    machine, software = runtime.hardware(), runtime.versions()
    console.print(f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, torch {software['torch']}")
    for number in given.sections or SECTIONS:
        SECTIONS[number](given.quick)
    return 0


if __name__ == "__main__":
    program(main)
