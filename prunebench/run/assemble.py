"""The objects of a resolved configuration: data, net, method, and the job that brings them together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prunebench.config import named, whole
from prunebench.config.identity import dense_folder, digest, identity
from prunebench.config.phase import build_phases
from prunebench.config.settings import trainer_settings
from prunebench.core.distilled import Teacher
from prunebench.core.method import Method
from prunebench.core.task import task_of
from prunebench.data.base import Data
from prunebench.data.download import Remote, fetch
from prunebench.data.loaders import ImageData
from prunebench.disk.atomic import plain
from prunebench.errors import UserError
from prunebench.nets.checkpoints import load_foreign
from prunebench.nets.dense_net import DenseNet, make_net
from prunebench.nets.quantize import StaticInt8
from prunebench.run import suits
from prunebench.run.bare import seed_from
from prunebench.run.job import Job
from prunebench.run.robustness import make_adversary


def identified(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what its data are (``data``), which is part of the run's id.

    Where it is not what it should be, or the data cannot be read, it is the configuration as it is: the run will end
    with the reason.
    """
    try:
        whole.check(config)
        fetch_weights(config)
        data, ood = load_data(config), make_ood(config)
    except UserError:
        return dict(config)
    return {**config, "data": facts_of(data, ood)}


def fetch_weights(config: Mapping[str, Any]) -> None:
    """Download the weights that ``model.pretrained`` has named, if they are missing and ``paths.download`` says so.

    Raises:
        UserError: they are missing and not asked for, could not be fetched, or the file is another one.
    """
    if not (pretrained := config["model"].get("pretrained")):
        return
    path = Path(pretrained)
    for name, entry in (config["model"].get("checkpoints") or {}).items():
        if not path.exists() and not config["paths"]["download"]:
            raise UserError(
                f"the weights {name} of model={config['model']['name']} are not in the data folder: set "
                f"paths.download=true, or put {entry['url']} at {path}"
            )
        folder, _, file = entry["url"].rpartition("/")
        fetch(Remote(f"{path.parent.name}/{file}", (folder,), f"sha256:{entry['sha256']}"), path.parents[1])


def facts_of(data: Data, ood: Data | None) -> dict[str, Any]:
    """What identifies the data of a run: counts, splits, and checksums of the content."""
    found = {"dataset": data, **({"ood": ood} if ood is not None else {})}
    return {group: plain(item.fingerprint()) for group, item in found.items()}


def load_data(config: Mapping[str, Any], *, trust: bool = True) -> Data:
    """The data set, read and checked."""
    data: Data = named.build("dataset", config["dataset"], expects=Data, trust=trust)
    _set_up(data, config, "dataset")
    return data


def _set_up(data: Data, config: Mapping[str, Any], group: str) -> None:
    """Read ``data``, which the config group ``group`` has described."""
    data.use_channels_last(trainer_settings(config["trainer"]).channels_last)
    try:
        data.setup(Path(config["paths"]["data"]), download=config["paths"]["download"])
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"{group}={config[group]['name']} needs more memory than there is; set fewer or smaller samples"
        ) from None


def build(config: Mapping[str, Any], folder: Path, *, trust: bool = True) -> tuple[Job, nn.Module]:
    """The job, and the dense net with fresh or pretrained weights.

    Args:
        config: resolved; the shared dense net depends on the data that are found now, whatever ``data`` says.
        folder: of the run.
        trust: call whatever the configuration names, see :func:`prunebench.config.named.build`.

    Raises:
        UserError: a target is not trusted, a value is refused, files are missing, or groups do not fit each other.
    """
    if trust:
        whole.check(config)  # all of it, before data are read; what is not trusted is looked at piece by piece
    settings = trainer_settings(config["trainer"])
    phases = build_phases(config["schedule"]["phases"])
    data, ood = load_data(config, trust=trust), make_ood(config, trust=trust)
    config = {**config, "data": facts_of(data, ood)}
    seed = config["seed"]

    def fresh(settings: Mapping[str, Any], purpose: str) -> nn.Module:
        seed_from(seed, purpose)
        return make_net(settings, trust=trust)

    dense = DenseNet(config["model"], make=fresh, example=data.example(), samples=data.samples_per_example)
    task = task_of(data)
    suits.check(dense, data, task, phases)
    method = named.build("method", config["method"], expects=Method, trust=trust)
    if method.narrows and settings.devices > 1:
        raise UserError(
            f"method={config['method']['name']} makes the net smaller while it trains, which works on one device; "
            f"use trainer.devices=1, got {settings.devices}"
        )
    job = Job(
        dense=dense,
        method=method,
        data=data,
        task=task,
        schedule=config["schedule"]["name"],
        phases=phases,
        seed=seed,
        folder=folder,
        basis=digest(identity(config)),
        settings=settings,
        dense_folder=lambda phase: dense_folder(config, vars(phase)),
        ood=ood,
        times_folder=Path(config["paths"]["outputs"]) / "latency",
        integers=make_integers(config, trust=trust),
        adversary=make_adversary(config.get("attack"), data, config["model"], trust=trust),
        listens_to=make_teacher(config, trust=trust),
        name=folder.parent.parent.name,
        logger={**config["logger"], "config": _for_loggers(config)},
    )
    net = dense.fresh("init")
    pretrained = config["model"].get("pretrained")
    if not pretrained:
        return job, net
    if any(phase.fresh for phase in phases) and not any(phase.pretrain for phase in phases):
        raise UserError(f"schedule={job.schedule} starts from random weights; leave out model.pretrained")
    fetch_weights(config)
    cache = Path(config["paths"]["outputs"]) / "weights"
    found = load_foreign(net, pretrained, sha256=config["model"].get("pretrained_sha256"), cache=cache)
    job.pretrained = True
    job.pretrained_from = {"source": Path(found.source).name, "sha256": found.sha256, "unwrapped": found.unwrapped}
    return job, net


def _for_loggers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The run's configuration without the places of this machine."""
    return {key: value for key, value in config.items() if key not in ("logger", "paths")}


def make_teacher(config: Mapping[str, Any], *, trust: bool = True) -> Teacher | None:
    """Whom the net learns from (config group ``teacher``), None without."""
    settings = config.get("teacher")
    return None if settings is None else named.build("teacher", settings, expects=Teacher, trust=trust)


def make_ood(config: Mapping[str, Any], *, trust: bool = True) -> ImageData | None:
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
    data: ImageData = named.build("ood", settings, expects=ImageData, trust=trust)
    _set_up(data, config, "ood")
    return data


def make_integers(config: Mapping[str, Any], *, trust: bool = True) -> StaticInt8 | None:
    """What the config group ``quantize`` makes of exported nets, None without.

    Raises:
        UserError: the run's data are no pictures, or an option is outside its values.
    """
    settings, own = config.get("quantize"), config["dataset"]
    if settings is None:
        return None
    if "in_channels" not in own:
        raise UserError(f"quantize exports nets for pictures, and dataset={own['name']} has none; leave quantize out")
    found: StaticInt8 = named.build("quantize", settings, expects=StaticInt8, trust=trust)
    return found
