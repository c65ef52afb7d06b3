"""Compare two runs on the same test set: python scripts/compare.py <run folder> <run folder>.

A folder of a run (…/seed_0) or of a configuration with its seeds. Printed are the accuracies, the difference with its
score interval, McNemar's test (exact; mid-p is less cautious and guarantees nothing, but tells more on a
small test set), the difference over common seeds, and what the two runs share (the labels of Wang et al. 2023): from
S3.2 on the comparison says something about the methods.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "prunebench").is_dir():  # a checkout, which need not be installed
    sys.path.insert(0, str(ROOT))

from prunebench.core.result import read_result  # noqa: E402
from prunebench.errors import UserError, here, program  # noqa: E402
from prunebench.measure.metrics import ACCURACY, METRICS  # noqa: E402
from prunebench.measure.statistics import mcnemar  # noqa: E402
from prunebench.report.collect import find  # noqa: E402
from prunebench.report.configurations import Group, group  # noqa: E402
from prunebench.report.pairs import Pair, compare, read_correct  # noqa: E402
from prunebench.report.record import Pool, from_result  # noqa: E402
from prunebench.report.strata import difference  # noqa: E402
from prunebench.report.tables import over_seeds, p_value, points, signed  # noqa: E402
from prunebench.rows.fairness import GATE, LADDER, TOTALS  # noqa: E402

REMOVED = METRICS["macs_removed"]


def load(folder: Path) -> Group:
    """The seeds of one configuration below ``folder``."""
    records = [from_result(read_result(path), path, path.name, Pool()) for path in find(folder)]
    records = [record for record in records if record.measured]
    if not records:
        raise UserError(f"{folder} holds no result with numbers; give the folder of a run")
    if len({record.id for record in records}) > 1:
        raise UserError(f"{folder} holds several configurations; give the folder of one of them")
    (found,) = group(records)
    return found


def lines(pair: Pair) -> list[str]:
    """What is to be said about two configurations, first minus second."""
    found = []
    for mark, item in (("A", pair.first), ("B", pair.second)):
        level, missing = item.guarantee
        more = f" ({'; '.join(missing)})" if missing else ""
        head = f"{mark}: {item.first.method}, {item.first.model} on {item.first.dataset}, {item.first.schedule}"
        removed = item.estimate("macs_removed")
        size = "" if removed is None else f", {REMOVED.label} {over_seeds(REMOVED, removed).text} %"
        accuracy = over_seeds(ACCURACY, item.estimate(f"final.{ACCURACY.key}")).text
        found.append(f"{head}: accuracy {accuracy} %{size}, guarantee: {level.replace('_', ' ')}{more}")
    low, high = pair.interval
    found.append(
        f"A − B, seed {pair.seed}: {signed(100 * pair.difference)} points, 95 % interval {signed(100 * low)} to "
        f"{signed(100 * high)} (score interval); of {pair.n:,} examples {pair.b} right only in A, {pair.c} only in "
        f"B, McNemar p {p_value(pair.p)} (mid-p {p_value(mcnemar(pair.b, pair.c).mid_p)})"
    )
    if pair.over_seeds.count > 1:
        found.append(f"A − B over {pair.over_seeds.count} seeds: {points(pair.over_seeds).text} points")
    if apart := difference(pair.first.stratum, pair.second.stratum):
        found.append(
            f"the methods may not cut the same ({apart}), so the difference is not that of their criteria alone"
        )
    fairness = pair.fairness
    if fairness is None:
        return [*found, "what the runs share is unknown: their results lack settings"]
    label = fairness.label or ""
    shared = list(LADDER)[: list(LADDER).index(label) + 1] if label in LADDER else []
    meaning = ", ".join(LADDER[step] for step in shared) or TOTALS.get(label, "not even the same data, net and rate")
    verdict = "" if fairness.fair else f"; below {GATE}, so the difference says little about the methods"
    found.append(f"setup {label or 'none'}: {meaning}{verdict}")
    if fairness.differences:
        found.append(f"differ outside of the method: {', '.join(fairness.differences)}")
    return found


def main(arguments: list[str]) -> int:
    asked = bool({"-h", "--help"} & set(arguments))
    if len(arguments) != 2 or asked:
        print(here(__doc__ or ""))
        return 0 if asked else 1
    first, second = (load(Path(argument)) for argument in arguments)
    if first.first.test_set != second.first.test_set:
        raise UserError("the two runs were not tested on the same examples")
    print("\n".join(lines(compare(first, second, read_correct))))
    return 0


if __name__ == "__main__":
    program(lambda: main(sys.argv[1:]))
