"""Where in the net's code an operation or an error is, for messages."""

from __future__ import annotations

import re
import traceback
from functools import cache
from pathlib import Path

import torch
from torch import fx, nn


def where(node: fx.Node) -> str:
    """``" at file:line"`` of the net's code, or an empty string where it is unknown."""
    places = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(path, line) for path, line in places if not is_ours(path)]
    return f" at {_short(own[-1][0])}:{own[-1][1]}" if own else ""


def describe(node: fx.Node, net: nn.Module) -> str:
    """What a node is, for a message: the class and path of a module, or the name of a function, and the line."""
    if node.op == "call_module":
        return f"{type(net.get_submodule(str(node.target))).__name__} '{node.target}'{where(node)}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"'{name}'{where(node)}"


def owner(node: fx.Node) -> str:
    """Path of the module whose forward has this operation, empty for the net itself."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module" and paths and paths[-1] == node.target:
        paths.pop()
    return paths[-1] if paths else ""


def place_of(error: BaseException) -> str:
    """``file:line`` of the innermost frame that is the net's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_ours(frame.filename)]
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else "its forward"


@cache
def is_ours(path: str) -> bool:
    """Whether a source file is torch's or this package's, not the net's."""
    places = (Path(torch.__file__).parent, Path(__file__).parent)
    return path.startswith("<") or any(place in Path(path).parents for place in places)


def _short(path: str) -> str:
    """Relative to the working directory where the file lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if here in Path(path).parents else path
