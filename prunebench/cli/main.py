"""The command line: the only code that knows Hydra. It composes a configuration, builds the objects and runs them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.cli.help import help_text
from prunebench.config.groups import conf_folder
from prunebench.errors import STOPPED, Terminated, UserError, refused, stopped

log = logging.getLogger("prunebench")
FORCE = "--force"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m prunebench``; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if FORCE in arguments:
        with forcing():
            return main([argument for argument in arguments if argument != FORCE])
    if any(argument in ("-h", "--help") for argument in arguments):
        return _help(arguments)
    if "--version" in arguments:
        from prunebench import __version__

        print(f"prunebench {__version__}")
        return 0
    _start_logging()
    from hydra import main as hydra_main

    from prunebench.cli.composition import in_a_sentence
    from prunebench.cli.mistakes import config_dir, refuse_flags
    from prunebench.cli.sweeps import composable, sweeping
    from prunebench.config import recipes
    from prunebench.rows import register
    from prunebench.run.replaced import forced
    from prunebench.run.sweep_record import MARK

    try:
        with in_a_sentence(arguments):
            # Hydra would print its own message and hide ours
            os.environ["HYDRA_FULL_ERROR"] = "1"
            refuse_flags(arguments)
            recipes.register()
            register(arguments, config_dir(arguments))
            sys.argv = [sys.argv[0], *composable(arguments)]
            with sweeping(sys.argv[1:]):
                hydra_main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(_job)()
    except (UserError, _Refused) as error:
        return refused(error)
    except KeyboardInterrupt as error:
        if os.environ.get(MARK):  # whoever has started this job and others says it once
            return STOPPED[isinstance(error, Terminated)]
        how = f"without {FORCE} the" if forced() else "the"
        return stopped(error, f"; {how} same command goes on from here")
    return 0


@contextlib.contextmanager
def forcing() -> Iterator[None]:
    """Complete runs are run again, see :mod:`prunebench.run.replaced`."""
    from prunebench.run.replaced import FORCED

    os.environ[FORCED] = "1"
    try:
        yield
    finally:
        del os.environ[FORCED]


class _Refused(BaseException):
    """A UserError of a single run on its way through Hydra, which would print a line of its own for an Exception."""


def _job(cfg: Any) -> Any:
    """Returns what a sweeper optimises, see :mod:`prunebench.cli.objective`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        return run(cfg)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the launcher goes on with the other jobs
        raise _Refused(str(error)) from None


def run(cfg: Any) -> Any:
    """One job of Hydra: print the stored row of a complete run, else run it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from prunebench.cli import objective
    from prunebench.cli.closing import show
    from prunebench.cli.progress import BRIEF
    from prunebench.cli.resolve import resolve
    from prunebench.cli.sweeps import applicable, as_given, one_of_many, own_folder
    from prunebench.config.identity import run_folder
    from prunebench.core.result import is_complete, read_result
    from prunebench.run.replaced import forced
    from prunebench.run.sweep_record import forget_missing_data

    log.disabled = False  # Hydra's logging set-up disables the loggers that exist before it
    overrides = as_given(HydraConfig.get().overrides.task)
    if several := HydraConfig.get().mode == RunMode.MULTIRUN:
        overrides, left_out = applicable(cfg, overrides, own_folder())
        metrics = objective.check(cfg, HydraConfig.get().sweeper)
    config, text = resolve(cfg, overrides)
    config = identified(config)
    forget_missing_data(config)
    folder = run_folder(config)
    if several:
        return objective.told(one_of_many(overrides, left_out, config, folder), metrics)
    if is_complete(folder) and not forced():
        print(f"already complete: {folder} ({FORCE} runs it again)")
        show(read_result(folder))
        return None
    result = execute(config, text, folder)
    if not os.environ.get(BRIEF):
        print(f"\n{folder / 'result.json'}")
        show(result)
    return None


def identified(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with what its data are, in a process that is set up to read and to train on them."""
    from prunebench.run import runtime

    runtime.limit_spinning()  # before torch starts its threads
    runtime.tune_allocator()  # before torch takes its first block

    from prunebench.run import assemble

    return assemble.identified(config)


def execute(config: Mapping[str, Any], text: str, folder: Path) -> dict[str, Any]:
    """Run ``config``; ``text`` is the same as YAML."""
    from prunebench.run import runner

    return runner.execute(config, text, folder)


def _help(arguments: list[str]) -> int:
    from prunebench.cli.explain import topics

    try:
        print("\n\n".join(topics(arguments)) or help_text())
    except UserError as error:
        return refused(error)
    return 0


def _start_logging() -> None:
    from prunebench.run.logs import for_the_screen

    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        if os.environ.get("PRUNEBENCH_BRIEF"):
            handler.setLevel(logging.WARNING)
        handler.addFilter(for_the_screen)
        log.addHandler(handler)
