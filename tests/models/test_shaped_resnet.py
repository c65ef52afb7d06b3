"""Counts of the whole nets and of the published shapes, both from the specification's independent counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench import rows
from prunebench.errors import UserError
from prunebench.models import shaped_resnet as family
from prunebench.models.shaped_resnet import shaped_resnet20, shaped_resnet50, shaped_resnet56, shaped_resnet164

WHOLE = {
    "shaped_resnet20": 40_813_184,
    "shaped_resnet32": 69_124_736,
    "shaped_resnet56": 125_747_840,
    "shaped_resnet110": 253_149_824,
    "shaped_resnet164": 247_646_720,
    "shaped_resnet18": 1_814_073_344,
}
PUBLISHED = [row for row in rows.load(papers=["tas"]) if row.overrides and "method.widths" in row.overrides]
COUNTED = [row for row in PUBLISHED if row.recomputed]


@pytest.mark.parametrize(("name", "macs"), WHOLE.items())
def test_the_whole_nets_have_the_macs_of_the_official_ones(count, name, macs):
    assert count(getattr(family, name), size=224 if name == "shaped_resnet18" else 32)[0] == macs


def test_the_large_nets_have_the_parameters_of_he_et_al(count):
    assert count(family.shaped_resnet18, size=224)[1] == 11_689_512
    assert count(shaped_resnet50, size=224) == (4_089_184_256, 25_557_032)


def test_there_are_published_shapes():
    assert {row.model for row in COUNTED} == {"shaped_resnet50", *WHOLE} - {"shaped_resnet18"}


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row.id)
def test_the_published_shapes_have_their_macs_and_parameters(count, row):
    found = count(
        getattr(family, row.model),
        size=224 if row.dataset == "imagenet" else 32,
        num_classes={"cifar10": 10, "cifar100": 100, "imagenet": 1000}[row.dataset],
        widths=row.overrides["method.widths"],
        blocks=row.overrides["method.blocks"],
    )
    assert found == (row.recomputed["macs"], row.recomputed["params"])


def kinds(shortcut: nn.Module) -> list[str]:
    return [type(module).__name__ for module in shortcut.children()]


def test_where_shortcuts_have_norms():
    # basic blocks of small pictures: none behind the mean, one where only the width changes
    net = shaped_resnet20(widths=[8, 4, 8, *[5] * 16])
    assert isinstance(net.layer1[0].shortcut, nn.Identity)
    assert kinds(net.layer1[1].shortcut) == ["Conv2d", "BatchNorm2d"]
    assert kinds(net.layer2[0].shortcut) == ["AvgPool2d", "Conv2d"]
    assert isinstance(net.layer3[2].shortcut, nn.Identity)
    small, large = shaped_resnet164(), shaped_resnet50()
    assert kinds(small.layer1[0].shortcut) == ["Conv2d"]
    assert kinds(small.layer2[0].shortcut) == ["AvgPool2d", "Conv2d"]
    assert kinds(large.layer1[0].shortcut) == ["Conv2d", "BatchNorm2d"]
    assert kinds(large.layer2[0].shortcut) == ["AvgPool2d", "Conv2d", "BatchNorm2d"]


def test_widths_are_those_of_the_convolutions_in_order():
    widths = [7, *range(3, 9)]
    net = shaped_resnet20(widths=widths, blocks=[1, 1, 1])
    main = [m for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in name]
    assert [conv.out_channels for conv in main] == widths
    # what follows a dropped block reads the last one that is kept
    assert net.layer2[0].conv1.in_channels == widths[2] and net.linear.in_features == widths[-1]


def test_the_start_is_that_of_the_official_code():
    torch.manual_seed(0)
    net = shaped_resnet56()
    conv = net.layer3[4].conv2.weight
    assert conv.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert net.linear.weight.std().item() == pytest.approx(0.01, rel=0.1) and not net.linear.bias.any()
    large = shaped_resnet50(width=8)
    assert not large.layer3[2].bn3.weight.any() and large.layer3[2].bn2.weight.eq(1).all()
    assert shaped_resnet50(width=8, zero_init_residual=False).layer3[2].bn3.weight.eq(1).all()


@pytest.mark.parametrize("size", [8, 9])
def test_can_be_traced(assert_traceable, size):
    assert_traceable(
        shaped_resnet20(width=4, widths=[4, 3, 5, 2, 6, 2, 3], blocks=[1, 1, 1]), torch.randn(2, 3, size, size)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"blocks": [3, 3]},
            r"model.blocks must have 3 numbers, of at most \[3, 3, 3\] for shaped_resnet20, got \[3, 3\]",
        ),
        ({"blocks": [3, 3, 4]}, r"of at most \[3, 3, 3\]"),
        ({"blocks": [3, 3, 0]}, r"blocks\[2\] must be a whole number of at least 1, got 0|blocks"),
        ({"widths": [16] * 18}, r"model.widths must have 19 numbers .* the stem's, then 2 of each block; got 18"),
        ({"widths": [0] * 19}, "widths"),
        ({"image_size": 2}, "shaped_resnet20 needs images of at least 4x4"),
    ],
)
def test_bad_shapes_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        shaped_resnet20(**options)
