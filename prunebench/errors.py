"""What a user did wrong, in one sentence, and the programs that say it."""

from __future__ import annotations

import argparse
import codecs
import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

INSTALLED = (Path(__file__).resolve().parent / "scripts").is_dir()
"""True in an installed wheel, which carries the scripts inside the package; in a checkout they lie beside it."""


PLAIN = {"·": "-", "–": "-", "−": "-", "…": "...", "→": "->", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "’": "'"}
"""What is printed where a terminal or a file has no such sign; ``?`` for all others."""


class UserError(ValueError):
    """A mistake in the input: one sentence that says what, which value, what is allowed and what to do.

    The command line prints it without a traceback and exits with code 1.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(here(sentence))


STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a program that was told to stop."""


class Terminated(KeyboardInterrupt):
    """Somebody has sent SIGTERM: a cluster at the end of a job's time, or ``kill``. It ends a run as Ctrl-C does."""


def stopped(error: KeyboardInterrupt, more: str = "") -> int:
    """Say that the program was stopped, and what ``more`` there is to say; the exit code, 128 + the signal."""
    terminated = isinstance(error, Terminated)
    print(f"{'terminated' if terminated else 'interrupted'}{more}", file=sys.stderr)
    return STOPPED[terminated]


def in_words(error: BaseException) -> str:
    """An error for a result or a log: a user's mistake by its sentence, any other by type and text."""
    text = str(error)
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}{text and f': {text}'}"


def first_line(error: BaseException) -> str:
    """What another library says went wrong: the first line of its message that is not empty, else the error's type."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def here(text: str) -> str:
    """``text`` with each ``python scripts/x.py`` as it is started where this package lies."""
    return re.sub(r"python scripts/(\w+)\.py", r"python -m prunebench.scripts.\1", text) if INSTALLED else text


def shown(text: str) -> str:
    """``text`` for a terminal: control characters and blanks of other kinds as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, options: Iterable[str], *, count: int = 3) -> str:
    """The options that look most like ``word``, as ``'; did you mean fpgm or l1norm?'``, else an empty string."""
    matches = difflib.get_close_matches(word, list(options), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


class Parser(argparse.ArgumentParser):
    """A script's options; what it cannot read is one sentence and exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Say it, and end the program; argparse calls this."""
        sys.exit(refused(f"{message}; --help shows what there is"))


def refused(sentence: object) -> int:
    """Say what is wrong; the exit code."""
    print(f"error: {shown(str(sentence))}", file=sys.stderr)
    return 1


def program(main: Callable[[], int]) -> NoReturn:
    """End the process with what ``main`` returns; a user's mistake is one sentence and exit code 1.

    Output can be of any encoding, and its reader may leave, as in ``--help | head``.
    """
    codecs.register_error("plain", _plain)
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)  # a net of one's own beside which a script is started, as with python -m
    before = signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="plain")
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        code = refused(error)
    except KeyboardInterrupt as error:
        code = stopped(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # 128 + SIGPIPE: a run that was writing has not finished
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated("SIGTERM")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands in the output for signs that its encoding lacks; see :func:`codecs.register_error`."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end
