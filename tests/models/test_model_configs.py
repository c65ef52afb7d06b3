"""Every file in conf/model builds what it says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from torch import nn

FILES = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
NOT_ARGUMENTS = ("name", "pretrained", "pretrained_sha256")
# the families in this folder of tests; others have their own
FAMILIES = ("lenet", "resnet_cifar", "vgg_cifar", "resnet", "preresnet_cifar", "densenet_cifar", "mlp", "perceptron")


def family(file: Path) -> str:
    target = str(OmegaConf.load(file)["_target_"]) if file.stem != "custom" else ""
    return target.split(".")[-2] if target.startswith("prunebench.models.") else ""


OURS = [file for file in FILES if family(file) in FAMILIES]


def resolved(file: Path, **dataset: int) -> dict[str, Any]:
    """The net's part of a whole configuration."""
    whole = OmegaConf.create({"dataset": dataset, "model": OmegaConf.load(file)})
    found: Any = OmegaConf.to_container(whole, resolve=True)
    model: dict[str, Any] = found["model"]
    return model


def test_all_nets_are_there():
    depths = {"resnet": (18, 20, 32, 34, 44, 50, 56, 101, 110), "vgg": (11, 13, 16, 19)}
    nets = {f"{name}{depth}" for name, numbers in depths.items() for depth in numbers}
    assert {"lenet300_100", "lenet5", *nets} <= {file.stem for file in OURS}


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_builds_the_net(file):
    config = resolved(file, num_classes=7, in_channels=1, size=32)
    assert config["name"] == file.stem == str(config["_target_"]).split(".")[-1]
    assert config["pretrained"] is None
    assert config["pretrained_sha256"] is None
    with torch.device("meta"):
        net = instantiate({key: value for key, value in config.items() if key not in NOT_ARGUMENTS})
        assert isinstance(net, nn.Module)
        assert net(torch.empty(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_values_are_the_defaults_of_the_function(file):
    config = resolved(file, num_classes=7, in_channels=1, size=32)
    options = {key: value for key, value in config.items() if key not in (*NOT_ARGUMENTS, "_target_")}
    arguments = inspect.signature(get_method(str(config["_target_"]))).parameters
    assert set(options) == set(arguments)
    assert all(argument.kind is inspect.Parameter.KEYWORD_ONLY for argument in arguments.values())
    for key in set(options) - {"num_classes", "in_channels", "image_size"}:
        assert options[key] == arguments[key].default, key


def test_custom_net_needs_a_target():
    file = next(file for file in FILES if file.stem == "custom")
    config = OmegaConf.load(file)
    assert OmegaConf.is_missing(config, "_target_")
    assert set(config) == {*NOT_ARGUMENTS, "_target_", "num_classes", "in_channels"}
