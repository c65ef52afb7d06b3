"""``python -m prunebench``."""

import os
import sys

from prunebench.cli.main import main

if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # 128 + SIGPIPE: a run that was writing has not finished
    sys.exit(code)
