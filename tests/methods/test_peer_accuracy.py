"""Right after the cut, nothing trained: the channels that we choose beside those of torch-pruning, at the same MACs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.config import named
from prunebench.core.method import Method
from prunebench.layers.memory_format import to_memory_format
from prunebench.measure import cost
from prunebench.models.resnet_cifar import PadShortcut
from prunebench.nets.checkpoints import load_foreign
from prunebench.nets.dense_net import make_net
from prunebench.run.assemble import load_data
from prunebench.surgery.shrink import shrink
from tests.bare import bare_run
from tests.kit import configure

NAMED = ("dataset=cifar10", "model.pretrained=akamaster", "schedule=oneshot", "latency=false")
EXAMPLE = torch.zeros(1, 3, 32, 32)
TARGETS = (0.9, 0.7, 0.5)
WORSE = 0.01  # so much below the peer is no defect: a point
WRECK = 0.3  # of two nets below this accuracy, after 92 % before, the better one owes it to luck
USABLE = 0.5


class Padding(nn.Conv2d):
    """An option-A shortcut as a convolution: the peer's net would not run any more behind one that pads."""


def with_convolutions(net: nn.Module) -> nn.Module:
    """A copy of ``net`` that computes the same without padding channels."""
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if isinstance(module, PadShortcut):
            num_out = len(net.get_parameter(f"{name.rpartition('.')[0]}.conv2.weight"))
            num_in = num_out - module.front - module.back
            conv = Padding(num_in, num_out, 1, stride=2, bias=False)
            nn.init.zeros_(conv.weight)
            with torch.no_grad():
                conv.weight[module.front : module.front + num_in, :, 0, 0] = torch.eye(num_in)
            net.set_submodule(name, conv)
    return net.eval()


def macs(net: nn.Module) -> int:
    """Those of the net without what only stands for padding."""
    rows = cost.count(net, EXAMPLE).per_layer
    return sum(row["macs"] for row in rows if not isinstance(net.get_submodule(row["layer"]), Padding))


def peer(net: nn.Module, method: str, ratio: float, scope: str, *, alone: bool = False) -> nn.Module:
    """``net`` cut by torch-pruning, all but the last layer; the convolutions that pad have no vote.

    Args:
        alone: only the first layer of each block is cut, and its filters alone have a vote; else the norms behind them
            and the layers that read them vote too, which is what our ``group_norm`` does.
    """
    tp = pytest.importorskip("torch_pruning")
    kind = {"l1norm": tp.importance.MagnitudeImportance, "fpgm": tp.importance.FPGMImportance}[method]

    class OfTheNet(kind):  # type: ignore[misc, valid-type]
        def __call__(self, group: Any) -> Tensor:
            voters = copy.copy(group)
            voters._group = [item for item in group._group if not isinstance(item.dep.target.module, Padding)]
            return super().__call__(voters)

    net = with_convolutions(net)
    votes = {"group_reduction": "first"} if alone else {}
    importance = OfTheNet(**({"p": 1} if method == "l1norm" else {}), **votes)
    layers = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    whole = [module for name, module in layers.items() if not name.endswith(".conv1")] if alone else [net.linear]
    options = {"global_pruning": scope == "global", "pruning_ratio": ratio, "ignored_layers": whole}
    tp.pruner.BasePruner(net, EXAMPLE, importance, **options).step()
    return net


def peer_at(net: nn.Module, method: str, goal: float, scope: str) -> tuple[nn.Module, float]:
    """The peer's net that is nearest to ``goal`` of the MACs, and its share."""
    dense, low, high = macs(net), 0.0, 0.9
    found: list[tuple[float, float]] = []
    for _ in range(10):
        ratio = (low + high) / 2
        share = macs(peer(net, method, ratio, scope)) / dense
        found.append((share, ratio))
        low, high = (ratio, high) if share > goal else (low, ratio)
    share, ratio = min(found, key=lambda pair: abs(pair[0] - goal))
    return peer(net, method, ratio, scope), share


