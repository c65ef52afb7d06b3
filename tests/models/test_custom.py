"""``model=custom``: the reader's own net."""

from __future__ import annotations

from omegaconf import OmegaConf

from prunebench.config.groups import NOT_ARGUMENTS, conf_folder


def test_it_needs_a_target_and_passes_no_more_than_two_facts() -> None:
    config = OmegaConf.load(conf_folder() / "model" / "custom.yaml")
    assert OmegaConf.is_missing(config, "_target_")
    own = set(NOT_ARGUMENTS["model"]) - {"recipe", "checkpoints"}
    assert set(config) == {*own, "_target_", "num_classes", "in_channels"}
