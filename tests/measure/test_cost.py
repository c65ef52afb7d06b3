from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from prunebench.errors import UserError
from prunebench.measure.cost import count, training_macs
from prunebench.models.resnet import resnet50
from prunebench.models.resnet_cifar import resnet20, resnet56
from prunebench.nets.weights import file_bytes, to_bytes


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def test_closed_form_of_conv_bn_relu_pool_linear() -> None:
    cost = count(small_net(), torch.randn(1, 3, 32, 32))
    assert cost.macs == 3 * 16 * 9 * 32 * 32 + 16 * 10 == 442_528
    assert cost.flops == 885_056
    assert cost.params == 3 * 16 * 9 + 16 + 2 * 16 + 16 * 10 + 10
    assert [row["macs"] for row in cost.per_layer] == [442_368, 0, 160]
    assert [row["kind"] for row in cost.per_layer] == ["conv", "norm", "linear"]
    assert cost.per_layer[0]["output_shape"] == [16, 32, 32]
    channels = [(row["in_channels"], row["out_channels"]) for row in cost.per_layer]
    assert channels == [(3, 16), (None, None), (16, 10)]


def test_a_training_step_is_three_passes_or_two_through_frozen_weights() -> None:
    net = small_net()
    counted = count(net, torch.zeros(1, 3, 32, 32))
    assert training_macs(net, counted) == 3 * 442_528
    net[0].requires_grad_(False)
    assert training_macs(net, counted) == 2 * 442_368 + 3 * 160


@pytest.mark.parametrize("batch", [1, 2, 128])
def test_the_batch_does_not_count(batch: int) -> None:
    assert count(small_net(), torch.randn(batch, 3, 32, 32)).macs == 442_528


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "kind"),
    [
        (nn.Conv2d(8, 12, 3, padding=1), (8, 10, 10), 8 * 12 * 9 * 100, "conv"),
        (nn.Conv2d(8, 12, 3), (8, 10, 10), 8 * 12 * 9 * 64, "conv"),
        (nn.Conv2d(8, 12, 3, stride=2, padding=1), (8, 10, 10), 8 * 12 * 9 * 25, "conv"),
        (nn.Conv2d(8, 12, 3, dilation=2), (8, 10, 10), 8 * 12 * 9 * 36, "conv"),
        (nn.Conv2d(8, 12, (1, 5)), (8, 10, 10), 8 * 12 * 5 * 60, "conv"),
        (nn.Conv2d(8, 12, 3, groups=4, padding=1), (8, 10, 10), 2 * 12 * 9 * 100, "grouped"),
        (nn.Conv2d(8, 8, 3, groups=8, padding="same"), (8, 10, 10), 8 * 9 * 100, "depthwise"),
        (nn.Conv1d(8, 12, 5), (8, 20), 8 * 12 * 5 * 16, "conv"),
        (nn.ConvTranspose2d(8, 12, 3), (8, 10, 10), 8 * 12 * 9 * 100, "conv"),
        (nn.Linear(8, 12), (8,), 96, "linear"),
        (nn.Linear(8, 12), (5, 8), 5 * 96, "linear"),
        (nn.Linear(8, 12, bias=False), (5, 4, 8), 20 * 96, "linear"),
    ],
)
def test_closed_form_of_one_layer(layer: nn.Module, shape: tuple[int, ...], macs: int, kind: str) -> None:
    cost = count(layer, torch.randn(2, *shape))
    assert cost.macs == macs
    assert cost.params == sum(p.numel() for p in layer.parameters())
    (row,) = cost.per_layer
    out_channels = 8 if kind == "depthwise" else 12
    assert (row["kind"], row["in_channels"], row["out_channels"]) == (kind, 8, out_channels)


class Conv(nn.Conv2d):
    """A subclass, which counters that look up the type miss."""


def test_subclass_of_conv_counts() -> None:
    assert count(Conv(3, 16, 3, padding=1), torch.randn(1, 3, 32, 32)).macs == 442_368


def test_mlp_on_tokens() -> None:
    mlp = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64))
    assert count(mlp, torch.randn(1, 100, 64)).macs == 1_638_400


