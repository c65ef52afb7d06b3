"""What a user did wrong, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input: one sentence that says what, which value, what is allowed and what to do.

    The command line prints it without a traceback and exits with code 1.
    """


def nearest(word: str, options: Iterable[str], *, count: int = 3) -> str:
    """The options that look most like ``word``, as ``'; did you mean fpgm or l1norm?'``, else an empty string."""
    matches = difflib.get_close_matches(word, list(options), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
