from __future__ import annotations

import pytest

from prunebench.errors import UserError
from prunebench.methods.newcomer_blocks import BlockSelection
from prunebench.models.resnet_cifar import resnet20
from tests.bare import bare_run


def test_a_block_goes_whole() -> None:
    run = bare_run(resnet20(), schedule="oneshot")
    method = BlockSelection(number=2)
    method.check(run.template, run)
    run.note(method.prune(run.template, run))
    assert len(run.plan.keep) == 2 and all(kept == () for kept in run.plan.keep.values())
    assert all(name.endswith("conv2") for name in run.plan.keep)


def test_more_blocks_than_there_are() -> None:
    run = bare_run(resnet20(), schedule="oneshot")
    with pytest.raises(UserError, match=r"method\.number=99, but only"):
        BlockSelection(number=99).check(run.template, run)
