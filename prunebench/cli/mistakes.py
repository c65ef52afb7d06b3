"""What is wrong with a command line, in one sentence: before Hydra reads it, and what Hydra refused."""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from prunebench.cli.extras import PACKAGES, needed
from prunebench.cli.suggest import flat_keys, meant_key, meant_option
from prunebench.config.groups import GROUPS, MAY_LACK, conf_folder, options
from prunebench.errors import UserError, first_line, in_words, nearest

RATIO = "method.prune_ratio"
REPLACE_RATIO = tuple(
    f"method.{key}" for key in ("target_macs", "target_params", "target_latency", "target_ms", "like")
)
"""Keys that replace the ratio in every method that has both."""
_COMPLETION = ("install", "uninstall", "query")
"""What Hydra's completion of the shell can be asked for."""


def refuse_flags(arguments: Sequence[str]) -> None:
    """Refuse what Hydra's own reader of flags would answer with its usage, and numbers that Python does not read.

    Raises:
        UserError: an unknown flag, a flag without its companion, a number of thousands of digits, bytes that are no
            text: no result could name them.
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
    asked = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(known, name)]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in asked)} exclude each other; give one of them")
    if known.resolve and not known.cfg:
        raise UserError("--resolve belongs to --cfg job, which prints the configuration and runs nothing")
    if known.shell_completion and not any(word.partition("=")[0] in _COMPLETION for word in known.overrides):
        raise UserError(f"--shell-completion needs one of {', '.join(f'{word}=bash' for word in _COMPLETION)}")
    for word in arguments:
        _refuse_value(word)


def _refuse_value(word: str) -> None:
    """Refuse ``key=value`` where Hydra's answer would be a traceback."""
    key, _, value = word.partition("=")
    if any("\ud800" <= letter <= "\udfff" for letter in word):  # how Python reads bytes that are no text
        raise UserError(f"{word} is not written in UTF-8; rename what it names")
    if not key:
        raise UserError(f"{word or 'an empty word'} is no key=value")
    limit = sys.get_int_max_str_digits()
    if limit and (number := re.search(rf"\d{{{limit + 1},}}", word)):
        digits = len(number.group())
        raise UserError(f"{key[:60]} has a number of {digits} digits, of which Python reads {limit} at most")
    group = key.lstrip("+")
    if "=" in word and key.startswith("~") and (group := key[1:]) in GROUPS:
        raise UserError(f"{word}: ~{group} takes the group away, whatever was chosen; leave out ={value}")
    if group in GROUPS and "=" in word and not _may_be_a_name(word):
        if value in ("", "null") and group in MAY_LACK:
            raise UserError(f"{word}: leave it out, or ~{group} where a method brings one")
        raise UserError(f"{word}: it can be {', '.join(options(group))}")


def refuse_replaced(words: Sequence[str]) -> None:
    """Refuse a ratio beside what replaces it, where the user asks for both.

    Raises:
        UserError: ``method.prune_ratio`` would have no effect.
    """
    given = {word.lstrip("+").partition("=")[0]: word for word in words if "=" in word and word[0] not in "~-"}
    # in a sweep one of the values may be null; each job is looked at by itself
    asked = {key: word for key, word in given.items() if "null" not in re.split(r"[=,(\[ )\]]", word)}
    ratio = asked.get(RATIO)
    for key in REPLACE_RATIO if ratio else ():
        if key in asked:
            raise UserError(
                f"{ratio} has no effect beside {asked[key]}: {key} says how much goes; leave out one of the two"
            )


