"""What papers mean by "FLOPs": each rows file names one of these."""

from __future__ import annotations

from collections.abc import Mapping

CONVENTIONS: Mapping[str, str] = {
    "conv_linear": "multiply-accumulates of convolutions and linear layers",
    "conv_linear_no_projection": "the same, and parameters, without the 1x1 convolutions in shortcuts",
    "flops_two_per_mac": "floating-point operations: 2 for each multiply-accumulate of convolutions and linear layers",
    "conv_nominal": "multiply-accumulates of convolutions with real-valued rates: a layer that keeps the share r of "
    "its channels and reads a layer that keeps q costs r * q; shortcuts and the classifier are not counted "
    "(filter-pruning-geometric-median, functions/cal_flop.py)",
    "conv_nominal_projection": "the same with the 1x1 convolutions in shortcuts",
    "thop": "multiply-accumulates of convolutions and linear layers, one addition for each bias and two operations for "
    "each batch-norm element (thop 0.0.31; its pooling, below 0.01 %, is left out here)",
    "macs_bias": "multiply-accumulates of convolutions and linear layers, one addition for each bias",
    "unstated": "the source does not say",
    "none": "the file has no counts",
}
"""Name -> what a published count is. A count is of one sample."""

PROJECTIONS = ("*downsample*", "*shortcut*")
"""Layers that are 1x1 convolutions in shortcuts, as globs of their names."""
