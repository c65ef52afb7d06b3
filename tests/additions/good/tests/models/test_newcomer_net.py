from __future__ import annotations

from prunebench.models.newcomer_net import newcomer_net


def test_size_by_hand(count):
    first, second, last = 9 * 1 * 8, 9 * 8 * 16, 16 * 4
    macs, params = count(newcomer_net, size=8, channels=1, num_classes=4)
    assert macs == 64 * (first + second) + last
    assert params == first + 2 * 8 + second + 16 + last + 4
