"""What is wrong with a command line, in one sentence: before Hydra reads it, and what Hydra refused."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from prunebench.config.groups import GROUPS, MAY_LACK, conf_folder, options
from prunebench.errors import UserError, nearest


def refuse_flags(arguments: Sequence[str]) -> None:
    """Refuse what Hydra's own reader of flags would answer with its usage, and numbers that Python does not read.

    Raises:
        UserError: an unknown flag, a flag without its companion, a number of thousands of digits.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        known, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; python -m prunebench --help shows what there is") from None
    for word in rest:
        if word.startswith("-"):
            raise UserError(f"{word} is no flag{nearest(word, parser._option_string_actions)}")
        raise UserError(f"{word} stands behind a flag and other options before it; put the flags behind all options")
    if known.resolve and not known.cfg:
        raise UserError("--resolve belongs to --cfg job, which prints the configuration and runs nothing")
    for word in arguments:
        _refuse_value(word)


def _refuse_value(word: str) -> None:
    """Refuse ``key=value`` where Hydra's answer would be a traceback."""
    key, _, value = word.partition("=")
    if key in GROUPS and value == "null":
        raise UserError(
            f"{key}=null: " + ("leave it out" if key in MAY_LACK else f"it can be {', '.join(options(key))}")
        )
    limit = sys.get_int_max_str_digits()
    if limit and (number := re.search(rf"\d{{{limit + 1},}}", word)):
        digits = len(number.group())
        raise UserError(f"{key[:60]} has a number of {digits} digits, of which Python reads {limit} at most")


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """One sentence for what Hydra or OmegaConf refused, with the nearest names."""
    text = str(error)
    missing = re.search(r"Could not find '(\w+)/([^']+)'", text) or re.search(
        r"In '[^']*': Could.* '(\w+)/([^']+)'", text
    )
    if missing:
        group, word = missing.groups()
        known = options(group)
        return f"{group}={word} is unknown; it can be {', '.join(known)}{nearest(word, known)}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        word = key.group(1).split("@")[0]
        if "." not in word:
            return f"{word} is no config group or key{nearest(word, [*GROUPS, 'seed', 'latency'])}"
        known_here = known_keys(arguments)
        if word in known_here:
            removed = [argument for argument in arguments if argument.startswith("~")]
            return f"the key {word} is set here and taken away by {', '.join(removed)}"
        return f"the key {word} is unknown{nearest(word, known_here)}"
    return " ".join(line.strip() for line in text.splitlines()[:3] if line.strip())


def known_keys(arguments: Sequence[str]) -> list[str]:
    """All keys of the configuration that the group choices among ``arguments`` give."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    choices = [a for a in arguments if a.split("=")[0] in GROUPS and "," not in a]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=choices), resolve=False)
    return list(_flat(config, ""))


def _flat(value: Any, prefix: str) -> list[str]:
    if not isinstance(value, dict):
        return [prefix]
    return [name for key, item in value.items() for name in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