class Products(nn.Module):
    """Every way to multiply: einsum, bmm, baddbmm, addmm, mv, dot, fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 7))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bthd,bshd->bhts", x, x)  # 2 heads x 5 x 5 x 7
        y = torch.baddbmm(scores[:, 0], scores[:, 0], scores[:, 1])  # 5 x 5 x 5
        q = x.transpose(1, 2)
        z = F.scaled_dot_product_attention(q, q, q)  # twice 2 heads x 5 x 5 x 7
        v = torch.addmm(z[0, 0], z[0, 1], self.weight)  # 5 x 7 x 7
        w = v @ self.weight[0] + self.weight[:5] @ v[0]  # twice 5 x 7
        return w.sum() + torch.dot(w, w) + torch.vdot(w, w) + y.sum()  # twice 5


def test_every_kind_of_product_counts() -> None:
    cost = count(Products(), torch.randn(3, 5, 2, 7))
    assert cost.macs == 350 + 125 + 2 * 350 + 245 + 2 * 35 + 2 * 5
    assert cost.per_layer[0]["layer"] == "(net)"


@pytest.mark.parametrize("train", [True, False])
def test_attention_layer_matches_its_closed_form(train: bool) -> None:
    tokens, dim, hidden = 6, 8, 16
    layer = nn.TransformerEncoderLayer(dim, 2, hidden, batch_first=True).train(train)
    cost = count(layer, torch.randn(2, tokens, dim))
    assert cost.macs == tokens * 4 * dim * dim + 2 * tokens * tokens * dim + 2 * tokens * dim * hidden
    assert layer.training is train
    assert torch.backends.mha.get_fastpath_enabled()


def test_counts_are_half_of_torchs_own() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(x)
    assert count(net, x).flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("layer", "each"),
    [
        (nn.LSTM(4, 5, batch_first=True), 4 * (4 * 5 + 5 * 5)),  # 4 gates of the input and of the state
        (nn.LSTM(4, 5, batch_first=True, bias=False, bidirectional=True), 2 * 4 * (4 * 5 + 5 * 5)),
        (nn.LSTM(4, 5, num_layers=2, batch_first=True), 4 * (4 * 5 + 5 * 5) + 4 * (5 * 5 + 5 * 5)),
        (nn.GRU(4, 5, batch_first=True), 3 * (4 * 5 + 5 * 5)),
        (nn.GRU(4, 5, num_layers=2, bidirectional=True, batch_first=True), 2 * 3 * (4 * 5 + 25 + 10 * 5 + 25)),
    ],
)
def test_recurrent_layers_match_their_closed_form(layer: nn.Module, each: int) -> None:
    steps = 3
    assert count(layer, torch.randn(2, steps, 4)).macs == steps * each


def test_recurrent_layer_of_plain_products_counts() -> None:
    net = nn.RNN(4, 5, batch_first=True)
    assert count(net, torch.randn(1, 3, 4)).macs == 3 * (4 * 5 + 5 * 5)


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Bilinear(3, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, x)


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.centres)


class ByHand(nn.Module):
    """A linear layer, entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).sum(-1)


class Weighted(nn.Module):
    """A scale for each feature: no sum over products with many weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(-1)


def test_what_scales_entries_is_no_product() -> None:
    assert count(Weighted(), torch.randn(2, 3)).macs == 0


@pytest.mark.parametrize(("net", "layer"), [(Bilinear(), "mix"), (Distances(), r"\(net\)"), (ByHand(), r"\(net\)")])
def test_hidden_products_are_refused(net: nn.Module, layer: str) -> None:
    with pytest.raises(ValueError, match=f"layer '{layer}'"):
        count(net, torch.randn(2, 3))


class Computed(nn.Module):
    """One function of square matrices."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        torch.linalg.inv,
        torch.inverse,
        torch.linalg.pinv,
        torch.linalg.det,
        torch.linalg.slogdet,
        torch.linalg.svdvals,
        torch.linalg.eigvalsh,
        torch.linalg.cholesky_ex,
        torch.linalg.qr,
        torch.linalg.lu,
        torch.matrix_exp,
        lambda x: torch.linalg.solve(x, x),
        lambda x: torch.linalg.lstsq(x, x)[0],
        lambda x: torch.linalg.solve_triangular(x, x, upper=True),
        lambda x: torch.cdist(x, x),
        lambda x: torch.pdist(x[0]),
        lambda x: torch.fft.rfft2(x).abs(),
    ],
)
def test_what_multiplies_matrices_inside_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    net = Computed(lambda x: function(x @ x.mT + 4 * torch.eye(4)))
    with pytest.raises(ValueError, match="whose multiply-accumulates are not counted"):
        count(net, torch.randn(2, 4, 4))


def test_a_complex_product_is_four_real_ones() -> None:
    net = Computed(lambda x: (x.to(torch.complex64) @ x.to(torch.complex64)).real)
    assert count(net, torch.randn(2, 4, 4)).macs == 4 * 4**3


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(3), (3, 4, 4)),
        (nn.GroupNorm(1, 3), (3, 4, 4)),
        (nn.LayerNorm(4), (3, 4)),
        (nn.RMSNorm(4), (3, 4)),
        (nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
        (nn.PReLU(3), (3, 4)),
    ],
)
def test_norms_and_activations_are_free(layer: nn.Module, shape: tuple[int, ...]) -> None:
    cost = count(layer, torch.randn(2, *shape))
    assert cost.macs == 0
    assert cost.per_layer[0]["params"] == cost.params > 0


