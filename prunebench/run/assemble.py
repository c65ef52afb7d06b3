"""The objects of a resolved configuration: data, net, method, and the job that brings them together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prunebench.config import named
from prunebench.config.identity import dense_folder
from prunebench.config.phase import build_phases
from prunebench.config.settings import trainer_settings
from prunebench.core.task import task_of
from prunebench.data.loaders import ImageData
from prunebench.errors import UserError
from prunebench.nets.checkpoints import load_foreign
from prunebench.nets.dense_net import DenseNet, make_net
from prunebench.run import suits
from prunebench.run.bare import seed_from
from prunebench.run.job import Job


def build(config: Mapping[str, Any], folder: Path) -> tuple[Job, nn.Module]:
    """The job, and the dense net with fresh or pretrained weights.

    Args:
        config: resolved.
        folder: of the run.

    Raises:
        UserError: a value is refused, files are missing, or groups do not fit each other.
    """
    settings = trainer_settings(config["trainer"])
    phases = build_phases(config["schedule"]["phases"])
    data = named.build("dataset", config["dataset"])
    data.use_channels_last(settings.channels_last)
    data.setup(Path(config["paths"]["data"]), download=config["paths"]["download"])
    seed = config["seed"]

    def fresh(settings: Mapping[str, Any], purpose: str) -> nn.Module:
        seed_from(seed, purpose)
        return make_net(settings)

    dense = DenseNet(config["model"], make=fresh, example=data.example(), samples=data.samples_per_example)
    task = task_of(data)
    suits.check(dense, data, task, phases)
    job = Job(
        dense=dense,
        method=named.build("method", config["method"]),
        data=data,
        task=task,
        schedule=config["schedule"]["name"],
        phases=phases,
        seed=seed,
        folder=folder,
        settings=settings,
        dense_folder=lambda phase: dense_folder(config, vars(phase)),
        ood=make_ood(config, settings.channels_last),
        name=folder.parent.parent.name,
        logger=config["logger"],
    )
    net = dense.fresh("init")
    pretrained = config["model"].get("pretrained")
    if not pretrained:
        return job, net
    if any(phase.fresh for phase in phases) and not any(phase.pretrain for phase in phases):
        raise UserError(f"schedule={job.schedule} starts from random weights; leave out model.pretrained")
    cache = Path(config["paths"]["outputs"]) / "weights"
    found = load_foreign(net, pretrained, sha256=config["model"].get("pretrained_sha256"), cache=cache)
    job.pretrained = True
    job.pretrained_from = {"source": Path(found.source).name, "sha256": found.sha256, "unwrapped": found.unwrapped}
    return job, net


def make_ood(config: Mapping[str, Any], channels_last: bool) -> ImageData | None:
    """The foreign pictures of the config group ``ood``, None without.

    Raises:
        UserError: they have another shape than the run's own pictures, or the files are missing.
    """
    settings, own = config.get("ood"), config["dataset"]
    if settings is None:
        return None
    if "in_channels" not in own:
        raise UserError(f"ood compares pictures, and dataset={own['name']} has none; leave ood out")
    given, needed = ([group[key] for key in ("in_channels", "size")] for group in (settings, own))
    if given != needed:
        shape, wanted = (f"{channels}x{size}x{size}" for channels, size in (given, needed))
        raise UserError(
            f"ood={settings['name']} has pictures of {shape}, the nets of dataset={own['name']} take {wanted}; "
            "use ood=noise or a set of that shape"
        )
    data: ImageData = named.build("ood", settings)
    data.use_channels_last(channels_last)
    data.setup(Path(config["paths"]["data"]), download=config["paths"]["download"])
    return data
