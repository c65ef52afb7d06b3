"""Quantisation-aware training: what the layers compute, where they stand, and a pruned net that is quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.config.identity import run_folder
from prunebench.config.phase import Phase
from prunebench.errors import UserError
from prunebench.layers.quantised import ACTIVATIONS, WEIGHTS, Quantised, quantised_layers
from prunebench.layers.scatter import ScatterAdd
from prunebench.layers.wide import WideConv2d
from prunebench.measure import cost
from prunebench.run import assemble
from prunebench.run.reevaluate import reevaluate
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

# few bits make zeros of many weights
CONFORMANCE = {"qat": Conformance(options=("method.weights=symmetric", "method.bits_w=3"))}
NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
QAT = (*SHORT, *NET, "method=qat")
INNER = ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"]


def prepared(tmp_path: Path, *words: str, net: tuple[str, ...] = NET) -> tuple[Any, nn.Module]:
    """The job of a command line, and its net as training would begin with it."""
    config, _ = configure(tmp_path, *SHORT, *net, "method=qat", "schedule=simultaneous", *words)
    job, untrained = assemble.build(config, tmp_path)
    job.method.check(untrained, job)
    job.phase = job.phases[0]
    return job, job.method.attach(untrained, job)


def test_the_first_and_the_last_layer_have_bits_of_their_own(tmp_path: Path) -> None:
    _, net = prepared(tmp_path)
    found = dict(quantised_layers(net))
    assert list(found) == ["conv1", *INNER, "linear"]
    for path in ("conv1", "linear"):
        layer = found[path]
        assert (layer.weights, layer.bits_w, layer.activations, layer.bits_a) == ("symmetric", 8, "range", 8)
    assert found["conv1"].signed and not found["linear"].signed  # pictures are normalised
    for path in INNER:
        layer = found[path]
        assert (layer.weights, layer.bits_w, layer.activations, layer.bits_a) == ("dorefa", 4, "dorefa", 4)
    _, same = prepared(tmp_path, "method.first_last_bits=null")
    layers = dict(quantised_layers(same))
    assert {layer.weights for layer in layers.values()} == {"dorefa"}
    assert layers["conv1"].activations == "range" and layers["linear"].activations == "dorefa"
    _, whole = prepared(tmp_path, "method.first_last_bits=32")
    assert dict(quantised_layers(whole))["conv1"].weights == "none"


def test_attaching_twice_changes_nothing(tmp_path: Path) -> None:
    job, net = prepared(tmp_path)
    assert job.method.attach(net, job) is net


@pytest.mark.parametrize(
    ("weights", "bits_w"), [(name, bits) for name, allowed in WEIGHTS.items() for bits in sorted(allowed)[:2]]
)
@pytest.mark.parametrize("activations", sorted(set(ACTIVATIONS) - {"sign"}))
def test_frozen_and_rebuilt_it_computes_the_same(weights: str, bits_w: int, activations: str) -> None:
    torch.manual_seed(0)
    allowed = ACTIVATIONS[activations]
    bits_a = 3 if 3 in allowed else allowed[0]
    layer = Quantised(weights=weights, bits_w=bits_w, activations=activations, bits_a=bits_a)
    layer.around(nn.Conv2d(4, 6, 3, groups=2)).eval()
    x = torch.rand(2, 4, 5, 5)
    with torch.no_grad():
        expected = layer(x)
        if weights != "none":
            assert not torch.equal(expected, layer.layer(layer.quantised_input(x)))
        frozen = layer.freeze()
        assert torch.equal(frozen(x), expected)
        again = Quantised(**frozen.config()).around(nn.Conv2d(4, 6, 3, groups=2))
        again.load_state_dict(frozen.state_dict())
        assert torch.equal(again.eval()(x), expected)
    values = frozen.weight.detach()
    assert max(len(row.unique()) for row in values) <= 2**bits_w


def test_the_range_follows_the_inputs() -> None:
    layer = Quantised(weights="none", bits_w=32, activations="range", bits_a=8, signed=True).around(nn.Linear(2, 2))
    layer.train()(torch.tensor([[3.0, -5.0]]))
    assert float(layer.limit) == pytest.approx(1 + 0.01 * (5 - 1))
    layer.eval()(torch.tensor([[100.0, -5.0]]))
    assert float(layer.limit) == pytest.approx(1.04)


def test_binary_weights_stay_in_their_range_and_have_no_decay(tmp_path: Path) -> None:
    job, net = prepared(tmp_path, "method.weights=binaryconnect", "method.activations=pact")
    phase: Phase = job.phases[0]
    groups = job.method.param_groups(net, phase)
    by_id = {id(p): group for group in groups for p in group["params"]}
    layers = dict(quantised_layers(net))
    for path in INNER:
        assert by_id[id(layers[path].weight)]["weight_decay"] == 0
        assert by_id[id(layers[path].limit)]["weight_decay"] == 1e-4
    assert "weight_decay" not in by_id[id(layers["conv1"].weight)]
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.fill_(3.0)
        layers[INNER[0]].limit.fill_(-1.0)
    job.method.after_step(net, None)
    assert layers[INNER[0]].weight.max().item() == 1 and layers["conv1"].weight.max().item() == 3
    assert layers[INNER[0]].limit.item() > 0


def test_signs_need_inputs_of_both_signs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"inputs of layer1\.0\.conv1 are never negative, so that all signs would be"):
        prepared(tmp_path, "method.activations=sign")
    _, net = prepared(tmp_path, "method.activations=sign", net=("model=mlp_784_400_400", "model.activation=tanh"))
    assert "sign" in {layer.activations for _, layer in quantised_layers(net)}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("method.weights=twn", "method.bits_w=4"), "method.bits_w of method.weights=twn must be 2, got 4"),
        (("method.weights=symmetric", "method.bits_w=1"), "method.weights=symmetric must be 2 to 16, got 1"),
        (("method.activations=sign", "method.bits_a=2"), "method.activations=sign must be 1, got 2"),
        (("method.first_last_bits=1",), "method.first_last_bits must be 2 to 16, 32 or null, got 1"),
        (("method.samples=2000",), "method.samples must be at most the 437 training samples"),
    ],
)
def test_bits_that_a_scheme_cannot_have_are_refused(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        prepared(tmp_path, *words)


def test_bits_and_bytes_of_the_result_are_the_formulas(tmp_path: Path) -> None:
    """Counted by hand: small_resnet at 2 and 3 bits inside, 8 bits at both ends."""
    words = ("method.weights=dorefa", "method.bits_w=2", "method.bits_a=3", "schedule=simultaneous")
    result, folder = run(tmp_path, *QAT, *words)
    final = result["cost"]["final"]
    ends, inside = 9 * 8 + 32 * 10, 9 * (8 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 32 + 32 * 32)
    floats = 10 + 2 * (8 + 8 + 8 + 16 + 16 + 32 + 32)  # bias and norms
    scales = (8 + 1) + (10 + 1)  # of the symmetric ends: one a filter, one of the inputs
    assert final["params"] == ends + inside + floats
    assert final["weight_bytes"] == ends + inside * 2 / 8 + 4 * (floats + scales)
    macs = {row["layer"]: row["macs"] for row in result["cost"]["per_layer"]}
    at_ends = macs["conv1.layer"] + macs["linear.layer"]
    assert final["bops"] == at_ends * 64 + (final["macs"] - at_ends) * 6
    assert (final["bits_w"], final["bits_a"], final["executed_quantised"]) == (2, 3, False)
    # stored are the values themselves: four a layer
    net = prunebench.load(folder, trust=True)
    for path in INNER:
        assert len(net.get_submodule(path).layer.weight.unique()) <= 4
    assert all(item.same for item in reevaluate(folder, trust=True))


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_a_pruned_net_is_quantised_and_tuned(coupling: str, tmp_path: Path) -> None:
    """Prune, tune, quantise, tune: the plan of the first run is that of the second."""
    cut, before = run(tmp_path, *SHORT, *NET, "method=l1norm", f"method.coupling={coupling}", "schedule=finetune")
    words = (*QAT, "schedule=simultaneous", f"method.start={before}", "method.weights=ttq", "method.activations=pact")
    result, folder = run(tmp_path, *words)
    for name in ("macs", "params"):
        expected = cut["cost"]["final"][name] + (
            6 if name == "params" else 0
        )  # six layers inside clip at trained values
        assert result["cost"]["final"][name] == expected
    assert result["cost"]["dense"]["macs"] == cut["cost"]["dense"]["macs"]
    assert (folder / "model" / "plan.json").read_text() == (before / "model" / "plan.json").read_text()
    assert {"pruned", "final"} <= result["metrics"].keys() and "dense" not in result["metrics"]
    net = prunebench.load(folder, trust=True)
    kinds = {type(layer.layer) for _, layer in quantised_layers(net)}
    assert (WideConv2d in kinds) == (coupling == "free") or any(isinstance(m, ScatterAdd) for m in net.modules())
    assert cost.count(net, torch.zeros(1, 1, 8, 8)).macs == result["cost"]["final"]["macs"]
    assert all(item.same for item in reevaluate(folder, trust=True))
    # the run is another one where the net that it starts from is another one
    config, _ = configure(tmp_path, *words)
    (before / "model" / "weights.safetensors").write_bytes(b"")
    assert run_folder(config) != run_folder(configure(tmp_path, *QAT, "schedule=simultaneous")[0])


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, before = run(tmp_path, *SHORT, *NET, "method=none", "schedule=simultaneous")
    start = f"method.start={before}"
    with pytest.raises(UserError, match="would train another net first; use schedule=simultaneous"):
        prepared(tmp_path, start, "schedule=finetune")
    with pytest.raises(UserError, match=r"holds another net \(small_resnet\) than model=resnet20"):
        prepared(tmp_path, start, net=("model=resnet20",))
    with pytest.raises(UserError, match="is no folder"):
        prepared(tmp_path, "method.start=/nowhere")
    quantised, folder = run(tmp_path, *QAT, "schedule=simultaneous", start)
    assert quantised["method"]["settings"]["start"]
    with pytest.raises(UserError, match="holds more than convolutions and linear layers"):
        prepared(tmp_path, f"method.start={folder}")


def test_a_net_with_two_layers_has_nothing_between_them(tmp_path: Path) -> None:
    """One layer cannot be first and last."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.linear(x.flatten(1))
            return found

    job, _ = prepared(tmp_path)
    with pytest.raises(UserError, match="has fewer"):
        job.method.attach(One(), job)