def test_embedding_is_free_and_a_tied_decoder_counts_its_parameters_once() -> None:
    net = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11, bias=False))
    net[1].weight = net[0].weight
    cost = count(net, torch.zeros(1, 6, dtype=torch.long))
    assert (cost.macs, cost.params) == (6 * 4 * 11, 44)
    assert [(row["kind"], row["params"]) for row in cost.per_layer] == [("embedding", 44), ("linear", 0)]


class Gated(nn.Module):
    """Weights prepared before use: a mask, a softplus, a class token, a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(6, 4))
        self.rho = nn.Parameter(torch.randn(6, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.register_buffer("mask", torch.ones(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mean * self.mask + F.softplus(self.rho) * torch.randn_like(self.rho)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return F.linear(x, weight / weight.norm(dim=1, keepdim=True))


def test_prepared_weights_cost_their_product_and_no_random_number_is_taken() -> None:
    torch.manual_seed(0)
    net, x = Gated(), torch.randn(2, 3, 4)
    before = torch.get_rng_state()
    cost = count(net, x)
    assert cost.macs == 4 * 24
    assert (cost.per_layer[0]["kind"], cost.per_layer[0]["out_channels"]) == ("linear", 6)
    assert torch.equal(before, torch.get_rng_state())


def test_shared_layer_costs_twice_and_has_its_parameters_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    cost = count(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 4))
    assert (cost.macs, cost.params) == (32, 16)


def test_graph_module_is_attributed_to_the_same_layers() -> None:
    net = small_net()
    x = torch.randn(1, 3, 8, 8)
    assert count(fx.symbolic_trace(net), x) == count(net, x)


def test_zeros_are_read_off_the_tensors() -> None:
    net = nn.Linear(4, 6)
    nn.init.ones_(net.bias)
    with torch.no_grad():
        net.weight[:2] = 0
    cost = count(net, torch.randn(1, 4))
    assert (cost.params, cost.nonzero_params) == (30, 22)


def test_layer_that_never_runs_has_parameters_only() -> None:
    net = small_net()
    net.add_module("6", nn.Identity())
    net[6].register_module("head", nn.Linear(3, 2))
    cost = count(net, torch.randn(1, 3, 8, 8))
    assert cost.per_layer[-1] | {"kind": ""} == {
        "layer": "6.head",
        "kind": "",
        "macs": 0,
        "params": 8,
        "nonzero_params": 8,
        "in_channels": None,
        "out_channels": None,
        "output_shape": None,
    }


def test_the_net_is_left_as_it_was() -> None:
    net = small_net().train()
    before = copy.deepcopy(net.state_dict())
    cost = count(net, torch.randn(4, 3, 8, 8))
    assert net.training
    assert not net[0]._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert cost.to_dict()["flops"] == 2 * cost.to_dict()["macs"]


def test_empty_example_is_refused() -> None:
    with pytest.raises(UserError, match=r"got shape \[0, 3, 8, 8\]"):
        count(small_net(), torch.randn(0, 3, 8, 8))


def test_file_bytes_is_header_plus_four_bytes_per_number() -> None:
    net = small_net()
    data = to_bytes(net)
    header = int.from_bytes(data[:8], "little")
    numbers = sum(t.numel() for t in net.state_dict().values() if t.is_floating_point())
    assert file_bytes(net) == len(data) == 8 + header + 4 * numbers + 8  # one int64: num_batches_tracked


def test_resnet56_has_its_published_count() -> None:
    cost = count(resnet56(), torch.randn(1, 3, 32, 32))
    assert (cost.macs, cost.params) == (125_485_696, 853_018)
    assert len([row for row in cost.per_layer if row["macs"]]) == 56
    assert count(resnet56(shortcut="B"), torch.randn(1, 3, 32, 32)).macs == 125_747_840


def test_resnet50_has_its_published_count() -> None:
    cost = count(resnet50(), torch.randn(1, 3, 224, 224))
    assert (cost.macs, cost.params) == (4_089_184_256, 25_557_032)


def test_fvcore_counts_the_same() -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    net, x = resnet20().eval(), torch.randn(1, 3, 32, 32)
    peer = fvcore.FlopCountAnalysis(net, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = peer.by_operator()
    assert count(net, x).macs == by_operator["conv"] + by_operator["linear"]
