from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import prunebench
from prunebench.errors import UserError
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.measure.cost import count
from prunebench.models.resnet_cifar import resnet20
from prunebench.nets import package
from prunebench.nets.export import export
from prunebench.nets.weights import file_bytes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink

CONFIG: dict[str, Any] = {
    "name": "resnet20",
    "_target_": "prunebench.models.resnet_cifar.resnet20",
    "num_classes": 10,
    "in_channels": 1,
    "width": 8,
    "pretrained": None,
    "pretrained_sha256": None,
}
SHAPE = (1, 1, 8, 8)
CUT = Plan(keep={"layer1.0.conv1": (1, 2, 5), "layer1.0.conv2": (0, 3), "layer2.1.conv1": (0, 1, 2, 3, 4, 9)})


def dense_net() -> nn.Module:
    """With norm statistics and affine parameters away from their defaults."""
    torch.manual_seed(0)
    net = resnet20(in_channels=1, width=8)
    net(torch.randn(16, 1, 8, 8))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def small_net() -> nn.Module:
    net = dense_net()
    return shrink(net, ChannelGraph.trace(net, torch.zeros(SHAPE)), CUT).eval()


def save(folder: Path, net: nn.Module, plan: Plan, **more: Any) -> Path:
    return package.save(folder, net, model_config=CONFIG, example_shape=SHAPE, plan=plan, **more)


