"""``python -m prunebench``."""

from prunebench.cli.main import main
from prunebench.core.processes import end_with_parent
from prunebench.errors import program

if __name__ == "__mp_main__":  # in a process that trains together with others: before it imports all that it needs
    end_with_parent()
if __name__ == "__main__":
    program(main)
