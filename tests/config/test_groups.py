"""Which nets and data sets suit each other, as their files say it, beside what the nets themselves take."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import yaml

from prunebench.config import named
from prunebench.config.groups import asked_of_data, conf_folder, fitting, smallest_side
from prunebench.errors import UserError

FOLDER = conf_folder()
NETS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((FOLDER / "model").glob("*.yaml"))}
OF_PICTURES = sorted(name for name, text in NETS.items() if "size" in asked_of_data(text))
PICTURES = {"num_classes", "in_channels", "size"}


@functools.cache
def takes(net: str, side: int) -> bool:
    """Whether the net is built for pictures of this side; on a device without memory, so that a large one is cheap."""
    text = NETS[net].replace("${dataset.num_classes}", "10").replace("${dataset.in_channels}", "3")
    settings: dict[str, Any] = yaml.safe_load(text.replace("${dataset.size}", str(side)))
    try:
        with torch.device("meta"):
            named.build("model", settings)
    except UserError as error:
        if "needs images of at least" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("net", OF_PICTURES)
def test_a_net_takes_the_pictures_that_its_file_says(net: str) -> None:
    for side in (8, 15, 16, 31, 32):
        assert takes(net, side) == (smallest_side(NETS[net]) <= side), side


@pytest.mark.parametrize("side", [8, 28])
def test_nets_are_named_that_take_pictures_of_this_side(side: int) -> None:
    nets, _ = fitting({"num_symbols"}, PICTURES, side=side)
    assert nets == [net for net in OF_PICTURES if takes(net, side)]


@pytest.mark.parametrize("net", ["resnet20", "lenet5", "vgg16"])
def test_data_sets_are_named_whose_pictures_are_large_enough(net: str) -> None:
    _, data = fitting(PICTURES, {"num_symbols"}, net=net)
    words = dict.fromkeys(entry.split()[0] for entry in data)
    for path in sorted((FOLDER / "dataset").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "size" not in settings:
            assert path.stem not in words
        elif takes(net, settings["size"]):
            assert path.stem in data
        else:  # the digits alone can be enlarged
            larger = {"lenet5": 16, "vgg16": 32}[net]
            assert (f"{path.stem} (dataset.size={larger})" in data) == path.stem.endswith("digits")
            assert (path.stem in words) == path.stem.endswith("digits")