def _may_be_a_name(word: str) -> bool:
    """Whether Hydra reads the value of ``group=value`` as a text, or as something that holds texts."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # it will say why it cannot be read
        return True
    value = override.value()
    several = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
    return isinstance(value, Glob) or all(isinstance(item, str | QuotedString) and item for item in several)


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """One sentence for what Hydra or OmegaConf refused, with the nearest names."""
    from hydra.errors import OverrideParseException

    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if swept := re.search(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{swept[1]} are several values: with -m before all else a run is made of each"
    if severals := re.search(r"Ambiguous value for argument '(.*)'$", text, re.MULTILINE):
        key, _, values = severals[1].partition("=")
        as_list = f"; a list is {key}=[{values}]" if "." in key else ""
        return f"{severals[1]} are several values: with -m before all else a run is made of each{as_list}"
    if missing := re.search(r"Could not find '(.+)/([^'/]*)'", text):
        group, word = missing.groups()
        known = list(options(group) or getattr(error, "options", None) or [])
        if needs := needed(group, word, known):
            return needs
        return f"{group}={word} is unknown; it can be {', '.join(known)}{nearest(word, known)}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        word = key.group(1).split("@")[0]
        if "/" in word:
            part_of = next((group for group in PACKAGES if word.startswith(f"{group}/")), "")
            hint = f"; it belongs to {part_of}={' or '.join(PACKAGES[part_of])}" if part_of else ""
            return f"{word} is no config group{hint}"
        known_here = known_keys(arguments)
        if "." not in word:
            return f"{word} is no config group or key{meant_key(word, known_here)}"
        if inside := [name for name in known_here if name.startswith(f"{word}.")]:
            return f"{word} is a table and stays one; set {' or '.join(inside[:3])}"
        if word in known_here:
            removed = [argument for argument in arguments if argument.startswith("~")]
            return f"the key {word} is set here and taken away by {', '.join(removed)}"
        return f"the key {word} is unknown{meant_key(word, known_here)}"
    if there := re.search(r"An item is already at '([^']+)'", text):
        return f"the key {there[1]} is there already; leave out the +"
    if merged := re.match(r"Error merging override (.*)", text):
        cause = f": {first_line(error.__cause__)}" if error.__cause__ else ""
        return f"{merged[1]} does not fit what is there{cause}"
    lines = [line.strip() for line in text.partition("Config search path")[0].splitlines() if line.strip()]
    return " ".join(lines[:3]) or in_words(error)


def of_hydra(error: Exception) -> bool:
    """Whether Hydra has failed on a command line by itself: it was called, and has not called us."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    begin = next((i for i, name in enumerate(modules) if name.startswith("hydra.")), len(modules))
    return begin < len(modules) and not any(name.startswith("prunebench.") for name in modules[begin:])


def _unreadable(word: str) -> str:
    """Why Hydra could not read ``word``, and how it can."""
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word or 'an empty word'} is no key=value{meant_option(word)}"
    if not re.fullmatch(r"[+~]*([\w.-]+|[\w/@-]+)", key):
        return f"{word} cannot be read: {key} is no name of a key"
    example = '["…"]' if value.startswith("[") else f'"{value}"'
    return (
        f"{word} cannot be read; a text with signs such as = ~ [ or letters beyond ASCII stands in quotes of its own, "
        f"inside those of the shell: '{key}={example}'"
    )


def config_dir(arguments: Sequence[str]) -> Path | None:
    """The user's own folder of configuration files, ``--config-dir``."""
    from hydra._internal.utils import get_args_parser

    own = get_args_parser().parse_known_args(list(arguments))[0].config_dir
    return Path(own).resolve() if own else None


def group_options(group: str, arguments: Sequence[str]) -> list[str]:
    """What ``group`` can be, the user's own files included."""
    own = config_dir(arguments)
    mine = {path.stem for path in (own / group).glob("*.yaml")} if own else set()
    return sorted({*options(group), *mine})


def known_keys(arguments: Sequence[str]) -> list[str]:
    """All keys of the configuration that the group choices among ``arguments`` give, the user's own files included."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    choices = [a for a in arguments if a.split("=")[0] in GROUPS and not re.search("[,(]", a)]
    if own := config_dir(arguments):
        choices.append(f'hydra.searchpath=["file://{own}"]')
    running = GlobalHydra.instance()
    outer, running.hydra = running.hydra, None  # a job of a sweep asks too, and Hydra composes it
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = OmegaConf.to_container(compose("config", overrides=choices), resolve=False)
    finally:
        running.hydra = outer
    return list(flat_keys(config))
