"""What the log says of a plan."""

from __future__ import annotations

from prunebench.budget.words import in_words


def test_layers_in_a_row_that_keep_the_same_are_said_together() -> None:
    stage = [(f"layer{stage}.{block}.conv", 10 * stage, 16 * stage) for stage in (1, 2) for block in range(5)]
    assert in_words([("stem", 3, 4), *stage, ("fc", 20, 32), ("head", 1, 2)]) == (
        "stem 3/4, layer1.0.conv to layer1.4.conv 10/16 (5 layers), layer2.0.conv to fc 20/32 (6 layers), head 1/2"
    )
    assert in_words([("a", 1, 2), ("b", 1, 2), ("c", 1, 2)]) == "a 1/2, b 1/2, c 1/2"
    assert in_words([]) == ""
