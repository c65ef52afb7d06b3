"""What somebody may have meant: the whole key of which a word is the last part, the group that has such an option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prunebench.config.groups import GROUPS, options
from prunebench.errors import nearest

TOP = (*GROUPS, "experiment", "seed", "recipe", "latency", "objective")
"""Words of a command line that are in no group."""
SURE = 0.75
"""Likeness of two words, in [0, 1], from which one is the other one misspelt; less is a guess."""
_MAX = 4
_PHASE = re.compile(r"^schedule\.phases\.(\w+)\.")
_UNSET = ("_target_", "recipe", "checkpoints")
"""Parts of keys that nobody sets by hand."""


def flat_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration as plain data."""
    if not isinstance(value, Mapping):
        yield prefix
        return
    for key, item in value.items():
        yield from flat_keys(item, f"{prefix}.{key}" if prefix else str(key))


def meant_key(word: str, known: Iterable[str], top: Sequence[str] = TOP) -> str:
    """The keys that ``word`` may stand for, as ``'; did you mean …?'``, else an empty text.

    Args:
        word: a key, or the last part of one.
        known: dotted keys.
        top: words without a dot that are keys as well.
    """
    known = list(known)
    ends: dict[str, list[str]] = {}
    for key in known:
        if "." in key and not set(key.split(".")) & set(_UNSET):
            ends.setdefault(key.rpartition(".")[2], []).append(key)
    last = word.rpartition(".")[2]
    if last in ends:
        return _told(ends[last])
    if "." in word:
        return nearest(word, [key for key in known if not key.endswith("._target_")])
    sure = difflib.get_close_matches(word, [*top, *ends], n=2, cutoff=SURE)
    if sure:
        return _told([key for name in sure for key in ([name] if name in top else ends[name])])
    return nearest(word, top)


def _told(keys: Iterable[str]) -> str:
    """``keys`` with all phases of a schedule as one."""
    keys = list(keys)
    phases = list(dict.fromkeys(found[1] for key in keys if (found := _PHASE.match(key))))
    if len(phases) > 1:
        keys = [_PHASE.sub("schedule.phases.<phase>.", key) for key in keys]
    several = f" (<phase> is {', '.join(phases[:-1])} or {phases[-1]})" if len(phases) > 1 else ""
    return f"; did you mean {' or '.join(list(dict.fromkeys(keys))[:_MAX])}?{several}"


def meant_option(word: str, more: Mapping[str, Iterable[str]] | None = None) -> str:
    """The same for a word without ``=``: ``fpgm`` may be ``method=fpgm``.

    Args:
        more: further words that take a value -> what it can be.
    """
    if word in GROUPS:
        return f"; did you mean {word}={next(iter(options(word)))}, or another {word}?"
    groups: dict[str, Iterable[str]] = {**{group: options(group) for group in GROUPS}, **(more or {})}
    named: dict[str, list[str]] = {}
    for group, names in groups.items():
        for name in names:
            named.setdefault(name, []).append(f"{group}={name}")
    near = [word] if word in named else difflib.get_close_matches(word, named, n=2, cutoff=SURE)
    found = [pair for name in near for pair in named[name]]
    return f"; did you mean {' or '.join(found)}?" if found else ""
