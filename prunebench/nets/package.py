"""A net in a folder, without a pickle: how to build it (``net.yaml``), what was cut, its weights.

``model/net.yaml``              what builds the dense net, its arguments, the shape and normalisation of inputs, and the
                                layers that a method has put in the place of the net's own
``model/plan.json``             which channels stay (of an ensemble whose members differ: in any of them)
``model/weights.safetensors``   parameters and buffers of the compact net

A folder from somebody else is no program: without ``trust`` only public classes and functions of
``prunebench.models``, layers of this package and modules of ``torch.nn`` are called, and sizes are checked before
memory is taken.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunebench.config.named import arguments
from prunebench.disk.atomic import TEMPORARY, write_bytes, write_text
from prunebench.disk.paths import user_path
from prunebench.errors import UserError
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.nets import spec as specs
from prunebench.nets.dense_net import make_net
from prunebench.nets.spec import Spec, without_memory
from prunebench.nets.weights import read_into, to_bytes
from prunebench.surgery.families import TRANSPOSED
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.rebuild import describe, rebuild
from prunebench.surgery.shrink import shrink

FOLDER = "model"
FILES = NET, PLAN, WEIGHTS = "net.yaml", "plan.json", "weights.safetensors"
MAX_PLAN_BYTES = 1 << 24
"""Of ``plan.json``: the plan of a ResNet-152 has 100,000."""


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
    preparation: str | None = None,
) -> Path:
    """Write ``net`` to ``folder/model``, whole or not at all, and make sure that ``load`` will rebuild it.

    Args:
        folder: run folder; it is made if it does not exist.
        net: the compact net that ``plan`` makes of the dense one, or a :class:`NetEnsemble` of such nets.
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
        preparation=preparation,
        layers=describe(net),
        members=list(net.plans or [""] * len(net.members)) if isinstance(net, NetEnsemble) else None,
    )
    _write(folder, spec, plan, net)
    return folder / FOLDER


def load(folder: Path | str, *, trust: bool = False) -> nn.Module:
    """The compact net of a run, in evaluation mode on the CPU.

    A net that was not cut is the plain module; a cut one is a ``torch.fx.GraphModule`` with smaller layers under the
    same names; an ensemble is a :class:`NetEnsemble` of them. The random stream of the caller is left alone.

    Args:
        folder: a run folder or its ``model`` folder.
        trust: call whatever the folder names, see above; needed for a net of your own.

    Raises:
        UserError: a file is missing or damaged, the target is unknown, not trusted or no net, or the files do not fit
            together.
    """
    folder = model_folder(folder)
    spec = read_spec(folder)
    plans = _plans(folder, spec)
    settings = {"_target_": spec.target, **spec.arguments}
    if not trust:
        with without_memory():
            rebuild(_joined([make_net(settings, trust=False) for _ in plans], spec), spec.layers)
    with torch.random.fork_rng([]):  # new weights are drawn, only to be overwritten
        nets = [_small(make_net(settings, trust=trust).eval(), plan, spec) for plan in plans]
        net = rebuild(_joined(nets, spec), spec.layers, trust=trust).eval()
    read_into(net, folder / WEIGHTS)
    return net


def model_folder(folder: Path | str) -> Path:
    """The folder with the files of the net: ``folder`` or its ``model``.

    Raises:
        UserError: there is no net.
    """
    folder = user_path(folder)
    for candidate in (folder / FOLDER, folder):
        if (candidate / NET).is_file():
            return candidate
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a finished run, or its {FOLDER}/")
    raise UserError(f"{folder} holds no saved net ({FOLDER}/{NET} is missing); give the folder of a finished run")


def read_spec(folder: Path | str) -> Spec:
    """``net.yaml`` of a run folder or its ``model`` folder.

    Raises:
        UserError: it is missing, damaged, of another schema, or out of bounds.
    """
    return specs.read_spec(model_folder(folder) / NET)


def read_plan(folder: Path | str) -> Plan:
    """``plan.json`` of a run folder or its ``model`` folder.

    Raises:
        UserError: it is missing or damaged.
    """
    return plan_in(model_folder(folder) / PLAN)


def plan_in(path: Path) -> Plan:
    """The plan of such a file.

    Raises:
        UserError: as :func:`read_plan`.
    """
    try:
        if path.stat().st_size > MAX_PLAN_BYTES or not path.is_file():
            raise UserError(f"it is no file of at most {MAX_PLAN_BYTES:,} bytes")
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); save the net again") from None


def _write(folder: Path, spec: Spec, plan: Plan, net: nn.Module) -> None:
    """All files into a new folder, which takes the place of the old one once it has been read back."""
    temporary = folder / f".{FOLDER}.{secrets.token_hex(4)}{TEMPORARY}"
    try:
        write_text(temporary / NET, spec.to_yaml())
        write_text(temporary / PLAN, plan.to_json())
        write_bytes(temporary / WEIGHTS, to_bytes(net))
        load(temporary, trust=True)  # the target has just built this net
        _replace(folder / FOLDER, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _plans(folder: Path, spec: Spec) -> list[Plan]:
    """What was cut from the net, or from each member of an ensemble."""
    plan = read_plan(folder)
    if spec.members is None:
        return [plan]
    try:
        return [Plan.from_json(text) if text else plan for text in spec.members]
    except UserError as error:
        raise UserError(f"{folder / NET} is damaged (members: {error}); save the net again") from None


def _small(net: nn.Module, plan: Plan, spec: Spec) -> nn.Module:
    """``net`` (dense shapes) without what ``plan`` cuts."""
    return shrink(net, ChannelGraph.trace(net, spec.example()), plan) if _cuts(net, plan) else net


def _joined(nets: Sequence[nn.Module], spec: Spec) -> nn.Module:
    """The one net, or the ensemble of all."""
    if spec.members is None:
        return nets[0]
    return NetEnsemble(nets, plans=spec.members if any(spec.members) else None)


def _cuts(net: nn.Module, plan: Plan) -> bool:
    """True if ``plan`` removes a channel of ``net``; else the plain net is the compact one."""
    sizes = {name: tuple(tensor.shape[:2]) for name, tensor in net.state_dict().items()}
    turned = {name for name, module in net.named_modules() if isinstance(module, TRANSPOSED)}

    def size(name: str, side: int) -> int:
        found = sizes.get(f"{name}.weight", ())
        side = 1 - side if name in turned else side
        return found[side] if len(found) > side else 0

    parts = enumerate((plan.keep, plan.inputs))
    return any(len(kept) != size(name, side) for side, part in parts for name, kept in part.items())


def _replace(target: Path, new: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; a full folder cannot be renamed over in one step."""
    old = new.with_name(f"{new.name}.old{TEMPORARY}")
    if target.exists() or target.is_symlink():  # a link too, wherever it leads: what it leads to stays
        target.rename(old)
    new.rename(target)
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
