"""Weights that other programs have wrapped come out as the plain net's; the programs themselves wrap them here."""

from __future__ import annotations

import copy
import itertools
import warnings
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


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 8, 3),
        nn.ConvTranspose2d(8, 8, 1),
        nn.ConvTranspose1d(6, 6, 3),
        nn.Conv2d(3, 3, 3),
        nn.Linear(5, 5),
        nn.ConvTranspose2d(4, 6, 3),
        nn.Linear(7, 1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, spectral_norm])
@pytest.mark.parametrize("num_steps", [1, 20])
def test_spectral_norm_goes_along_the_dimension_that_was_trained(
    tmp_path: Path, layer: nn.Module, wrap: Callable[..., nn.Module], num_steps: int
) -> None:
    torch.manual_seed(3)
    net, trained = nn.Sequential(copy.deepcopy(layer)), nn.Sequential(wrap(copy.deepcopy(layer)))
    given = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert isinstance(given, int)
    x = torch.randn(2, given, *[4] * (layer.get_parameter("weight").dim() - 2))
    for _ in range(num_steps):
        trained.train()(x)
    with torch.no_grad():  # a step of the optimiser, after which u and v are those of the weights before
        for parameter in trained.parameters():
            parameter.add_(0.01 * parameter.abs().mean() * torch.randn_like(parameter))
    load_foreign(net, stored(tmp_path, dict(trained.state_dict())), sha256=None, cache=tmp_path)
    torch.testing.assert_close(net(x), trained.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("options", [{"dim": 1}, {"dim": None}, {}, {"name": "bias"}], ids=repr)
@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, weight_norm])
def test_weight_norm_goes_along_the_dimension_that_was_chosen(
    tmp_path: Path, wrap: Callable[..., nn.Module], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    net, trained, x = nn.Linear(3, 4), wrap(nn.Linear(3, 4), **options), torch.randn(2, 3)
    content = {name: tensor * (3 if name.endswith(("_v", "1")) else 1) for name, tensor in trained.state_dict().items()}
    load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)
    torch.testing.assert_close(net(x), trained(x))


def pruned(weight: Tensor) -> State:
    mask = (weight > 0).to(weight.dtype)
    return {"3.weight": weight * mask, "3.weight_orig": weight, "3.weight_mask": mask}


def normed(*names: str) -> Callable[[Tensor], State]:
    def factors(weight: Tensor) -> State:
        length = weight.norm(dim=1, keepdim=True)
        return {"3.weight": weight, names[0]: length, names[1]: 3 * weight}

    return factors


def largest(*names: str) -> Callable[[Tensor], State]:
    def factors(weight: Tensor) -> State:
        u, s, v = torch.linalg.svd(weight)
        return {"3.weight": weight / s[0], **dict(zip(names, (weight, u[:, 0], v[0]), strict=True))}

    return factors


NOW = "3.parametrizations.weight"
TWICE = {
    "mask": pruned,
    "weight norm": normed("3.weight_g", "3.weight_v"),
    "weight norm now": normed(f"{NOW}.original0", f"{NOW}.original1"),
    "spectral norm": largest("3.weight_orig", "3.weight_u", "3.weight_v"),
    "spectral norm now": largest(f"{NOW}.original", f"{NOW}.0._u", f"{NOW}.0._v"),
}


@pytest.mark.parametrize("kind", TWICE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_that_is_stored_twice_is_the_same(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    state = dict(make_net(1).state_dict())
    factors = TWICE[kind](state["3.weight"])
    plain, net = factors["3.weight"].to(dtype), make_net(2)
    load_foreign(net, stored(tmp_path, {**state, **factors, "3.weight": plain}), sha256=None, cache=tmp_path)
    torch.testing.assert_close(net.get_submodule("3").weight.detach(), factors["3.weight"])
    other = plain.clone()
    other[1, 2] += 0.01
    said = refused(tmp_path, {**state, **factors, "3.weight": other})
    assert "holds 3.weight twice, as it is and as " in said
    assert all(part in said for part in factors)
    assert "the two differ; take one of them out" in said


def test_factors_of_two_kinds_are_the_same(tmp_path: Path) -> None:
    state = dict(make_net(1).state_dict())
    weight = state.pop("3.weight")
    both = {**state, **TWICE["weight norm"](weight), **TWICE["weight norm now"](weight)}
    del both["3.weight"]
    load_foreign(make_net(2), stored(tmp_path, both), sha256=None, cache=tmp_path)
    assert "holds 3.weight twice" in refused(tmp_path, {**both, "3.weight_g": 2 * both["3.weight_g"]})


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
            **renamed(dict(make_net(7).state_dict()), lambda name: f"teacher.{name}"),
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


def test_spectral_norm_of_two_readings_is_refused(tmp_path: Path) -> None:
    """W v = [1.11, 0.91] and W' v = [1.02, 1.01] lie both near u."""
    net = nn.Linear(2, 2)
    side = torch.full((2,), 0.5).sqrt()
    weight = torch.tensor([[0.9, 0.67], [0.55, 0.74]])
    content = {"weight_orig": weight, "weight_u": side, "weight_v": side, "bias": torch.zeros(2)}
    # u' W v is the same along both dimensions where u = v
    load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)
    torch.testing.assert_close(net.weight.detach(), weight / (weight.sum() / 2))
    content["weight_v"] = torch.tensor([0.75, 0.66]) / torch.tensor([0.75, 0.66]).norm()
    with pytest.raises(UserError, match="u and v fit more than one dimension of so small a weight; save plain"):
        load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)


