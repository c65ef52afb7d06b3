"""Every method cuts nets that are not built as most are, or refuses them in a sentence before anything is trained."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from prunebench.errors import UserError
from tests.conformance.settings import conformance
from tests.conformance.test_computed_weights import OF_ANY_NET
from tests.conformance.test_every_method import KINDS, declared_by, lengths
from tests.kit import SHORT, run

NETS = ("partly_frozen", "Tokens", "Series", "Hourglass")
OTHERS = ("Volume", "OtherNorms", "Shared")
CUT_ALL = ("random", "l1norm", "l2norm", "fpgm", "group_norm", "soft_filter_pruning")
"""Criteria that ask no more of a net than weights."""


PAIRS = [*itertools.product(NETS, OF_ANY_NET), *itertools.product(OTHERS, CUT_ALL)]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "method"), PAIRS)
def test_it_is_cut_or_refused(net: str, method: str, tmp_path: Path) -> None:
    schedule = sorted(KINDS[method].get("schedules") or declared_by(KINDS[method]["_target_"], method))[0]
    own = ("model=custom", f"model._target_=tests.odd_nets.{net}", f"model.name={net}")
    one = ("dataset.epochs.train=1", "dataset.epochs.finetune=1")
    words = (f"method={method}", f"schedule={schedule}", *lengths(schedule), *conformance(method).options)
    try:
        result, _ = run(tmp_path, *SHORT, *one, *own, *words)
    except UserError:  # anything else is a traceback
        assert method not in CUT_ALL
        assert not list(tmp_path.rglob("*.safetensors"))
        return
    if method in CUT_ALL:
        assert result["cost"]["final"]["macs"] < result["cost"]["dense"]["macs"]


@pytest.mark.parametrize("method", ["none", "fpgm"])
def test_a_net_that_learns_nothing_is_refused(method: str, tmp_path: Path) -> None:
    own = ("model=custom", "model._target_=tests.odd_nets.frozen", "model.name=frozen")
    with pytest.raises(UserError, match="has no parameter that learns"):
        run(tmp_path, *SHORT, *own, f"method={method}")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_net_whose_copies_would_run_the_original_is_refused_by_every_method(tmp_path: Path) -> None:
    """Even where no channel is followed."""
    own = ("model=custom", "model._target_=tests.odd_nets.doubled", "model.name=doubled")
    with pytest.raises(UserError, match="the forward of 0 was replaced on the object"):
        run(tmp_path, *SHORT, *own, "method=none")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("method=bn_scale",), "the norm layer that follows has no learned scale and shift"),
        (("method=bn_importance",), "the norm layer that follows has no learned scale and shift"),
        (
            ("method=taylor", "method.criterion.num_samples=256"),
            "the norm layer that follows has no learned scale and shift to take a gradient of "
            "(method.criterion.variant=per_example needs none)",
        ),
        (
            ("method=anp", "schedule=simultaneous", "dataset.epochs.train=1"),
            "the norm layer that follows has no learned scale, into which its mask could go",
        ),
    ],
)
def test_norms_without_numbers_keep_their_layer_whole(words: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    own = ("model=custom", "model._target_=tests.odd_nets.without_numbers", "model.name=without_numbers")
    result, _ = run(tmp_path, *SHORT, *own, *words)
    reasons = {row["layer"]: row["reason"] for row in result["not_pruned"]}
    assert reasons["0"] == reason
    assert reasons.get("3") != reason
