"""A command line with ``-m``, so that Hydra composes each of its jobs, and a job without the keys of the others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from prunebench.cli.mistakes import group_options, known_keys, refuse_replaced
from prunebench.cli.objective import directed, searched
from prunebench.cli.suggest import meant_key
from prunebench.config.groups import GROUPS
from prunebench.errors import STOPPED, UserError

_FORCED = "++"


def composable(arguments: Sequence[str]) -> list[str]:
    """``arguments``, rewritten where a job of their sweep would lack a key that they set.

    Raises:
        UserError: no job has such a key, or there is no job.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    refuse_replaced(arguments)
    for argument in arguments:
        _refuse_number(argument, arguments)
    return directed(swept_with_options(swept_with_rows(arguments)))


def swept_with_rows(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of a sweep over rows, with ``key.path=value`` as ``key.path=choice(value)``.

    Hydra first composes a sweep without what is swept. The keys of a row's schedule or method do not exist there and
    would be refused; as sweeps of one value they reach each row.
    """
    if not any(a.startswith("experiment=") for a in arguments):
        return list(arguments)
    found = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        nested = "." in key and not key.startswith(("hydra.", "+", "~", "-"))
        found.append(f"{key}=choice({value})" if nested and _swept(argument) == [] else argument)
    return found


def swept_with_options(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of a sweep over the options of a group, with the keys that only some of them have forced.

    Hydra would refuse the whole sweep for the first option without the key; :func:`applicable` takes it away there.

    Raises:
        UserError: no option has the key.
    """
    swept = {group: _swept(a) for a in arguments if (group := a.partition("=")[0]) in GROUPS}
    found = []
    for argument in arguments:
        key = argument.partition("=")[0]
        group = key.partition(".")[0]
        if "." in key and (names := swept.get(group)):
            keys = [known_keys([*arguments, f"{group}={name}"]) for name in names]
            have = [_has(key, known) for known in keys]
            if not any(have):
                several = " or ".join(f"{group}={name}" for name in names)
                near = meant_key(key, [name for known in keys for name in known])
                raise UserError(f"the key {key} is unknown to {several}{near}")
            if not all(have):
                argument = f"{_FORCED}{argument}"
        found.append(argument)
    return found


def _refuse_number(argument: str, arguments: Sequence[str]) -> None:
    """Refuse a sweep over nothing, of which Hydra would run no job without a word, and one without an end.

    Args:
        argument: one of the ``arguments``.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, RangeSweep
    from hydra.errors import HydraException

    from prunebench.cli import progress

    try:
        override = OverridesParser.create().parse_override(argument)
        value = override.value() if override.is_sweep_override() else None
        if isinstance(value, Glob) and override.key_or_group in GROUPS:
            names = group_options(override.key_or_group, arguments)
            if not value.filter(names):
                raise UserError(f"{argument} fits none of {', '.join(names)}")
        elif isinstance(value, RangeSweep) and progress.range_length(value) > progress.MAX_JOBS:
            raise UserError(f"{argument} has more than {progress.MAX_JOBS:,} values")
        elif override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator()):
            raise UserError(f"{argument} sweeps over nothing")
    except HydraException:
        return  # Hydra will say what is wrong with it


def as_given(overrides: Sequence[str]) -> list[str]:
    """The words of a job; their interpolations are of the run's configuration, not of Hydra's, which lists them."""
    found: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(found)


def applicable(cfg: DictConfig, overrides: Sequence[str], own: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The ``overrides`` of one job that its options have keys for, and the others, which are taken out of ``cfg``.

    Args:
        cfg: of the job.
        overrides: of the job.
        own: see :func:`own_folder`.
    """
    forced = [word for word in overrides if word.startswith(_FORCED)]
    known = known_keys([*overrides, *own]) if forced else []
    left_out = [word for word in forced if not _has(_key(word), known)]
    with open_dict(cfg):
        for word in left_out:
            _take_out(cfg, _key(word))
    return [word for word in overrides if word not in left_out], [word.removeprefix(_FORCED) for word in left_out]


def _key(word: str) -> str:
    return word.removeprefix(_FORCED).partition("=")[0]


def _has(key: str, known: Sequence[str]) -> bool:
    """Whether ``key`` is a value or a table of a configuration with the keys ``known``."""
    return any(name == key or name.startswith(f"{key}.") for name in known)


def own_folder() -> list[str]:
    """The words with which each job finds the user's own configuration files, if the sweep was given some."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources
    return [word for source in sources if source.provider == "command-line" for word in ("--config-dir", source.path)]


@contextlib.contextmanager
def sweeping(arguments: Sequence[str]) -> Iterator[None]:
    """Around a whole command: where it is a sweep, its jobs are counted, and the closing table comes at the end."""
    if not {"-m", "--multirun"} & set(arguments):
        yield
        return
    from prunebench.cli import progress

    _PLAN[:] = [progress.plan(arguments)]
    total, keys = _PLAN[0]
    with progress.sweep(searched(arguments), keys, total):
        yield


_PLAN: list[tuple[int | None, set[str]]] = [(None, set())]
"""Of the sweep in progress; a launcher's other processes know nothing of it."""
_STARTED: list[float] = []
"""When each job that this process has run was started."""


def one_of_many(
    overrides: Sequence[str], left_out: Sequence[str], config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Run a job of a sweep in a process of its own, if it is not complete, and say so in three lines; its result.

    A process per run: no environment, seed, thread or memory leaks from one row into the next.

    Args:
        overrides: of the job. ``left_out``: those that have no key in it.
        config: resolved. ``folder``: of the run.

    Raises:
        UserError: the job failed, or was stopped.
    """
    from hydra.core.hydra_config import HydraConfig

    from prunebench.cli import progress, worker
    from prunebench.core.result import is_complete, read_result
    from prunebench.run.replaced import forced
    from prunebench.run.sweep_record import job_environment

    number, (total, keys) = int(HydraConfig.get().job.num), _PLAN[0]
    trained = len(_STARTED)
    differing = [word for word in overrides if _key(word) in keys] or overrides
    progress.begin(number, total, differing, started=_STARTED[0] if trained else 0.0, trained=trained)
    for word in left_out:
        print(f"{word} is left out: no such key here", flush=True)
    if is_complete(folder) and not forced():
        result = read_result(folder)
        progress.end(folder, result, again=True)
        return result
    _STARTED.append(time.monotonic())
    words, environment = [*overrides, *own_folder()], {**job_environment(), progress.BRIEF: "1"}
    if worker.fits(config["trainer"]):
        code = worker.run(words, environment)
    else:
        code = worker.run_anew(words, environment)
    if code in STOPPED:  # by whoever runs the machine, or at the end of its time: there is no result to look at
        raise UserError(f"a job of the sweep was stopped: {' '.join(overrides)}; the same command goes on from here")
    if code:
        progress.note(folder)
        print(f"  failed, see {folder}", flush=True)
        raise UserError(f"a job of the sweep failed: {' '.join(overrides)} (see {folder})")
    result = read_result(folder)
    progress.end(folder, result)
    return result


def _take_out(cfg: DictConfig, key: str) -> None:
    """Delete ``key``, and the tables above it that are empty then."""
    table: DictConfig | None = None
    while key and not table:
        above, _, last = key.rpartition(".")
        table = OmegaConf.select(cfg, above) if above else cfg
        del table[last]
        key = above


def _swept(argument: str) -> list[str] | None:
    """The values that ``argument`` sweeps over, none if it does not; None if Hydra cannot read it or has other ones."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(argument)
        if not override.is_sweep_override():
            return []
        return list(map(str, override.sweep_string_iterator())) if override.is_choice_sweep() else None
    except HydraException:
        return None  # Hydra will say what is wrong with it, or knows the values later
