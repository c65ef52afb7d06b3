"""A net in a folder, without a pickle: how to build it (``net.yaml``), what was cut, its weights.

``model/net.yaml``              what builds the dense net, its arguments, the shape and normalisation of inputs, and the
                                layers that a method has put in the place of the net's own
``model/plan.json``             which channels stay
``model/weights.safetensors``   parameters and buffers of the compact net

Loading imports the module that ``net.yaml`` names and calls a function of it: load folders that you trust. Only a
subclass of ``torch.nn.Module`` or a function that is annotated to return one is called, unless ``trust`` is given.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from prunebench.config.named import arguments
from prunebench.disk.atomic import TEMPORARY, write_bytes, write_text
from prunebench.errors import UserError
from prunebench.nets.dense_net import make_net
from prunebench.nets.weights import read_into, to_bytes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.rebuild import describe, rebuild
from prunebench.surgery.shrink import shrink

FOLDER = "model"
FILES = NET, PLAN, WEIGHTS = "net.yaml", "plan.json", "weights.safetensors"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything about a saved net but its plan and weights.

    Attributes:
        target: dotted path of the function or class that builds the dense net.
        arguments: its keyword arguments.
        name: name of the net in results.
        example_shape: shape of one input, with a batch dimension of 1.
        example_dtype: its type, for example ``float32``.
        mean, std: per-channel normalisation of inputs in [0, 1], None if unknown.
        class_names: names of the classes in the order of the outputs, None if unknown.
        layers: layers that stand where the dense net has others, see :mod:`prunebench.surgery.rebuild`.
    """

    target: str
    arguments: Mapping[str, Any]
    name: str
    example_shape: Sequence[int]
    example_dtype: str = "float32"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: Sequence[str] | None = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def example(self) -> torch.Tensor:
        """Zeros of the input's shape and type."""
        return torch.zeros(tuple(self.example_shape), dtype=getattr(torch, self.example_dtype))


def save(
    folder: Path,
    net: nn.Module,
    *,
    model_config: Mapping[str, Any],
    example_shape: Sequence[int],
    plan: Plan,
    example_dtype: torch.dtype = torch.float32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write ``net`` to ``folder/model``, whole or not at all, and make sure that ``load`` will rebuild it.

    Args:
        folder: run folder; it is made if it does not exist.
        net: the compact net that ``plan`` makes of the dense one.
        model_config: resolved config of the dense net: ``_target_`` and its arguments.
        example_shape: shape of one input, with a batch dimension of 1.
        plan: what was cut.

    Returns:
        The folder ``model``.

    Raises:
        UserError: the config is no plain data, or config and plan do not lead to the tensors of ``net``.
    """
    target = model_config["_target_"]
    spec = Spec(
        target=target,
        arguments=arguments("model", model_config),
        name=str(model_config.get("name", target.rpartition(".")[2])),
        example_shape=[int(size) for size in example_shape],
        example_dtype=str(example_dtype).removeprefix("torch."),
        mean=mean,
        std=std,
        class_names=class_names,
        layers=describe(net),
    )
    _write(folder, spec, plan, net)
    return folder / FOLDER


def load(folder: Path | str, *, trust: bool = False) -> nn.Module:
    """The compact net of a run, in evaluation mode on the CPU.

    A net that was not cut is the plain module; a cut one is a ``torch.fx.GraphModule`` with smaller layers under the
    same names. The random stream of the caller is left alone.

    Args:
        folder: a run folder or its ``model`` folder.
        trust: also call a target that is not known to return a net, see above.

    Raises:
        UserError: a file is missing or damaged, the target is unknown or no net, or the files do not fit together.
    """
    folder = model_folder(folder)
    spec = read_spec(folder)
    plan = read_plan(folder)
    with torch.random.fork_rng([]):  # new weights are drawn, only to be overwritten
        net = make_net({"_target_": spec.target, **spec.arguments}, trust=trust).eval()
        if _cuts(net, plan):
            net = shrink(net, ChannelGraph.trace(net, spec.example()), plan)
        net = rebuild(net, spec.layers).eval()
    read_into(net, folder / WEIGHTS)
    return net


def model_folder(folder: Path | str) -> Path:
    """The folder with the files of the net: ``folder`` or its ``model``.

    Raises:
        UserError: there is no net.
    """
    folder = Path(folder)
    for candidate in (folder / FOLDER, folder):
        if (candidate / NET).is_file():
            return candidate
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a finished run, or its {FOLDER}/")
    raise UserError(f"{folder} holds no saved net ({FOLDER}/{NET} is missing); give the folder of a finished run")


def read_spec(folder: Path | str) -> Spec:
    """``net.yaml`` of a run folder or its ``model`` folder.

    Raises:
        UserError: it is missing, damaged, or of another schema.
    """
    path = model_folder(folder) / NET
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        schema = content.pop("schema")
        spec = Spec(**content)
    except Exception as error:  # YAML's, OmegaConf's and our own errors have no common base
        raise UserError(f"{path} is damaged ({error}); save the net again") from None
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; save the net again")
    return spec


def read_plan(folder: Path | str) -> Plan:
    """``plan.json`` of a run folder or its ``model`` folder.

    Raises:
        UserError: it is missing or damaged.
    """
    path = model_folder(folder) / PLAN
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); save the net again") from None


def _write(folder: Path, spec: Spec, plan: Plan, net: nn.Module) -> None:
    """All files into a new folder, which takes the place of the old one once it has been read back."""
    temporary = folder / f".{FOLDER}.{secrets.token_hex(4)}{TEMPORARY}"
    try:
        write_text(temporary / NET, _to_yaml(spec))
        write_text(temporary / PLAN, plan.to_json())
        write_bytes(temporary / WEIGHTS, to_bytes(net))
        load(temporary, trust=True)  # the target has just built this net
        _replace(folder / FOLDER, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_yaml(spec: Spec) -> str:
    try:
        return OmegaConf.to_yaml(OmegaConf.create({"schema": SCHEMA, **asdict(spec)}))
    except OmegaConfBaseException as error:
        raise UserError(f"saved: the model config must be plain data, {error}") from None


def _cuts(net: nn.Module, plan: Plan) -> bool:
    """True if ``plan`` removes a channel of ``net``; else the plain net is the compact one."""
    sizes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    return any(len(kept) != sizes.get(f"{name}.weight", [0])[0] for name, kept in plan.keep.items()) or any(
        len(kept) != sizes.get(f"{name}.weight", [0, 0])[1] for name, kept in plan.inputs.items()
    )


def _replace(target: Path, new: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; a full folder cannot be renamed over in one step."""
    old = new.with_name(f"{new.name}.old{TEMPORARY}")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