def label(value: object) -> str | None:
    """Words as they are; tensors by number: what is in an empty one differs from process to process."""
    words = (value,) if isinstance(value, str) else value
    return "-".join(words) if isinstance(words, tuple) and all(isinstance(word, str) for word in words) else None


def bomb() -> Tensor:
    """A tensor of 40 terabytes in a small file."""
    return torch.ones(1).expand(10**7, 10**6)


def long_and_sparse() -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1), (10**13,), check_invariants=True)


def nested(layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they may change
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)


MASK, NORM = ("3.weight_orig", "3.weight_mask"), ("3.weight_v", "3.weight_g")
NORM_NOW, VALUE = (f"{NOW}.original1", f"{NOW}.original0"), ("3.weight_orig", "3.weight_u", "3.weight_v")
W, G, U, V = torch.ones(2, 6), torch.ones(2, 1), torch.tensor([0.5, 0.5]).sqrt(), torch.full((6,), 6**-0.5)


@pytest.mark.parametrize(
    ("names", "values", "reason"),
    [
        (NORM, (W, torch.ones(5)), r"3.weight_g [5], from which it cannot be computed: there is one length for each"),
        (NORM_NOW, (W, torch.ones(5)), "one length for each output, [2, 1, ...], or one for all; save plain weights"),
        (NORM, (W, torch.ones(2, 6)), "there is one length for each output"),
        (NORM, (W, torch.ones(3, 1)), "there is one length for each output"),
        (NORM, (W.int(), G.int()), "3.weight_v [2, 6] int32 and 3.weight_g [2, 1] int32"),
        (NORM, (W, G.int()), "all of them must be floating-point numbers"),
        (NORM, (W, G.to("meta")), "3.weight_g is a shape without values"),
        (VALUE, (W, U.long(), V.long()), "all of them must be floating-point numbers"),
        (VALUE, (W.int(), U, V), "all of them must be floating-point numbers"),
        (VALUE, (W, U[:1], V), "u has the size of one dimension and v that of all others"),
        (VALUE, (W, U, V.flip(0) * torch.tensor([1, -1] * 3)), "are not the vectors of its largest singular value"),
        (VALUE, (W, -U, V), "are not the vectors of its largest singular value"),
        (VALUE, (0 * W, U, V), "are not the vectors of its largest singular value"),
        (MASK, (W, W.to("meta")), "3.weight_mask is a shape without values"),
        (MASK, (W.to("meta"), W), "3.weight_orig is a shape without values"),
        (MASK, (W, W[:, :5]), "a mask has the shape of its weights"),
        (MASK, (W, bomb()), "a mask has the shape of its weights"),
        (NORM, (W, bomb()), "there is one length for each output"),
        (VALUE, (W, U, torch.ones(1).expand(10**13)), "u has the size of one dimension"),
        (MASK, (bomb(), bomb()), "3.weight: file [10000000, 1000000], net [2, 6]"),
        (NORM, (bomb(), G), "3.weight: file [10000000, 1000000], net [2, 6]"),
        (VALUE, (bomb(), U, V), "3.weight: file [10000000, 1000000], net [2, 6]"),
        (("3.weight",), (long_and_sparse(),), "3.weight: file [10000000000000], net"),
        (("3.weight",), (nested(torch.strided),), "holds nested tensors (3.weight)"),
        (
            ("3.weight",),
            (nested(torch.jagged),),
            "holds nested tensors (3.weight), which are no weights; save each part alone",
        ),
        (
            ("3.weight",),
            (torch.empty(2, 6, dtype=torch.float4_e2m1fn_x2),),
            "3.weight: file [2, 6] float4_e2m1fn_x2, net [2, 6]",
        ),
    ],
    ids=label,
)
@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning", "ignore:Sparse:UserWarning")
def test_tensors_are_checked_before_anything_is_computed(
    tmp_path: Path, names: tuple[str, ...], values: tuple[Tensor, ...], reason: str
) -> None:
    state = dict(make_net(1).state_dict())
    del state["3.weight"]
    said = refused(tmp_path, {**state, **dict(zip(names, values, strict=True))})
    assert reason in said
    assert "\n" not in said


