"""``python -m prunebench``."""

from prunebench.cli.main import main
from prunebench.errors import program

if __name__ == "__main__":
    program(main)