def ours_at(net: nn.Module, method: str, goal: float, *options: str) -> nn.Module:
    config, _ = configure(Path("unused"), f"method={method}", f"method.target_macs={goal}", *options)
    run = bare_run(net, EXAMPLE, schedule="oneshot")
    choice = named.build("method", config["method"], expects=Method).rank(net, run)
    return shrink(net, run.graph, choice.plan)


def trained_net(name: str, data_root: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A net with its public weights, and the configuration that names them."""
    config, _ = configure(Path("unused"), *NAMED, f"model={name}", f"paths.data={data_root}")
    if not Path(config["model"]["pretrained"]).exists():
        pytest.skip("the weights are not there")
    net = make_net(config["model"]).eval()
    load_foreign(net, config["model"]["pretrained"], sha256=None, cache=Path("unused"))
    return net, config


@pytest.fixture(params=["resnet20", "resnet56"])
def trained(request: pytest.FixtureRequest, data_root: Path) -> tuple[str, nn.Module, Any]:
    """Name, net and test batches."""
    net, config = trained_net(request.param, data_root)
    return request.param, net, list(load_data(config).test())


def accuracy(net: nn.Module, batches: Any) -> float:
    net = to_memory_format(net.eval(), torch.channels_last)
    with torch.inference_mode():
        right = [net(x).argmax(dim=1) == y for x, y in batches]
    return float(torch.cat(right).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("method", ["l1norm", "fpgm"])
def test_no_worse_than_the_peer(trained: tuple[str, nn.Module, Any], method: str, scope: str) -> None:
    name, net, batches = trained
    worse = []
    for goal in TARGETS:
        theirs, share = peer_at(net, method, goal, scope)
        found = {"torch-pruning": accuracy(theirs, batches)}
        for coupling in ("aligned", "free"):
            options = (f"method.scope={scope}", f"method.coupling={coupling}", "method.layers=all")
            found[coupling] = accuracy(ours_at(net, method, share, *options), batches)
        told = ", ".join(f"{who} {100 * value:.2f}" for who, value in found.items())
        print(f"{name} {method} {scope}, {100 * share:.1f} % of the MACs: {told}")
        if found["torch-pruning"] > WRECK:
            worse += [f"{told} at {goal}" for value in found.values() if value < found["torch-pruning"] - WORSE]
    assert worse == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["l1norm", "fpgm"])
def test_one_threshold_is_as_good_as_equal_shares(trained: tuple[str, nn.Module, Any], method: str) -> None:
    """Where half of the predictions are still right: below, one filter more or less moves a net by five points."""
    name, net, batches = trained
    for goal in TARGETS:
        found = {}
        for scope in ("layer", "global"):
            words = (f"method.scope={scope}", "method.coupling=free", "method.layers=all")
            found[scope] = accuracy(ours_at(net, method, goal, *words), batches)
        print(f"{name} {method}, {100 * goal:.0f} % of the MACs: {found}")
        assert found["global"] > found["layer"] - WORSE or found["layer"] < USABLE


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_filters_that_vote_alone_give_the_peers_net(data_root: Path, ratio: float) -> None:
    net, _ = trained_net("resnet20", data_root)
    theirs = peer(net, "l1norm", ratio, "layer", alone=True)
    words = ("method=l1norm", f"method.prune_ratio={ratio}", "method.layers=interior", "method.count=keep_floor")
    run = bare_run(net, EXAMPLE, schedule="oneshot")
    choice = named.build("method", configure(Path("unused"), *words)[0]["method"], expects=Method).rank(net, run)
    small = shrink(net, run.graph, choice.plan).eval()
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert macs(theirs) == macs(small) < 0.75 * macs(net)
    torch.testing.assert_close(small(x), theirs(x))


def test_the_stand_in_computes_the_same() -> None:
    net = make_net(configure(Path("unused"), "model=resnet20", "dataset=cifar10")[0]["model"]).eval()
    x = torch.randn(2, 3, 32, 32)
    same = with_convolutions(net)
    assert torch.allclose(same(x), net(x), atol=1e-5)
    assert macs(same) == macs(net) == cost.count(net, EXAMPLE).macs
