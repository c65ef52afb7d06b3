"""The configuration files as a user sees them: where they lie, the groups, their options.

Read as text, so that neither Hydra nor torch is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

MAY_LACK = ("ood", "attack", "quantize", "teacher")
"""Groups that a run may have none of."""
GROUPS = ("method", "model", "dataset", *MAY_LACK, "schedule", "trainer", "logger", "paths")

RUN_FOLDERS = "run_folders"
"""Key of a group of :data:`FROM_RUNS` with the names of its options that are folders of finished runs."""
FROM_RUNS = ("method", "attack", "teacher")
"""Groups whose options may be such folders."""

NOT_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "method": ("name", "recipe", "acts", "control", RUN_FOLDERS),
    "model": ("name", "recipe", "pretrained", "pretrained_sha256", "checkpoints"),
    "dataset": ("epochs", "recipe"),
    "ood": ("epochs", "recipe"),
    "quantize": ("name",),
    "attack": (RUN_FOLDERS, "usual"),
    "teacher": ("name", RUN_FOLDERS),
}
"""Keys of a group that its target does not get: they are for results, schedules, reports and weights."""

FROM_DATA: Mapping[str, tuple[str, ...]] = {"model": ("num_classes", "in_channels", "image_size")}
"""Facts of the data set among the keys of a group; only a target that knows them gets them."""


def conf_folder() -> Path:
    """The configuration files: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def options(group: str, root: Path | None = None) -> dict[str, str]:
    """Option name → its one-line description, for one config group."""
    folder = (root or conf_folder()) / group
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        found[path.stem] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def asked_of_data(text: str) -> set[str]:
    """The facts of the data set that the configuration ``text`` of a net asks for, ``${dataset.<fact>}``."""
    return set(re.findall(r"\$\{dataset\.(\w+)\}", text))


def smallest_side(text: str) -> int:
    """The smallest side in pixels of the pictures that the net of the file ``text`` takes; 0 where none is stated."""
    found = re.search(r"^#.*needs images of (\d+)x\1 pixels or more", text)
    return int(found[1]) if found else 0


def fitting(asked: set[str], given: set[str], *, side: int | None = None, net: str = "") -> tuple[list[str], list[str]]:
    """The nets that a data set with the facts ``given`` has all facts for, and the data sets with all those ``asked``.

    The user's own net, whose target is still to be given, is none of them. A data set whose pictures must be enlarged
    for the net stands with how.

    Args:
        side: of the data set's pictures in pixels; nets that need larger ones do not fit.
        net: name of the net that asks.
    """
    read = {group: _texts(group) for group in ("model", "dataset")}
    nets = [
        name
        for name, text in read["model"].items()
        if asked_of_data(text) <= given
        and "_target_: ???" not in text
        and (side is None or smallest_side(text) <= side)
    ]
    needed = smallest_side(read["model"].get(net, ""))
    data = []
    for name, text in read["dataset"].items():
        sides = _sides(text)
        if asked <= set(re.findall(r"^(\w+):", text, re.MULTILINE)) and max(sides, default=needed) >= needed:
            larger = min((one for one in sides if one >= needed), default=needed)
            data.append(name if not sides or sides[0] >= needed else f"{name} (dataset.size={larger})")
    return nets, data


def _sides(text: str) -> list[int]:
    """The sides in pixels that pictures of a data set can have, by its file: as they are, then enlarged."""
    line = re.search(r"^size: (\d+.*)$", text, re.MULTILINE)
    return [int(number) for number in re.findall(r"\d+", line[1])] if line else []


def _texts(group: str) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((conf_folder() / group).glob("*.yaml"))}


def controls(root: Path | None = None) -> dict[str, str]:
    """Methods whose configuration calls them a control that others are compared with -> its kind (``control: <kind>``).

    Read as text, so that neither Hydra nor torch is needed.
    """
    found = {}
    for path in sorted(((root or conf_folder()) / "method").glob("*.yaml")):
        line = re.search(r"^control: *(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if line:
            found[path.stem] = line.group(1)
    return found
