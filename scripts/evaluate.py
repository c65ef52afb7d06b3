"""Measure the saved net of a run again and compare with its result: python scripts/evaluate.py <run folder>.

From the run's folder and its data set alone. Stored and new numbers are printed; exit code 1 if they differ.
The folder may be from somebody else: of the code that it names, only nets, layers, methods and data sets of this
package and modules of torch.nn are called. A run with a net, method or data set of your own needs --trust.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "prunebench").is_dir():  # a checkout, which need not be installed
    sys.path.insert(0, str(ROOT))

from prunebench.errors import Parser, UserError, here, program, refused  # noqa: E402
from prunebench.run.reevaluate import reevaluate  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a finished run (.../seed_<n>)")
    parser.add_argument("--data", type=Path, help="data folder (default: the run's)")
    parser.add_argument("--trust", action="store_true", help="call whatever the folder names: it can run any program")
    given = parser.parse_args(arguments)
    try:
        found = reevaluate(given.folder, data=given.data, trust=given.trust)
    except UserError as error:
        refused(error)
        return 1
    print(f"{'':26} {'stored':>16} {'now':>16}")
    for item in found:
        stored, now = (f"{value:,}" if isinstance(value, int) else f"{value:.6f}" for value in (item.stored, item.now))
        limit = f"within {item.tolerance:g}" if item.tolerance else "equal"
        print(f"{item.name:26} {stored:>16} {now:>16}  {limit if item.same else 'DIFFERS'}")
    return 0 if all(item.same for item in found) else 1


if __name__ == "__main__":
    program(main)
