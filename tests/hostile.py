"""Settings from somebody who wants a program to run: ways to name one, each of which leaves a mark if it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CANARY = """
from pathlib import Path
from torch import nn

MARK = Path({mark!r})
MARK.touch()  # imported


def net(*args, **kwargs) -> nn.Module:
    MARK.touch()
    return nn.Identity()


class Net(nn.Module):
    def __init__(self, *args, **kwargs):
        MARK.touch()
        super().__init__()
"""


@contextmanager
def canary(folder: Path) -> Iterator[Path]:
    """The path of a mark that exists once the module ``canary_nets`` is imported or one of the programs is started."""
    mark = folder / "mark"
    (folder / "canary_nets.py").write_text(CANARY.format(mark=str(mark)), encoding="utf-8")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield mark
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("canary_nets", None)


def targets(mark: Path) -> list[dict[str, Any]]:
    """Settings with a ``_target_`` that touch ``mark`` where they are called."""
    code = f"open({str(mark)!r}, 'w')"
    inner = {"_target_": "canary_nets.net"}
    direct: list[dict[str, Any]] = [{"_target_": f"canary_nets.{name}"} for name in ("net", "Net")]
    programs: list[dict[str, Any]] = [
        {"_target_": "os.system", "command": f"touch {mark}"},
        {"_target_": "posix.system", "command": f"touch {mark}"},
        {"_target_": "os.mkdir", "path": str(mark)},
        {"_target_": "subprocess.run", "args": ["touch", str(mark)]},
        {"_target_": "subprocess.check_output", "args": ["touch", str(mark)]},
        {"_target_": "builtins.exec", "source": code},
        {"_target_": "builtins.eval", "source": code},
        {"_target_": "builtins.open", "file": str(mark), "mode": "w"},
        {"_target_": "pathlib.Path.touch", "self": str(mark)},
        {"_target_": "importlib.import_module", "name": "canary_nets"},
        {"_target_": "runpy.run_module", "mod_name": "canary_nets"},
        {"_target_": "timeit.timeit", "stmt": code, "number": 1},
    ]
    through: list[dict[str, Any]] = [
        {"_target_": "prunebench.config.named.build", "where": "model", "settings": inner},
        {"_target_": "prunebench.config.named.find", "path": "canary_nets.net", "what": "a net"},
        {"_target_": "prunebench.config.named.arguments", "group": "model", "settings": inner},
        {"_target_": "prunebench.nets.dense_net.make_net", "settings": inner},
        {"_target_": "prunebench.nets.package.make_net", "settings": inner},
        {"_target_": "prunebench.surgery.rebuild.build", "where": "x", "settings": inner, "trust": True},
        {"_target_": "prunebench.disk.atomic.write_text", "path": str(mark), "text": ""},
        {"_target_": "hydra.utils.instantiate", "config": inner},
        {"_target_": "torch.nn.utils.skip_init", "module_cls": "canary_nets.Net"},
        {"_target_": "torch.nn.modules.module.importlib.import_module", "name": "canary_nets"},
        {"_target_": "prunebench.models.canary_nets.net"},
        {"_target_": "prunebench.models.resnet_cifar.torch.hub.load", "repo_or_dir": str(mark.parent)},
        {"_target_": ".canary_nets.net"},
        {"_target_": "canary_nets..net"},
        {"_target_": "canary_nets"},
        {"_target_": "prunebench.models.resnet_cifar._block"},
        {"_target_": ["canary_nets", "net"]},
        {"_target_": 3},
        {"_target_": None},
        {"_target_": ""},
    ]
    return [*direct, *programs, *through]
