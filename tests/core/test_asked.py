"""Asked and achieved side by side, and loudly where they differ."""

from __future__ import annotations

from typing import Any

import pytest

from prunebench.core.asked import beside, missed_target, shortfalls


def found(**values: Any) -> dict[str, Any]:
    return {"layers_cut": 9, "layers_whole": 0, **values}


@pytest.mark.parametrize(
    ("achieved", "lines", "loud"),
    [
        (found(), [], 0),
        (found(channels_asked=0.7, channels_kept=0.72), ["channels removed: 30.00% asked, 28.00% achieved"], 0),
        (found(channels_asked=0.7, channels_kept=1.0), ["channels removed: 30.00% asked, 0.00% achieved"], 1),
        (found(channels_asked=0.7, channels_kept=0.5), ["channels removed: 30.00% asked, 50.00% achieved"], 1),
        (found(target=0.5, reached=0.502), ["target: 50.00% asked, 50.20% reached"], 0),
        (found(target=0.5, reached=0.6), ["target: 50.00% asked, 60.00% reached"], 1),
        (found(target=0.5, reached=0.6, tolerance=0.2), ["target: 50.00% asked, 60.00% reached"], 0),
        (found(target=0.5, reached=0.4, target_of="macs"), ["target: 50.00% of the MACs asked, 40.00% reached"], 1),
        (found(tied=7), ["ties: 7 gates are equal at the threshold, the seed draws which of them stay"], 1),
        (found(tied=0), [], 0),
        ({"layers_cut": 1, "layers_whole": 8}, ["layers cut: 1 of 9"], 1),
        ({"layers_cut": 8, "layers_whole": 1}, ["layers cut: 8 of 9"], 0),
        ({}, [], 0),
    ],
)
def test_it_stands_beside_and_what_differs_is_loud(achieved: dict[str, Any], lines: list[str], loud: int) -> None:
    assert beside(achieved) == lines
    said = shortfalls(achieved)
    assert len(said) == loud and all(sentence.startswith(tuple(lines)) for sentence in said)
    assert missed_target(achieved) == any(sentence.startswith("target") for sentence in said)


def test_a_net_that_takes_less_time_than_asked_has_met_its_target() -> None:
    timed = {"target": 0.5, "target_of": "latency", "tolerance": 0.02}
    for reached, missed, words in ((0.51, False, None), (0.55, True, "look at"), (0.45, False, "faster than asked")):
        achieved = found(**timed, reached=reached)
        assert missed_target(achieved) is missed
        said = shortfalls(achieved)
        assert (words in said[0] and said[0].startswith(beside(achieved)[0])) if words else not said
    assert beside(achieved) == ["target: 50.00% of the time asked, 45.00% reached"]


def test_a_time_that_was_measured_beside_something_else_says_so() -> None:
    achieved = found(target=0.5, target_of="latency", tolerance=0.02, reached=0.7, noise=1.9)
    line = "target: 50.00% of the time asked, 70.00% reached (times varied by 190%: the machine was busy)"
    assert beside(achieved) == [line]
    assert shortfalls(achieved)[0].count("busy") == 1
