"""From what Hydra has composed to plain, complete data; what no constructor sees is checked here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from prunebench.cli import objective
from prunebench.cli.mistakes import refuse_replaced
from prunebench.cli.named_weights import with_weights
from prunebench.cli.suggest import flat_keys, meant_key
from prunebench.config import recipes
from prunebench.config.groups import FROM_RUNS, GROUPS, MAY_LACK, RUN_FOLDERS, asked_of_data, fitting
from prunebench.config.plain_values import check_values
from prunebench.disk.paths import local, user_path
from prunebench.errors import UserError
from prunebench.nets.spec import NAME
from prunebench.rows.experiment import GROUP as EXPERIMENT
from prunebench.rows.experiment import settle

NAMED = ("method", "model", "dataset", "schedule", "logger")
"""Groups whose ``name`` stands in folders and results."""

UNNAMED = "custom"
"""Name of a net that its user has not named."""

SAVED_NETS = (Path("model") / "weights.safetensors", Path("weights.safetensors"))
"""Where a finished run keeps the weights of its net, and where runs keep the whole nets that they share
(``outputs/dense``), see :mod:`prunebench.nets.package` and :mod:`prunebench.disk.finished`."""

PLAIN = ("seed", "recipe", "row", "latency", objective.KEY)
"""Keys beside the groups."""


def resolve(cfg: Any, given: Iterable[str] = ()) -> tuple[dict[str, Any], str]:
    """The configuration as plain data and as YAML: resolved, complete, paths absolute.

    Args:
        cfg: as Hydra composed it.
        given: what the user asked for, ``key=value``.

    Raises:
        UserError: a group or a mandatory value is missing, groups do not fit each other, the seed is no whole number.
    """
    recipes.register()
    given = list(given)
    refuse_replaced(given)
    _check_groups(cfg)
    recipes.check(cfg)
    try:
        recipes.refuse_overruled(cfg, given)
        _check_fit(cfg)
        cfg = with_weights(cfg, given)
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key or 'a value'} must be given, for example {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        reason, *facts = str(error).splitlines()
        place = error.full_key or next((fact.split()[-1] for fact in facts if "full_key:" in fact), "")
        raise UserError(f"{place}{place and ': '}{reason}") from None
    assert isinstance(config, dict)
    objective.asked(config.pop(objective.KEY, None))  # of the sweep, not of its runs
    check_values(config)
    if config["model"]["name"] == UNNAMED:  # two nets of one's own are not one net in folders and reports
        config["model"]["name"] = str(config["model"].get("_target_", UNNAMED)).rpartition(".")[2]
    if not NAME.fullmatch(str(config["model"]["name"])):
        raise UserError(
            f"model.name={config['model']['name']!s:.100} is no name of a file: it must not begin with a dot, hold a "
            "slash or have more than 100 letters"
        )
    config = settle(config)
    for key in ("data", "outputs"):
        config["paths"][key] = absolute(config["paths"][key], f"paths.{key}")
    # a file counts by its content, however it is named
    if (pretrained := local(config["model"].get("pretrained") or "")) and "://" not in pretrained:
        path = Path(absolute(pretrained, "model.pretrained"))
        saved = (path / name for name in SAVED_NETS if (path / name).is_file())
        config["model"]["pretrained"] = str(next(saved, path))
    for group in FROM_RUNS:
        settings = config.get(group) or {}
        for key in settings.get(RUN_FOLDERS) or ():
            if settings.get(key):
                settings[key] = absolute(str(settings[key]), f"{group}.{key}")
    return config, OmegaConf.to_yaml(OmegaConf.create(config))


def absolute(path: str, key: str) -> str:
    """``path``, the value of ``key``, from the root, see :func:`prunebench.disk.paths.user_path`."""
    try:
        return str(user_path(path).resolve())
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _check_groups(cfg: DictConfig) -> None:
    """Refuse a group, its name or its phases that were taken away or replaced by something else."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    if isinstance(raw.get(EXPERIMENT), dict):
        raise UserError(f"a file of {EXPERIMENT}s of your own begins with the line # @package _global_")
    if strange := sorted({*raw} - {*GROUPS, *PLAIN}):
        known = [key for key in flat_keys(raw) if key.partition(".")[0] not in strange]
        raise UserError(f"the key {strange[0]} is unknown{meant_key(strange[0], known)}")
    for group in GROUPS:
        if not isinstance(raw.get(group), dict) and (group not in MAY_LACK or raw.get(group) is not None):
            raise UserError(f"{group} must be a group of options, got {raw.get(group)!r}; choose one with {group}=...")
    for group in NAMED:
        name = raw[group].get("name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{group}.name must be text, got {name!r}; it names folders and results")
    if not isinstance(raw["schedule"].get("phases"), dict):
        raise UserError(
            f"schedule.phases must be a table of phases, got {raw['schedule'].get('phases')!r}; "
            "choose a schedule, for example schedule=finetune"
        )
    for place, key in (*(("paths", key) for key in ("data", "outputs", "download")), ("", "seed"), ("", "latency")):
        if key not in (raw[place] if place else raw):
            raise UserError(f"{place and place + '.'}{key} must be given; leave out ~{place and place + '.'}{key}")


def _check_fit(cfg: DictConfig) -> None:
    """Refuse what asks for facts that the data set does not have: a net for pictures on a text, foreign pictures."""
    asked = asked_of_data(OmegaConf.to_yaml(cfg.model))
    facts = {str(key) for key in cfg.dataset}  # those too that only the user knows and has not given yet
    missing = sorted(asked - facts)
    if missing:
        side = OmegaConf.select(cfg, "dataset.size", throw_on_missing=False)
        nets, data = fitting(asked, facts, side=side if isinstance(side, int) else None, net=str(cfg.model.name))
        raise UserError(
            f"model={cfg.model.name} does not fit dataset={cfg.dataset.name}, which has no {missing[0]}; "
            f"to this data set fits model={', '.join(nets)}; to this net fits dataset={', '.join(data)}"
        )
    for group in MAY_LACK:
        if (settings := cfg.get(group)) is None:
            continue
        if missing := sorted(asked_of_data(OmegaConf.to_yaml(settings)) - facts):
            raise UserError(
                f"{group}={settings.get('name')} does not fit dataset={cfg.dataset.name}, which has no {missing[0]}; "
                f"leave {group} out"
            )
