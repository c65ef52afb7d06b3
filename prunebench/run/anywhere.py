"""A result without the places of the machine that it was made on."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunebench.errors import UserError

_ABSOLUTE = re.compile(r"(?<![\w.:/~-])(?:file://|~)?(?:/[^\s/'\"\\,;:=()\[\]{}<>|]+){2,}")
"""A path from the root or from somebody's home, of at least two parts; neither an address nor a fraction."""


class Places:
    """What the places of one run are called everywhere.

    Args:
        folder: of the run. ``paths``: ``paths`` of its configuration.
        published: what ``folder`` is called from now on.
    """

    def __init__(self, folder: Path, paths: Mapping[str, Any], published: str) -> None:
        self.published = published
        named = {str(paths["outputs"]): "outputs", str(paths["data"]): "data", str(folder.resolve()): published}
        # the longest first: one may lie inside another
        self._named = dict(sorted(named.items(), key=lambda pair: -len(pair[0])))
        here = (Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(__file__).parents[2])
        self._private = [place for place in (*named, *map(str, here)) if Path(place).is_absolute() and place != "/"]

    def result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """``result`` with its folder in the store, a command that runs anywhere, and no path from the root."""
        run = {**result["run"], "folder": self.published, "command": _command(result["run"]["command"])}
        return {key: self._clean(value) for key, value in {**result, "run": run}.items()}

    def text(self, text: str) -> str:
        """``text`` with the run's places renamed, and of each other path from the root its last part alone."""
        for place, name in self._named.items():
            if place.strip("/"):
                text = re.sub(rf"{re.escape(place)}(?![\w.-])", name, text)
        return _ABSOLUTE.sub(lambda found: found[0].rpartition("/")[2], text)

    def check(self, texts: Mapping[str, str]) -> None:
        """Refuse ``texts`` (name of a file → its content) in which a place of this machine is left."""
        for name, text in texts.items():
            if left := [place for place in self._private if place in text]:
                raise UserError(f"{name} still names {left[0]}, a place of this machine; run it with relative paths")

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self._clean(item) for key, item in value.items()}
        return [self._clean(item) for item in value] if isinstance(value, list | tuple) else value


def _command(command: str) -> str:
    """Without the settings that say where files are: the reader's are elsewhere."""
    return shlex.join(word for word in shlex.split(command) if not word.startswith(("paths.", "hydra.")))