def outputs(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("sub", ["", "model"])
def test_a_cut_net_comes_back_bit_by_bit(tmp_path: Path, sub: str) -> None:
    net = small_net()
    folder = save(tmp_path, net, CUT)
    assert folder == tmp_path / "model"
    assert sorted(path.name for path in folder.iterdir()) == ["net.yaml", "plan.json", "weights.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = prunebench.load(tmp_path / sub)
    assert not loaded.training
    assert torch.equal(outputs(loaded), outputs(net))
    assert count(loaded, torch.zeros(SHAPE)) == count(net, torch.zeros(SHAPE))
    assert (folder / "weights.safetensors").stat().st_size == file_bytes(net)
    assert package.read_plan(tmp_path) == CUT


@pytest.mark.parametrize(
    "plan", [Plan(), Plan(keep={"layer1.0.conv1": tuple(range(8))}, inputs={"layer1.0.conv1": tuple(range(8))})]
)
def test_an_uncut_net_comes_back_as_the_plain_module(tmp_path: Path, plan: Plan) -> None:
    net = dense_net()
    save(tmp_path, net, plan)
    loaded = prunebench.load(tmp_path)
    assert type(loaded) is type(net)
    assert torch.equal(outputs(loaded), outputs(net))


def test_net_yaml_says_everything_needed_to_use_the_net(tmp_path: Path) -> None:
    save(tmp_path, dense_net(), Plan(), mean=[0.3], std=[0.25], class_names=["zero", "1e3", "no"])
    spec = package.read_spec(tmp_path)
    assert spec.target == CONFIG["_target_"]
    assert spec.arguments == {"num_classes": 10, "in_channels": 1, "width": 8}
    assert (spec.name, spec.mean, spec.std) == ("resnet20", [0.3], [0.25])
    assert spec.class_names == ["zero", "1e3", "no"]
    assert spec.example().shape == SHAPE
    assert spec.example().dtype == torch.float32


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    save(tmp_path, dense_net(), Plan())
    (tmp_path / "model" / "stray").touch()
    save(tmp_path, small_net(), CUT)
    assert torch.equal(outputs(prunebench.load(tmp_path)), outputs(small_net()))
    assert not (tmp_path / "model" / "stray").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_plan_that_does_not_fit_the_net_is_refused_and_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, dense_net(), Plan())
    with pytest.raises(UserError, match="does not fit the net"):
        save(tmp_path, dense_net(), CUT)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert torch.equal(outputs(prunebench.load(tmp_path)), outputs(dense_net()))


def test_loading_draws_no_random_number(tmp_path: Path) -> None:
    save(tmp_path, small_net(), CUT)
    before = torch.get_rng_state()
    prunebench.load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


FOREIGN = """
from torch import nn

class Tied(nn.Module):
    '''A decoder that shares the weight of the embedding.'''
    def __init__(self, size):
        super().__init__()
        self.embed = nn.Embedding(size, 4)
        self.decode = nn.Linear(4, size)
        self.decode.weight = self.embed.weight

    def forward(self, x):
        return self.decode(self.embed(x))

def unannotated(size):
    return Tied(size)

def postponed(size) -> "nn.Module":
    return Tied(size)

def no_net(size) -> nn.Module:
    return size
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's own module of nets."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "foreign_nets.py").write_text(FOREIGN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield importlib.import_module("foreign_nets")
    del sys.modules["foreign_nets"]


def save_foreign(folder: Path, target: str, net: nn.Module) -> None:
    config = {"_target_": f"foreign_nets.{target}", "size": 9, "num_classes": 3, "name": "tied"}
    package.save(folder, net, model_config=config, example_shape=(1, 5), plan=Plan(), example_dtype=torch.long)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path, foreign: Any) -> None:
    net = foreign.Tied(9)
    save_foreign(tmp_path, "Tied", net)
    assert package.read_spec(tmp_path).arguments == {"size": 9}  # the class does not take num_classes
    loaded: Any = prunebench.load(tmp_path, trust=True)
    x = torch.arange(5)[None]
    assert torch.equal(loaded(x), net(x))
    assert loaded.decode.weight is loaded.embed.weight
    assert file_bytes(net) < 9 * 4 * 4 + 9 * 4 + 300


@pytest.mark.parametrize("target", ["Tied", "unannotated", "postponed"])
def test_a_net_of_one_s_own_is_built_only_on_trust(tmp_path: Path, foreign: Any, target: str) -> None:
    save_foreign(tmp_path, target, foreign.Tied(9))
    with pytest.raises(UserError, match=r"foreign_nets.* is not called for model.*give trust=True"):
        prunebench.load(tmp_path)
    assert isinstance(prunebench.load(tmp_path, trust=True), foreign.Tied)


def test_a_target_that_gives_no_net_is_refused(tmp_path: Path, foreign: Any) -> None:
    save_foreign(tmp_path, "Tied", foreign.Tied(9))
    edit(tmp_path, target="foreign_nets.no_net")
    with pytest.raises(UserError, match=r"gave a int, not a torch\.nn\.Module"):
        prunebench.load(tmp_path, trust=True)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model" / "net.yaml"
    OmegaConf.save(OmegaConf.create({**OmegaConf.to_container(OmegaConf.load(path)), **changes}), path)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "not called"),
        ("subprocess.run", "not called"),
        ("torch.nn.functional.relu", "not called"),
        ("builtins.dict", "not called"),
        ("prunebench.models.resnet_cifar.resnet21", "did you mean .*resnet"),
        ("prunebench.models.resnet_cifar.SHORTCUTS", "no function or class"),
        ("prunebench.models.nothing.net", "cannot be imported"),
        ("resnet20", "not called"),
        ("prunebench.models.resnet_cifar.CifarResNet", "model.blocks must be given"),
    ],
)
def test_targets_that_build_no_net_are_refused(tmp_path: Path, target: str, message: str) -> None:
    save(tmp_path, dense_net(), Plan())
    edit(tmp_path, target=target)
    with pytest.raises(UserError, match=message):
        prunebench.load(tmp_path)


def test_a_link_in_the_place_of_the_net_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "kept.txt").write_text("not ours")
    for target in ("nowhere", "scratch"):
        (tmp_path / "model").symlink_to(tmp_path / target)
        save(tmp_path, small_net(), CUT)
        assert not (tmp_path / "model").is_symlink()
        prunebench.load(tmp_path)
        shutil.rmtree(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert (tmp_path / "scratch" / "kept.txt").is_file()


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        prunebench.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no saved net \(model/net.yaml is missing\)"):
        prunebench.load(tmp_path)
    folder = save(tmp_path, small_net(), CUT)
    whole = (folder / "weights.safetensors").read_bytes()
    for broken in (b"", whole[:4], whole[:100], whole[:-1], b"{}" * 50):
        (folder / "weights.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
            prunebench.load(tmp_path)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        prunebench.load(tmp_path)
    (folder / "plan.json").write_text('{"keep": {"layer1', encoding="utf-8")
    with pytest.raises(UserError, match=r"plan\.json cannot be read"):
        prunebench.load(tmp_path)
    (folder / "plan.json").unlink()
    with pytest.raises(UserError, match=r"plan\.json cannot be read"):
        prunebench.load(tmp_path)
    for text in ("", "schema: 1", "- 3", "a: [", "schema: 1\ntarget: x\narguments: {}\nname: n\nfuture: 3\n"):
        (folder / "net.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"net\.yaml is damaged"):
            prunebench.load(tmp_path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    save(tmp_path, dense_net(), Plan())
    edit(tmp_path, schema=2)
    with pytest.raises(UserError, match="has schema 2, this version reads 1"):
        prunebench.load(tmp_path)


def test_a_config_that_is_no_plain_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only plain data can be saved"):
        package.save(
            tmp_path,
            dense_net(),
            model_config={**CONFIG, "width": object()},
            example_shape=SHAPE,
            plan=Plan(),
        )
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, prunebench; print('torch' in sys.modules, 'load' in dir(prunebench))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'unload'"):
        _ = prunebench.unload


def test_version_is_that_of_pyproject() -> None:
    try:
        importlib.metadata.version("prunebench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("prunebench is not installed, so it has no version")
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{prunebench.__version__}"' in project


class Doubled(nn.Module):
    """A layer that a method has put in the place of a convolution."""

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.sizes = (in_channels, out_channels)
        self.inner = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)

    def config(self) -> dict[str, int]:
        return {"in_channels": self.sizes[0], "out_channels": self.sizes[1]}

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = 2 * self.inner(x)
        return doubled


def test_layers_of_a_method_come_back_beside_a_cut(tmp_path: Path) -> None:
    net = small_net()
    net.set_submodule("layer2.1.conv1", Doubled(in_channels=16, out_channels=6))
    save(tmp_path, net, CUT)
    with pytest.raises(UserError, match="not called for layers"):
        prunebench.load(tmp_path)
    again = prunebench.load(tmp_path, trust=True)
    torch.testing.assert_close(outputs(again), outputs(net), rtol=0, atol=0)
    spec = package.read_spec(tmp_path)
    assert spec.layers == {
        "layer2.1.conv1": {
            "target": f"{Doubled.__module__}.Doubled",
            "arguments": {"in_channels": 16, "out_channels": 6},
        }
    }


# -- ensembles

OTHER = Plan(keep={"layer1.0.conv1": (0, 1), "layer3.2.conv1": tuple(range(5))})


def ensemble(*plans: Plan, own: bool = False) -> NetEnsemble:
    """Small nets of different weights."""
    graph = ChannelGraph.trace(dense_net(), torch.zeros(SHAPE))
    nets = []
    for number, plan in enumerate(plans):
        net = dense_net()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1 + 0.1 * number)
        nets.append(shrink(net, graph, plan).eval())
    return NetEnsemble(nets, plans=[plan.to_json() for plan in plans] if own else None).eval()


@pytest.mark.parametrize("own", [False, True])
def test_an_ensemble_of_cut_nets_is_one_net(tmp_path: Path, own: bool) -> None:
    net = ensemble(CUT, OTHER if own else CUT, CUT, own=own)
    folder = save(tmp_path, net, CUT)
    assert sorted(path.name for path in folder.iterdir()) == ["net.yaml", "plan.json", "weights.safetensors"]
    loaded = prunebench.load(tmp_path)
    assert isinstance(loaded, NetEnsemble) and len(loaded.members) == 3 and not loaded.training
    assert torch.equal(outputs(loaded), outputs(net))
    found = [member.get_submodule("layer1.0.conv1").out_channels for member in loaded.members]
    assert found == ([3, 2, 3] if own else [3, 3, 3])
    mean = torch.stack([outputs(member).softmax(1) for member in net.members]).mean(0)
    torch.testing.assert_close(outputs(loaded).softmax(1), mean)
    assert count(loaded, torch.zeros(SHAPE)).macs == sum(count(m, torch.zeros(SHAPE)).macs for m in net.members)
    assert torch.equal(outputs(prunebench.load(save(tmp_path / "again", loaded, CUT))), outputs(net))


def test_an_ensemble_of_nets_with_layers_of_a_method(tmp_path: Path) -> None:
    nets = [small_net(), small_net()]
    for net in nets:
        net.set_submodule("layer2.1.conv1", Doubled(in_channels=16, out_channels=6))
    whole = NetEnsemble(nets).eval()
    save(tmp_path, whole, CUT)
    assert set(package.read_spec(tmp_path).layers) == {f"members.{k}.layer2.1.conv1" for k in (0, 1)}
    assert torch.equal(outputs(prunebench.load(tmp_path, trust=True)), outputs(whole))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "members must be 1 to 1,000 nets, got 0"),
        ([""] * 1001, "members must be 1 to 1,000 nets, got 1,001"),
        (["", "{"], r"net.yaml is damaged \(members: a plan must be JSON"),
        ([3], "damaged"),
        (["", '{"keep":{"nowhere":[0]}}'], "nowhere"),
        (["", ""], "weights"),
        ([""] * 200, "more than .* tensors; give trust=True"),
    ],
)
def test_a_damaged_ensemble_is_refused(tmp_path: Path, members: list[Any], message: str) -> None:
    folder = save(tmp_path, ensemble(CUT, CUT, CUT), CUT)
    content: Any = OmegaConf.load(folder / "net.yaml")
    content.members = members
    OmegaConf.save(content, folder / "net.yaml")
    with pytest.raises(UserError, match=message):
        prunebench.load(tmp_path)


def test_an_ensemble_is_exported(tmp_path: Path) -> None:
    net = ensemble(CUT, CUT)
    save(tmp_path, net, CUT)
    found = export(tmp_path, "torch_export")
    assert found.max_abs_diff < 1e-4
