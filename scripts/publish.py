"""Put runs into the open store, outputs/published, which is in git: python scripts/publish.py <run folder> ...

A run is published if it ended with numbers, was made by a commit of this checkout without uncommitted changes, and has
the same numbers when it is measured again from its folder. Kept are result.json, config.yaml and which test examples
it gets right, without any path of this machine, at most 200 kB. A folder may hold several runs. Exit code 1 if one is
refused; the others are published.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "prunebench").is_dir():  # a checkout, which need not be installed
    sys.path.insert(0, str(ROOT))

from prunebench.errors import Parser, UserError, here, program, refused  # noqa: E402
from prunebench.report.collect import find  # noqa: E402
from prunebench.run.publish import publish  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="of finished runs (.../seed_<n>)")
    parser.add_argument("--data", type=Path, help="data folder (default: the run's)")
    parser.add_argument("--to", type=Path, default=ROOT / "outputs" / "published", help="the store (%(default)s)")
    parser.add_argument("--declared", default="", metavar="TEXT", help="in what these runs are shorter than whole ones")
    given = parser.parse_args(arguments)
    left_out = 0
    for folder in given.folders:
        found = find(folder)
        if not found:
            refused(f"{folder} holds no result; give the folder of a finished run")
            left_out += 1
        for run in found:
            try:
                target, new = publish(run, given.to, data=given.data, declared=given.declared)
            except UserError as error:
                refused(f"{run}: {error}")
                left_out += 1
            else:
                print(f"{'published' if new else 'already published'}: {target}", flush=True)
    return int(left_out > 0)


if __name__ == "__main__":
    program(main)
