"""``model=custom``: the reader's own net."""

from __future__ import annotations

from omegaconf import OmegaConf

from prunebench.config.groups import conf_folder
from prunebench.config.named import NO_ARGUMENTS


def test_it_needs_a_target_and_passes_no_more_than_two_facts() -> None:
    config = OmegaConf.load(conf_folder() / "model" / "custom.yaml")
    assert OmegaConf.is_missing(config, "_target_")
    assert set(config) == {*NO_ARGUMENTS, "_target_", "num_classes", "in_channels"} - {"recipe"}
