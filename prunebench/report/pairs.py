"""Two configurations on the same test set: exact test, score interval, difference over seeds, fairness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunebench.core.result import read_result
from prunebench.disk.correct import FILE as BITS
from prunebench.disk.correct import read_bits
from prunebench.errors import UserError
from prunebench.measure.statistics import Interval, discordant, mcnemar, paired_difference
from prunebench.report.configurations import CLAIM_SEEDS, Estimate, Group, estimate
from prunebench.report.predictions import NAME as PREDICTIONS
from prunebench.report.predictions import Correct, read_predictions
from prunebench.report.record import Record
from prunebench.rows.fairness import Fairness, Setup, judge, setup_of

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two groups at one budget. ``first`` minus ``second`` throughout.

    Attributes:
        seed: the lowest common one; ``b``, ``c``, ``p`` and ``interval`` are about its two nets.
        b, c: test examples that only the first (second) net gets right, of ``n``.
        interval: score interval of the difference, 95 %. ``p``: McNemar, exact; ``p_holm``: adjusted over the family.
        over_seeds: difference of the accuracies of equal seeds, over all common ones.
        nets: common seeds, each with a net of either group.
        fairness: what the two runs share; None if their results do not say enough.
    """

    first: Group
    second: Group
    seed: int
    b: int
    c: int
    n: int
    interval: Interval
    p: float
    p_holm: float
    over_seeds: Estimate
    fairness: Fairness | None

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second with the lowest common seed, as a fraction."""
        return (self.b - self.c) / self.n

    @property
    def nets(self) -> int:
        """Common seeds, each with a net of either group."""
        return self.over_seeds.count

    @property
    def ahead(self) -> Group:
        """The group with the higher accuracy, mean over the common seeds."""
        return self.first if self.over_seeds.mean > 0 else self.second

    @property
    def behind(self) -> Group:
        """The other one."""
        return self.second if self.over_seeds.mean > 0 else self.first

    @property
    def decided(self) -> bool:
        """The rule of a claim: nothing leaves it open."""
        return not self.open_because

    @property
    def open_because(self) -> str:
        """Why nobody is ahead; empty if somebody is.

        A claim needs three nets of each, one sign over all common seeds, a t interval of the differences over seeds
        without 0, and the paired test of the examples after Holm.
        """
        if self.nets < CLAIM_SEEDS:
            return f"{self.nets} of {CLAIM_SEEDS} nets"
        if not (all(gap > 0 for gap in self.over_seeds.values) or all(gap < 0 for gap in self.over_seeds.values)):
            return "the sign depends on the seed"
        low, high = self.over_seeds.interval or (0.0, 0.0)
        if low <= 0 <= high:
            return "the t interval over seeds holds 0"
        return "" if self.p_holm < LEVEL else "not significant"


def compare(
    first: Group,
    second: Group,
    correct: Callable[[Record], Correct],
    setup: Callable[[Record], Setup | None] | None = None,
) -> Pair:
    """Test two groups on the nets of their lowest common seed; ``p_holm`` is ``p`` until a family adjusts it.

    Args:
        correct: gives the per-example correctness ``[n]`` of a run.
        setup: gives what the fairness of a comparison depends on; default: :func:`read_setup`.

    Raises:
        UserError: no common seed, unknown or unreadable test examples.
    """
    common = sorted(first.seeds.keys() & second.seeds.keys())
    if not common:
        raise UserError("no common seed")
    common = [s for s in common if all("final.accuracy" in item.seeds[s].numbers for item in (first, second))]
    if not common:
        raise UserError("no common seed has an accuracy of both")
    one, other = first.seeds[common[0]], second.seeds[common[0]]
    if one.test_set.endswith(":None"):
        raise UserError("the results do not say which test examples they used")
    b, c = discordant(correct(one), correct(other))
    n = len(correct(one))
    gaps = estimate(
        [first.seeds[s].numbers["final.accuracy"] - second.seeds[s].numbers["final.accuracy"] for s in common]
    )
    assert gaps is not None  # there is a common seed
    p = mcnemar(b, c).exact
    return Pair(
        first=first,
        second=second,
        seed=common[0],
        b=b,
        c=c,
        n=n,
        interval=paired_difference(b, c, n).interval,
        p=p,
        p_holm=p,
        over_seeds=gaps,
        fairness=_fairness(*map(setup or read_setup, (one, other))),
    )


def read_setup(record: Record) -> Setup | None:
    """What the fairness of a comparison depends on (Wang et al. 2023), from the run's result."""
    try:
        return setup_of(read_result(record.folder))
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        # results of older code may lack settings; the tests do not depend on them
        return None


def _fairness(one: Setup | None, other: Setup | None) -> Fairness | None:
    return judge(one, other) if one and other else None


def read_correct(record: Record) -> Correct:
    """Per-example correctness ``[n]`` of a run's final net: from its predictions, or from the bits of a published run.

    Raises:
        UserError: the file is missing, is not what a run writes, or is about other examples than the result.
    """
    if (record.folder / PREDICTIONS).exists() or not (record.folder / BITS).exists():
        return read_predictions(record.folder, record.place).correct
    try:
        found, labels = read_bits(record.folder / BITS)
    except UserError as error:
        raise UserError(f"{record.place}/{error}") from None
    if not record.test_set.endswith(f":{len(found)}:{labels}"):
        raise UserError(f"{record.place}/{BITS} is about other test examples than the result beside it")
    return found
