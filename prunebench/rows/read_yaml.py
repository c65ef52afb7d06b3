"""The text of a rows file as plain data, read by libyaml where it is there: a report reads all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from prunebench.errors import UserError

# 1e-3 is a number, as in all other configurations; YAML 1.1 wants 1.0e-3
_EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain data only; a key that stands twice is a mistake."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"found duplicate key {key}{node.start_mark}")
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def read_rows(path: Path) -> dict[str, Any]:
    """The content of a rows file; nothing in it is interpolated, a row's text may hold anything.

    Raises:
        UserError: it cannot be read, or is no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a mapping, see the other rows files")
    return {str(key): value for key, value in content.items()}
