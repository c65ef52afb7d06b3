"""What a user did wrong, in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

INSTALLED = (Path(__file__).resolve().parent / "scripts").is_dir()
"""True in an installed wheel, which carries the scripts inside the package; in a checkout they lie beside it."""


class UserError(ValueError):
    """A mistake in the input: one sentence that says what, which value, what is allowed and what to do.

    The command line prints it without a traceback and exits with code 1.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(here(sentence))


def in_words(error: BaseException) -> str:
    """An error for a result or a log: a user's mistake by its sentence, any other by type and text."""
    text = str(error)
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}{text and f': {text}'}"


def here(text: str) -> str:
    """``text`` with each ``python scripts/x.py`` as it is started where this package lies."""
    return re.sub(r"python scripts/(\w+)\.py", r"python -m prunebench.scripts.\1", text) if INSTALLED else text


def nearest(word: str, options: Iterable[str], *, count: int = 3) -> str:
    """The options that look most like ``word``, as ``'; did you mean fpgm or l1norm?'``, else an empty string."""
    matches = difflib.get_close_matches(word, list(options), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
