from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.layers.components import Components, preserving_rank
from prunebench.layers.convert import by_input, candidates, factorise
from prunebench.layers.factorised import FactorisedLinear
from prunebench.layers.factorised_conv import FactorisedConv2d
from prunebench.layers.gated import DiagonalGate, Gated, HardConcreteGate
from prunebench.layers.selected import SelectedLinear
from prunebench.surgery import rebuild

LINEAR, CONV = (5, 12), (5, 4, 9, 9)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 7)


def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, kernel_size=(3, 5), stride=2, padding=(1, 2), dilation=(2, 1))


def pair() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 4, bias=False), nn.Linear(4, 7))


Turn = Callable[[Any], Components]
MAKERS: dict[str, tuple[Callable[[], nn.Module], Turn, tuple[int, ...]]] = {
    "linear": (linear, lambda layer: factorise(layer, rank="full", init="svd"), LINEAR),
    "conv": (conv, lambda layer: factorise(layer, rank="full", init="svd"), CONV),
    "pair": (pair, lambda layer: factorise(layer, rank="preserve", init="random"), LINEAR),
    "inputs": (linear, by_input, LINEAR),
}


@pytest.fixture(params=MAKERS)
def both(request: pytest.FixtureRequest) -> tuple[nn.Module, Components, torch.Tensor]:
    """A layer, the same as components, an input."""
    make, turn, shape = MAKERS[request.param]
    layer = make()
    components = turn(layer)
    torch.manual_seed(1)
    return layer, components, torch.randn(shape)


def test_components_compute_what_the_layer_did(both: tuple[nn.Module, Components, torch.Tensor]) -> None:
    layer, components, x = both
    torch.testing.assert_close(components(x), layer(x), atol=1e-5, rtol=1e-5)


def test_components_add_up(both: tuple[nn.Module, Components, torch.Tensor]) -> None:
    _, components, x = both
    components.eval()
    n = components.num_components
    empty = components(x, torch.zeros(n))
    parts = [components(x, torch.eye(n)[k]) - empty for k in range(n)]
    torch.testing.assert_close(torch.stack(parts).sum(0) + empty, components(x), atol=1e-5, rtol=1e-5)
    # what no component owns is the bias
    owned = n * components.params_per_component
    assert sum(p.numel() for p in components.parameters()) - owned == len(components.get_parameter("bias"))


def test_leaving_out_in_training_changes_neither_outputs_nor_gradients(
    both: tuple[nn.Module, Components, torch.Tensor],
) -> None:
    _, components, x = both
    scale = torch.rand(components.num_components)
    scale[1:] *= (torch.arange(1, len(scale)) % 2 == 0).float()
    found = []
    for training in (True, False):
        components.train(training).zero_grad()
        z = scale.clone().requires_grad_()
        y = components(x, z)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in components.parameters()), z.grad * (scale != 0)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("num_kept", [0, 1, 2, 4])
def test_the_extracted_layer_equals_the_gated_one(
    both: tuple[nn.Module, Components, torch.Tensor], num_kept: int, merge: bool
) -> None:
    _, components, x = both
    gate = HardConcreteGate(size=components.num_components)
    kept = torch.randperm(components.num_components)[:num_kept]
    with torch.no_grad():
        gate.log_alpha.fill_(-20.0)
        gate.log_alpha[kept] = 20 + torch.arange(num_kept).float()  # so that round(n - L0) is exact
    gated = Gated(components, gate).eval()
    assert gated.num_kept_params() == num_kept * components.params_per_component
    small = gated.extract(merge=merge)
    torch.testing.assert_close(small(x), gated(x), atol=1e-5, rtol=1e-5)
    if not merge and not (num_kept == 0 and isinstance(components, FactorisedConv2d)):
        expected = num_kept * components.params_per_component + len(components.get_parameter("bias"))
        assert sum(p.numel() for p in small.parameters()) == expected
    if merge:
        dense = sum(p.numel() for p in both[0].parameters())
        assert sum(p.numel() for p in small.parameters()) <= max(dense, len(components.get_parameter("bias")))


def test_soft_scales_are_folded_in() -> None:
    layer = factorise(linear(), rank="full", init="svd")
    gate = HardConcreteGate(size=7)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-5.0, -4, -3, 0, 2, 3, 1]))
    gated = Gated(layer, gate).eval()
    x = torch.randn(3, 12)
    torch.testing.assert_close(gated.extract(merge=False)(x), gated(x), atol=1e-6, rtol=1e-5)
    hard = layer(x, (gated.scales() > 0).float())
    assert float((hard - gated(x)).detach().abs().max()) > 0.01  # 1 in the place of the soft value is another function


