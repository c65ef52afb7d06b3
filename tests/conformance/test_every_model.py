"""What holds for every net that has a configuration, whatever its family: it is checked because it exists."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError
from torch import nn

from prunebench import models
from prunebench.config import named
from prunebench.config.groups import conf_folder
from prunebench.nets.dense_net import make_net
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero
from tests.kit import configure
from tests.surgery.kit import counted, draw_plan, largest_difference
from tests.surgery.nets import randomise

FILES = sorted((conf_folder() / "model").glob("*.yaml"))
PICTURES = {"num_classes": 7, "in_channels": 1, "size": 32}
TEXT = {"num_symbols": 11}
ROWS = {"num_inputs": 6, "num_outputs": 2, "noise_std": 0.5, "target_std": 1.5}
"""What a data set says about itself; a net takes one of the three."""
WINDOW = 12


def written(file: Path) -> dict[str, Any]:
    """The file's content as it stands, without the data that it names for those who choose none."""
    found: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return {key: value for key, value in found.items() if key != "defaults"}


def settings(file: Path, **dataset: float) -> dict[str, Any]:
    """The net's part of a whole configuration."""
    whole = OmegaConf.create({"dataset": dataset, "model": written(file)})
    found: Any = OmegaConf.to_container(whole, resolve=True)
    return dict(found["model"])


def takes(file: Path, **dataset: float) -> bool:
    try:
        return bool(settings(file, **dataset))
    except InterpolationKeyError:
        return False


OPEN = [file for file in FILES if "???" in written(file).values()]
"""Nothing can be built before a value is given: the reader's own net."""
FOR_PICTURES = [file for file in FILES if takes(file, **PICTURES) and file not in OPEN]
FOR_TEXT = [file for file in FILES if takes(file, **TEXT) and file not in OPEN]
FOR_ROWS = [file for file in FILES if takes(file, **ROWS) and file not in OPEN]
every = pytest.mark.parametrize(
    ("file", "data"),
    [
        *((file, PICTURES) for file in FOR_PICTURES),
        *((file, TEXT) for file in FOR_TEXT),
        *((file, ROWS) for file in FOR_ROWS),
    ],
    ids=[file.stem for file in (*FOR_PICTURES, *FOR_TEXT, *FOR_ROWS)],
)
LARGE = {
    *("preresnet164", "resnet101", "resnext29", "resnext164", "shaped_resnet110", "shaped_resnet164"),
    *("vgg16_imagenet", "wideresnet28x10"),
}
"""Deep or wide nets that have a smaller sister: cutting them takes seconds each."""
for_pictures = pytest.mark.parametrize("file", FOR_PICTURES, ids=lambda file: file.stem)
for_text = pytest.mark.parametrize("file", FOR_TEXT, ids=lambda file: file.stem)


def build(file: Path, **dataset: float) -> nn.Module:
    return make_net(settings(file, **dataset))


def test_a_net_for_a_text_or_for_rows_brings_them() -> None:
    """One word is enough for it: ``model=sru_small``."""
    for files, data in ((FOR_TEXT, TEXT), (FOR_ROWS, ROWS)):
        for file in files:
            assert configure(Path("unused"), f"model={file.stem}")[0]["dataset"].keys() >= data.keys()


def test_every_file_is_of_one_kind() -> None:
    assert sorted([*FOR_PICTURES, *FOR_TEXT, *FOR_ROWS, *OPEN]) == FILES
    assert FOR_PICTURES and FOR_TEXT and FOR_ROWS
    assert {file.stem for file in FOR_PICTURES} > LARGE


@every
def test_its_values_are_those_of_its_function(file: Path, data: dict[str, float]) -> None:
    """All of them; a configuration under another name is a variant and differs in some."""
    found = settings(file, **data)
    assert (found["name"], found["pretrained"], found["pretrained_sha256"]) == (file.stem, None, None)
    function = get_method(found["_target_"])
    taken = inspect.signature(function).parameters
    options = named.arguments("model", found)
    assert options.keys() == taken.keys()
    assert all(argument.kind is inspect.Parameter.KEYWORD_ONLY for argument in taken.values())
    own = options.keys() - {"image_size", *data}
    changed = {key for key in own if options[key] != taken[key].default}
    assert bool(changed) == (function.__name__ != file.stem), changed


def offered() -> Iterator[tuple[str, Callable[..., nn.Module]]]:
    """Dotted path and function of every public function of ``prunebench.models`` that returns a net."""
    for module in pkgutil.iter_modules(models.__path__, "prunebench.models."):
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            answer = inspect.get_annotations(function, eval_str=True).get("return")
            is_net = inspect.isclass(answer) and issubclass(answer, nn.Module)
            if function.__module__ == module.name and is_net and not name.startswith("_"):
                yield f"{module.name}.{name}", function


def test_every_net_has_a_configuration() -> None:
    paths = {path for path, _ in offered()}
    assert paths and paths <= {written(file)["_target_"] for file in FILES}


@for_pictures
def test_it_gives_a_logit_for_each_class(file: Path) -> None:
    with torch.device("meta"):
        assert build(file, **PICTURES)(torch.empty(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.stem, marks=pytest.mark.slow if file.stem in LARGE else ())
        for file in (*FOR_PICTURES, *FOR_ROWS)
    ],
)
def test_its_channels_can_be_cut(file: Path) -> None:
    """Traced, counted as torch counts, and cut by a random plan: the small net computes what the zeroed one does."""
    torch.manual_seed(0)
    rows = file in FOR_ROWS
    net, x = build(file, **(ROWS if rows else PICTURES)), torch.randn(*([1, 6] if rows else [1, 1, 32, 32]))
    randomise(net.eval())
    graph = ChannelGraph.trace(net, x)
    assert (graph.macs(Plan()), graph.params(Plan())) == counted(net, x)
    plan = draw_plan(graph, random.Random(0))
    assert plan.keep
    zeroed, small = zero(net, graph, plan), shrink(net, graph, plan)
    scale = 1.0 + float(zeroed(x).detach().abs().max())
    assert largest_difference(zeroed, small, x) < 1e-4 * scale
    assert (graph.macs(plan), graph.params(plan)) == counted(small, x)


@for_text
def test_it_predicts_each_symbol_from_those_before(file: Path) -> None:
    net = build(file, **TEXT).eval()
    symbols = torch.randint(0, TEXT["num_symbols"], (2, WINDOW))
    changed = symbols.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % TEXT["num_symbols"]
    with torch.no_grad():
        (logits, _), (others, _) = net(symbols), net(changed)
    assert logits.shape == (2, WINDOW, TEXT["num_symbols"])
    torch.testing.assert_close(logits[:, :7], others[:, :7])
    assert not torch.allclose(logits[:, 7:], others[:, 7:])
