"""What a cut was asked for beside what it has achieved, in words: for the log, the warnings and the closing table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET_TOLERANCE = 0.01
"""A target missed by more than this fraction of it (or the method's own ``tolerance``) is ``missed_target``."""
KNOBS = "method.round_to, method.min_channels and the layers that stay whole"
RATIO_TOLERANCE = 0.05
"""A share of channels may differ by so much from what a ratio asks: each layer rounds to whole channels."""

SIZES = {"macs": " of the MACs", "params": " of the parameters", "latency": " of the time"}
"""What a target is a share of, by ``target_of``."""


def missed_target(achieved: Mapping[str, Any]) -> bool:
    """Whether a target was given and not met; a net that takes less time than it may has met it."""
    above = _above_target(achieved)
    return above > 0 or (above < 0 and achieved.get("target_of") != "latency")


def _above_target(achieved: Mapping[str, Any]) -> float:
    """By how much a target is missed upwards, or below 0 downwards; 0 within its tolerance, or without one."""
    target = achieved.get("target")
    if not target:
        return 0.0
    above = achieved["reached"] - target
    return float(above) if abs(above) > achieved.get("tolerance", TARGET_TOLERANCE * target) else 0.0


def beside(achieved: Mapping[str, Any]) -> list[str]:
    """What was asked and what came out, one line each.

    Args:
        achieved: ``budget`` of a result; see :class:`prunebench.budget.Choice`.
    """
    found = []
    if achieved.get("target") and achieved.get("reached") is not None:
        size = SIZES.get(achieved.get("target_of", ""), "")
        busy = f" (times varied by {achieved['noise']:.0%}: the machine was busy)" if achieved.get("noise") else ""
        found.append(f"target: {achieved['target']:.2%}{size} asked, {achieved['reached']:.2%} reached{busy}")
    asked, kept = achieved.get("channels_asked"), achieved.get("channels_kept")
    if asked is not None and kept is not None:
        found.append(f"channels removed: {1 - asked:.2%} asked, {1 - kept:.2%} achieved")
    if achieved.get("layers_whole"):  # only of methods that choose channels
        cut = achieved["layers_cut"]
        found.append(f"layers cut: {cut} of {cut + achieved['layers_whole']}")
    if achieved.get("tied"):
        found.append(f"ties: {achieved['tied']} gates are equal at the threshold, the seed draws which of them stay")
    return found


def shortfalls(achieved: Mapping[str, Any]) -> list[str]:
    """Those lines of :func:`beside` that somebody must see, with what to look at."""
    found = []
    lines = {line.partition(":")[0]: line for line in beside(achieved)}
    if missed_target(achieved):
        timed = achieved.get("target_of") == "latency"
        where = "whether the machine was busy, " if timed and not achieved.get("noise") else ""
        found.append(f"{lines['target']}; look at {where}{KNOBS}")
    elif _above_target(achieved):
        found.append(f"{lines['target']}; it is faster than asked: none of the widths looked at comes nearer")
    asked, kept = achieved.get("channels_asked"), achieved.get("channels_kept")
    if asked is not None and kept is not None and abs(asked - kept) > RATIO_TOLERANCE:
        line, free = lines["channels removed"], achieved.get("free_channels")
        if free and free["num_kept"]:
            found.append(f"{line}; method.free_channels keeps {free['num_kept']} channels that cost no time here")
        else:
            more = "each layer rounds to whole channels (method.count), and equal scores go together"
            less = "method.round_to, method.min_channels and method.protect keep channels"
            found.append(f"{line}; {less if kept > asked else more}")
    found += [line for name, line in lines.items() if name == "ties"]
    if achieved.get("layers_whole", 0) > achieved.get("layers_cut", 0):
        found.append(f"{lines['layers cut']}; not_pruned in result.json says why the others stay whole")
    return found