def test_two_factors_or_one_matrix_whichever_is_smaller() -> None:
    layer = factorise(nn.Linear(12, 7), rank="full", init="svd")
    scale = torch.ones(7)
    # 12 * 7 = 84 parameters; a component has 19: four of them are fewer, five are more
    kind: type[nn.Module]
    for num_kept, kind in ((4, FactorisedLinear), (5, nn.Linear)):
        assert type(layer.keep(torch.arange(num_kept), scale[:num_kept], merge=True)) is kind
    image = factorise(nn.Conv2d(4, 6, 3), rank="full", init="svd")
    # 36 * 6 = 216 against 42 a component: 5 are 210, 6 are 252
    for num_kept, kind in ((5, FactorisedConv2d), (6, nn.Conv2d)):
        assert type(image.keep(torch.arange(num_kept), scale[:num_kept], merge=True)) is kind


def test_svd_gives_the_best_low_rank_matrix() -> None:
    layer = linear()
    values = torch.linalg.svdvals(layer.weight.detach())
    for rank in range(1, 8):
        factored = factorise(layer, rank=rank, init="svd")
        assert factored.num_components == rank
        error = torch.linalg.matrix_norm(factored.matrix() - layer.weight).item()
        assert error == pytest.approx(float(values[rank:].square().sum().sqrt()), abs=1e-5)  # Eckart-Young


@pytest.mark.parametrize(
    ("inputs", "outputs", "rank"), [(512, 1536, 384), (512, 512, 256), (512, 2048, 409), (1, 1, 1)]
)
def test_the_rank_that_keeps_the_number_of_parameters(inputs: int, outputs: int, rank: int) -> None:
    assert preserving_rank(inputs, outputs) == rank  # the first three: ranks of the Transformer-XL in the paper


def test_candidates_are_outermost_and_need_one_matrix() -> None:
    net = nn.Sequential(conv(), nn.Conv2d(6, 6, 3, groups=2), pair(), nn.Sequential(linear(), nn.ReLU()))
    assert list(candidates(net)) == ["0", "2", "3.0"]


def test_bad_ranks_and_inits() -> None:
    for rank in (0, "half", 1.5, True):
        with pytest.raises(UserError, match="rank must be one of preserve, full or a whole number of at least 1, got"):
            factorise(linear(), rank=rank, init="svd")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="init must be one of svd, random, got"):
        factorise(linear(), rank="full", init="zeros")


def test_a_net_with_extracted_layers_is_rebuilt_from_plain_data() -> None:
    small = [
        factorise(linear(), rank=2, init="svd"),
        factorise(conv(), rank=3, init="svd"),
        SelectedLinear(in_features=7, out_features=3, places=[0, 4]),
        by_input(linear()).keep(torch.arange(0), torch.ones(0), merge=True),
    ]
    net = nn.ModuleDict({str(i): layer for i, layer in enumerate(small)})
    table = rebuild.describe(net)
    assert list(table) == ["0", "1", "2", "3"]
    again = rebuild.rebuild(nn.ModuleDict({key: nn.Identity() for key in "0123"}), table)
    again.load_state_dict(net.state_dict())
    for key, shape in zip("0123", (LINEAR, CONV, (2, 7), LINEAR), strict=True):
        x = torch.randn(shape)
        assert torch.equal(net[key](x), again[key](x))


def test_one_draw_for_the_whole_batch_and_a_new_one_for_each_pass() -> None:
    gated = Gated(factorise(linear(), rank=7, init="svd"), HardConcreteGate(size=7))
    x = torch.randn(1, 12).expand(5, 12)
    y = gated(x)
    torch.testing.assert_close(y, y[:1].expand_as(y))
    assert not torch.allclose(y, gated(x))
    gated.eval()
    assert torch.equal(gated(x), gated(x))


def test_the_mask_of_evaluation_follows_the_parameters() -> None:
    gate = HardConcreteGate(size=4, drop_rate=0.5).eval()
    before = gate().detach()
    with torch.no_grad():
        gate.log_alpha[0] = -9.0
    assert float(before[0]) > 0 and float(gate().detach()[0]) == 0.0


def test_norms_move_into_the_diagonal() -> None:
    layer = factorise(linear(), rank="full", init="svd")
    gate = DiagonalGate(size=7)
    gated = Gated(copy.deepcopy(layer), gate)
    with torch.no_grad():
        gate.value.copy_(gated.layer.take_norms())
    x = torch.randn(3, 12)
    torch.testing.assert_close(gated(x), layer(x), atol=1e-5, rtol=1e-5)
    # with the SVD's factors these are the singular values
    torch.testing.assert_close(gate.value.detach(), torch.linalg.svdvals(linear().weight.detach()), atol=1e-5, rtol=0)
    gate.live[:3] = False
    assert gated.num_kept_params() == 4 * 19