def test_a_small_file_of_large_tensors_beside_the_net_is_not_filled(tmp_path: Path) -> None:
    """What is left out is never made: a mask and a sparse tensor of a loss."""
    huge = {"loss.weight_orig": bomb(), "loss.weight_mask": bomb(), "loss.b": long_and_sparse()}
    trained, net = make_net(1), make_net(2)
    content = {**renamed(dict(trained.state_dict()), lambda name: f"net.{name}"), **huge}
    load_foreign(net, stored(tmp_path, content), sha256=None, cache=tmp_path)
    same(net, trained)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("names", "values"), [(MASK, (W, W)), (NORM, (W, G)), (VALUE, (W, U, V))], ids=label)
def test_factors_may_have_types_of_their_own(
    tmp_path: Path, names: tuple[str, ...], values: tuple[Tensor, ...], dtype: torch.dtype
) -> None:
    state = dict(make_net(1).state_dict())
    del state["3.weight"]
    expected = {MASK: W, NORM: W * 6**-0.5, VALUE: W / 12**0.5}[names]
    for changed in range(len(names)):
        mixed = {
            name: value.to(dtype) if n == changed else value
            for n, (name, value) in enumerate(zip(names, values, strict=True))
        }
        net = make_net(2)
        load_foreign(net, stored(tmp_path, {**state, **mixed}), sha256=None, cache=tmp_path)
        torch.testing.assert_close(net.get_submodule("3").weight.detach(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("step", ["unwrap", "_fit"])
def test_what_torch_cannot_do_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def broken(*_: object) -> None:
        raise NotImplementedError("\n\"abs\" is not there for 'Float3'\n  more\n")

    monkeypatch.setattr(f"prunebench.nets.checkpoints.{step}", broken)
    said = refused(tmp_path, dict(make_net(1).state_dict()))
    assert said.endswith(
        "weights.pt holds tensors with which torch cannot compute (\"abs\" is not there for 'Float3'); "
        "save plain floating-point ones where the file was made"
    )


COPIES: dict[str, tuple[str, str, str]] = {  # the prefixes of two copies, and how they are named
    "module in module": ("module.", "module.module.", "under module., module.module., and the copies differ"),
    "module beside plain": ("", "module.", "under no prefix, module., and the copies differ"),
    "teacher beside plain": ("", "teacher.", "under no prefix, teacher., and the copies differ"),
    "average beside plain": ("", "ema_model.", "under no prefix, ema_model., and the copies differ"),
    "two of another program": ("one.", "two.", "under one., two., and the copies differ"),
    "compiled beside plain": ("", "_orig_mod.", "(0.weight and _orig_mod.0.weight, 0.bias and"),
    "compiled in module": ("module.", "module._orig_mod.", "(0.weight and _orig_mod.0.weight, 0.bias and"),
}


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("made", [lambda net: net, lambda net: cut(net)], ids=["plain", "masked"])
def test_equal_copies_are_one(tmp_path: Path, kind: str, made: Callable[[nn.Module], nn.Module]) -> None:
    state, net, alone = dict(made(make_net(1)).state_dict()), make_net(2), make_net(3)
    one, other, _ = COPIES[kind]
    twice = {**renamed(state, one.__add__), **renamed(state, other.__add__)}
    found = load_foreign(net, stored(tmp_path, twice), sha256=None, cache=tmp_path)
    load_foreign(alone, stored(tmp_path, state), sha256=None, cache=tmp_path)
    same(net, alone)
    assert "without an equal copy under" in found.unwrapped or "without _orig_mod inside names" in found.unwrapped


@pytest.mark.parametrize("kind", COPIES)
def test_copies_that_differ_are_named(tmp_path: Path, kind: str) -> None:
    one, other, named = COPIES[kind]
    content = {
        **renamed(dict(make_net(1).state_dict()), one.__add__),
        **renamed(dict(make_net(7).state_dict()), other.__add__),
    }
    said = refused(tmp_path, content)
    assert named in said
    assert "save one of them alone" in said


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
