"""What Hydra makes of a command line, and its refusals as sentences of ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from prunebench.cli.mistakes import config_dir, explain, of_hydra, refuse_flags
from prunebench.config.groups import conf_folder
from prunebench.errors import UserError, in_words


@contextlib.contextmanager
def in_a_sentence(arguments: Sequence[str]) -> Iterator[None]:
    """What Hydra and OmegaConf refuse of ``arguments`` inside becomes a ``UserError``, unless HYDRA_FULL_ERROR=1."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    traced = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if traced:
            raise
        if isinstance(error, HydraException | OmegaConfBaseException):
            raise UserError(explain(error, arguments)) from None
        if not of_hydra(error):
            raise
        if broken := _unreadable_file(arguments):
            raise UserError(broken) from None
        reason = in_words(error).partition("\n")[0]
        words = ", ".join(word for word in arguments if word.startswith("hydra"))
        raise UserError(
            f"Hydra cannot do this: {words and f'{words}: '}{reason}; HYDRA_FULL_ERROR=1 shows where"
        ) from None


def _unreadable_file(arguments: Sequence[str]) -> str:
    """Which of the user's own configuration files cannot be read, and why; nothing if all can."""
    from omegaconf import OmegaConf

    own, asked = config_dir(arguments), {word.rpartition("=")[2] for word in arguments}
    found = sorted(own.rglob("*.yaml"), key=lambda path: (path.stem not in asked, path)) if own else ()
    for path in found:
        try:
            OmegaConf.load(path)
        except RecursionError:
            return f"{path} cannot be read: it contains itself"
        except Exception as error:  # of YAML, of the encoding, of the file system
            return f"{path} cannot be read: {' '.join(str(error).split())}"
    return ""


def composed(arguments: Sequence[str]) -> Any:
    """The configuration that ``arguments``, each ``key=value``, choose; for a script that runs nothing through Hydra.

    Raises:
        UserError: what ``python -m prunebench`` would refuse of them.
    """
    from hydra import compose, initialize_config_dir

    from prunebench.config import recipes
    from prunebench.rows import register

    if flags := [word for word in arguments if word.startswith("-")]:
        raise UserError(f"{flags[0]} is no key=value")
    with in_a_sentence(arguments):
        refuse_flags(arguments)
        recipes.register()
        register(arguments)
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return compose("config", overrides=list(arguments))


def launchers() -> list[str]:
    """What ``hydra/launcher`` can be with what is installed."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # looks for them, and each adds its own
    return sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/launcher"))
