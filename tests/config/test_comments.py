"""Every value of the configuration is explained where it stands, and every file says in its first line what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from prunebench.config.groups import conf_folder

DATA = conf_folder() / "rows"  # the rows of the papers are no settings
FILES = sorted(path for path in conf_folder().glob("*/**/*.yaml") if DATA not in path.parents)


def unexplained(text: str) -> list[str]:
    """The lines with a value and no comment, neither at their end nor as the line above.

    One comment at the head of ``recipe`` is enough for the block; a head of any other block needs none, but for the
    phases of a schedule. ``defaults`` names other files.
    """
    lines = text.splitlines()

    def explained(number: int) -> bool:
        # the first line is the description of the file and explains no value
        return " #" in lines[number] or (number > 1 and lines[number - 1].lstrip().startswith("#"))

    def walk(node: yaml.MappingNode, parents: tuple[str, ...]) -> Iterator[int]:
        for key, value in node.value:
            number, path = key.start_mark.line, (*parents, key.value)
            is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
            if path == ("defaults",) or (path == ("recipe",) and explained(number)):
                continue
            if (not is_block or parents == ("phases",)) and not explained(number):
                yield number
            if is_block:
                yield from walk(value, path)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return [lines[number] for number in walk(root, ())]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_value_has_a_comment(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert unexplained(text) == []


def test_a_value_without_a_comment_is_found() -> None:
    text = """# a file
name: x
good: 1  # how many
# what it is
above: 2
colour: "#fff"
block:
  inside: 3
phases:
  train:
    lr: 0.1  # peak
recipe:  # the paper's
  any: {epochs: 3}
"""
    assert unexplained(text) == ["name: x", 'colour: "#fff"', "  inside: 3", "  train:"]
    bare = "# a file\nrecipe:\n  any: {epochs: 3}\n"
    assert unexplained(bare) == ["  any: {epochs: 3}"]
