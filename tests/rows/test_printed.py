"""Contradictions inside the papers' tables."""

from __future__ import annotations

import pytest

from prunebench import rows
from prunebench.rows import check_derived
from tests.rows.kit import row_of


def test_the_papers_contradictions() -> None:
    """All that the tables contain, each checked by hand."""
    found = {(c.row, c.what): c for c in check_derived(rows.load())}
    assert set(found) == {
        ("fpgm-t1_resnet110_only40_pretrained", "accuracy_drop"),  # 93.68 - 93.74 = -0.06, printed -0.16
        ("fpgm-t1_resnet56_pfec", "accuracy_drop"),  # 93.04 - 91.31 = 1.73, printed 1.75
        ("fpgm-t1_resnet110_pfec", "accuracy_drop"),  # 93.53 - 92.94 = 0.59, printed 0.61
        ("fpgm-t1_resnet110_pfec_pretrained", "accuracy_drop"),  # 93.53 - 93.30 = 0.23, printed 0.20
        ("fpgm-t1_resnet32_sfp_30", "accuracy"),  # quoted as 92.08, its own paper prints 90.08
        ("rethinking-t2_thinet_70-scratch_b", "accuracy_drop"),  # 75.14 - 76.13 = -0.99, printed -1.01
        ("slimming-t1b_densenet40_60", "params_removed"),  # 1 - 0.46 / 1.06 = 56.6 %, printed 54.6
        ("dcff-cifar_vgg16", "params"),  # 1.06 M printed, the published rates give 1.071 M
        ("dcff-cifar_vgg16", "params_removed"),  # 92.80 printed, 92.73 follows
    }
    worst = found["fpgm-t1_resnet110_only40_pretrained", "accuracy_drop"]
    assert worst.printed == -0.0016
    assert sum(worst.computed) / 2 == pytest.approx(-0.0006)
    assert "printed as -0.0016, dense accuracy - accuracy gives -0.0006" in str(worst)


@pytest.mark.parametrize(
    ("reported", "printed", "agrees"),
    [
        ({"dense_accuracy": 0.922, "accuracy": 0.9109}, {"accuracy_drop": 0.0111}, True),
        # means rounded on their own may be one unit of the last digit apart
        ({"dense_accuracy": 0.922, "accuracy": 0.9109}, {"accuracy_drop": 0.0112}, True),
        ({"dense_accuracy": 0.922, "accuracy": 0.9109}, {"accuracy_drop": 0.0113}, False),
        ({"dense_macs": 313_000_000, "macs": 206_000_000}, {"macs_removed": 0.342}, True),
        ({"dense_macs": 313_000_000, "macs": 206_000_000}, {"macs_removed": 0.345}, False),
        # 1.5e7 stands for anything from 1.45e7 to 1.55e7
        ({"dense_params": 15_000_000, "params": 5_400_000}, {"params_removed": 0.65}, True),
        ({"dense_latency_ms": 37.05, "latency_ms": 26.77}, {"latency_removed": 0.277}, True),
        ({"dense_latency_ms": 37.05, "latency_ms": 26.77}, {"latency_removed": 0.287}, False),
    ],
)
def test_rounding_is_no_contradiction(reported: dict[str, float], printed: dict[str, float], agrees: bool) -> None:
    assert (check_derived([row_of(reported=reported, printed=printed)]) == []) == agrees
