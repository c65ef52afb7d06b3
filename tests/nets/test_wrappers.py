"""Weights that other programs have wrapped come out as the plain net's; the programs themselves wrap them here."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunebench.errors import UserError
from prunebench.nets.checkpoints import load_foreign

State = dict[str, Tensor]


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU())
    net = nn.Sequential(nn.Conv2d(3, 4, 3), inner, nn.Flatten(), nn.Linear(6, 2))
    net(torch.randn(4, 3, 5, 5))  # norm statistics away from their defaults
    return net.eval()


LAYERS = ("0", "1.0", "3")


def layers_of(net: nn.Module) -> list[nn.Module]:
    return [net.get_submodule(path) for path in LAYERS]


def renamed(state: State, name: Callable[[str], str]) -> State:
    return {name(key): value for key, value in state.items()}


def compiled_inside(net: nn.Module) -> State:
    return renamed(
        dict(net.state_dict()), lambda name: name.replace("1.", "1._orig_mod.", 1) if name[0] == "1" else name
    )


def averaged(net: nn.Module) -> State:
    average = AveragedModel(net, use_buffers=True)
    average.update_parameters(net)
    return dict(average.state_dict())


def exponential(net: nn.Module) -> State:
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    average.update_parameters(net)
    return dict(average.state_dict())


def counted(net: nn.Module) -> State:
    """As thop leaves it: two buffers in every module."""
    for module in list(net.modules()):
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    return dict(net.state_dict())


def with_others(prefix: str, *others: str) -> Callable[[nn.Module], State]:
    def wrapped(net: nn.Module) -> State:
        state = renamed(dict(net.state_dict()), lambda name: prefix + name)
        return {**{name: torch.zeros(3) for name in others}, **state}

    return wrapped


def lightning(net: nn.Module) -> dict[str, Any]:
    inner = with_others("net.", "criterion.weight", "train_acc.tp")(net)
    return {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.6.4", "state_dict": inner, "loops": {}}


def ema_pytorch(net: nn.Module) -> State:
    return {
        "initted": torch.tensor(True),
        "step": torch.tensor(4),
        **renamed(dict(net.state_dict()), lambda name: f"ema_model.{name}"),
        **renamed(dict(make_net(7).state_dict()), lambda name: f"online_model.{name}"),
    }


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "compile inside": compiled_inside,
    "compile whole": lambda net: renamed(dict(net.state_dict()), lambda name: f"_orig_mod.{name}"),
    "compile inside parallel inside": lambda net: renamed(compiled_inside(net), lambda name: f"module.{name}"),
    "sharded": lambda net: renamed(
        dict(net.state_dict()),
        lambda name: f"_fsdp_wrapped_module.{name}".replace("1.0", "1._checkpoint_wrapped_module.0"),
    ),
    "average": averaged,
    "exponential average": exponential,
    "average of a compiled net": lambda net: renamed(
        averaged(net), lambda name: name.replace("module.", "module._orig_mod.")
    ),
    "thop": counted,
    "thop in an average": lambda net: averaged_counted(net),
    "lightning": lightning,
    "lightning with model": with_others("model.", "loss_fn.pos_weight", "ema_decay"),
    "lightning with its own name": with_others("backbone.", "criterion.weight"),
    "a teacher beside": lambda net: {
        **with_others("model.")(net),
        **renamed(dict(make_net(7).state_dict()), lambda name: f"teacher.{name}"),
    },
    "ema_pytorch": ema_pytorch,
    "ema": lambda net: {"ema": dict(net.state_dict()), "decay": 0.99},
    "ema_state_dict": lambda net: {"ema_state_dict": dict(net.state_dict()), "optimizer": {}},
    "shadow": lambda net: {"shadow": dict(net.state_dict()), "num_updates": 3},
    "model_state": lambda net: {"model_state": dict(net.state_dict())},
}


def averaged_counted(net: nn.Module) -> State:
    counted(net)
    return averaged(net)


def stored(tmp_path: Path, content: Any) -> str:
    torch.save(content, tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def same(net: nn.Module, other: nn.Module, **limits: float) -> None:
    state = net.state_dict()
    assert state.keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(
            state[name], tensor, msg=name, rtol=limits.get("rtol", 0), atol=limits.get("atol", 0)
        )


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_weights_are_those_of_the_plain_net(tmp_path: Path, kind: str) -> None:
    trained, net = make_net(1), make_net(2)
    found = load_foreign(net, stored(tmp_path, WRAPPED[kind](copy.deepcopy(trained))), sha256=None, cache=tmp_path)
    same(net, trained)
    assert found.unwrapped


@pytest.mark.parametrize("outer", ["state_dict", "model", "ema"])
@pytest.mark.parametrize("kind", ["compile inside", "average", "thop", "lightning with model"])
def test_wrappers_inside_wrappers(tmp_path: Path, outer: str, kind: str) -> None:
    trained, net = make_net(1), make_net(2)
    content = {"epoch": 1, outer: renamed(WRAPPED[kind](copy.deepcopy(trained)), lambda name: f"module.{name}")}
    load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)
    same(net, trained)


def cut(net: nn.Module) -> nn.Module:
    for layer in layers_of(net):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    prune.random_unstructured(net.get_submodule("0"), "bias", amount=1)
    return net


def finished(net: nn.Module) -> None:
    for layer in layers_of(net):
        prune.remove(layer, "weight")
    prune.remove(net.get_submodule("0"), "bias")


def test_masks_are_applied(tmp_path: Path) -> None:
    trained, net = cut(make_net(1)), make_net(2)
    found = load_foreign(net, stored(tmp_path, dict(trained.state_dict())), sha256=None, cache=tmp_path)
    finished(trained)
    same(net, trained)
    assert (net.get_submodule("3").weight == 0).sum() == 6
    assert found.unwrapped == "masks of torch.nn.utils.prune applied (4 tensors)"


def each(wrap: Callable[..., nn.Module], **options: Any) -> Callable[[nn.Module], None]:
    def wrapped(net: nn.Module) -> None:
        for layer in layers_of(net):
            wrap(layer, **options)

    return wrapped


def plain(net: nn.Module, path: str) -> Tensor:
    """What the layer computes with in evaluation mode."""
    layer = net.get_submodule(path)
    layer(torch.zeros(1, *_input(layer)))
    return layer.weight.detach()


def _input(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    assert isinstance(layer, nn.Conv2d)
    return (layer.in_channels, 5, 5)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (each(parametrizations.weight_norm), "weight norm computed (3 tensors)"),
        (each(parametrizations.spectral_norm, n_power_iterations=5), "spectral norm computed (3 tensors)"),
        (each(weight_norm), "weight norm computed (3 tensors)"),
        (each(weight_norm, dim=None), "weight norm computed (3 tensors)"),
        (each(spectral_norm, n_power_iterations=5), "spectral norm computed (3 tensors)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_factors_are_multiplied(tmp_path: Path, wrap: Callable[[nn.Module], None], said: str) -> None:
    trained, net = make_net(1), make_net(2)
    wrap(trained)
    trained.train()(torch.randn(8, 3, 5, 5))  # a step of the power iteration
    trained.eval()
    found = load_foreign(net, stored(tmp_path, dict(trained.state_dict())), sha256=None, cache=tmp_path)
    for path in LAYERS:
        torch.testing.assert_close(net.get_submodule(path).weight, plain(trained, path), rtol=1e-6, atol=1e-7)
    x = torch.randn(3, 3, 5, 5)
    torch.testing.assert_close(net(x), trained(x), rtol=1e-5, atol=1e-6)
    assert found.unwrapped == said


def refused(tmp_path: Path, content: Any) -> str:
    net = make_net(2)
    with pytest.raises(UserError) as caught:
        load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)
    same(net, make_net(2))
    return str(caught.value)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_what_cannot_be_computed_says_so(tmp_path: Path) -> None:
    net = make_net(1)
    parametrize.register_parametrization(net.get_submodule("3"), "weight", Doubled())
    said = refused(tmp_path, dict(net.state_dict()))
    assert "parametrized weights (3.parametrizations.weight.original)" in said
    assert "remove_parametrizations" in said


def test_the_reason_is_the_real_one(tmp_path: Path) -> None:
    state = dict(make_net(1).state_dict())
    cases = {
        "the whole net more than once, under student., teacher.": {
            **renamed(state, lambda name: f"student.{name}"),
            **renamed(state, lambda name: f"teacher.{name}"),
        },
        "these weights are quantised": {**state, "3._packed_params._packed_params": torch.zeros(1)},
        "the file has their shapes only": {name: tensor.to("meta") for name, tensor in state.items()},
        "found epoch (int), best (float) beside tensors; take those out": {**state, "epoch": 3, "best": 0.5},
        "variances below zero, in 1.1.running_var": {**state, "1.1.running_var": state["1.1.running_var"] - 9},
        "low-rank additions": {**state, "3.lora_A.weight": torch.zeros(1)},
        "only the names differ, so rename them": {f"layer_{n}": tensor for n, tensor in enumerate(state.values())},
        "another architecture": {f"blocks.{n}.weight": torch.zeros(3) for n in range(9)},
        "choose the model options": {**state, "3.weight": torch.zeros(5, 6), "3.bias": torch.zeros(5)},
    }
    for reason, content in cases.items():
        assert reason in refused(tmp_path, content), reason


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning", "ignore:TypedStorage:UserWarning")
def test_quantised_weights_say_so(tmp_path: Path) -> None:
    state = dict(make_net(1).state_dict())
    rough = torch.quantize_per_tensor(state["3.weight"], 0.1, 0, torch.qint8)
    assert "are quantised; give those from before" in refused(tmp_path, {**state, "3.weight": rough})


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_sparse_weights_are_filled_with_zeros(tmp_path: Path, kind: str) -> None:
    state = dict(make_net(1).state_dict())
    state["3.weight"] = state["3.weight"] * torch.tensor([0.0, 1.0])[:, None]
    sparse = state["3.weight"].to_sparse() if kind == "coo" else state["3.weight"].to_sparse_csr()
    net = make_net(2)
    found = load_foreign(net, stored(tmp_path, {**state, "3.weight": sparse}), sha256=None, cache=tmp_path)
    assert found.unwrapped == "1 sparse tensors filled with zeros"
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_names_of_the_net_s_own_are_left_alone(tmp_path: Path) -> None:
    """A net that has itself what a wrapper would add."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.layer.register_buffer("total_ops", torch.ones(1))
            self.layer.register_buffer("mask_orig", torch.ones(2))
            self.layer.register_buffer("mask_mask", torch.zeros(2))
            self.n_averaged = nn.Parameter(torch.tensor(3.0))

    trained, net = Own(), Own()
    found = load_foreign(net, stored(tmp_path, dict(trained.state_dict())), sha256=None, cache=tmp_path)
    same(net, trained)
    assert found.unwrapped == ""


def test_all_pairs_of_prefixes(tmp_path: Path) -> None:
    trained = make_net(1)
    for one, other in itertools.product(("module.", "model.", "net.", "_orig_mod."), repeat=2):
        net = make_net(2)
        content = renamed(averaged(copy.deepcopy(trained)), lambda name: f"{one}{other}{name}")  # noqa: B023
        load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)
        same(net, trained)
