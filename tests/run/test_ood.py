"""Foreign pictures: chosen on the command line, measured beside the test set, shown in the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunebench.cli.help import help_text
from prunebench.config.groups import options
from prunebench.config.identity import run_folder
from prunebench.core.result import summary
from prunebench.errors import UserError
from prunebench.report.record import Pool, from_result
from prunebench.run import assemble
from tests.kit import SHORT, configure, run

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
TINY = (*SHORT, *NET, "method=none", "schedule=simultaneous", "ood=noise", "ood.num_pictures=300")


def test_a_deterministic_net_is_compared_on_noise(tmp_path: Path) -> None:
    result, folder = run(tmp_path, *TINY)
    final = result["metrics"]["final"]
    found = final["ood"]
    assert (found["dataset"], found["num_samples"]) == ("noise", 300)
    assert 0 <= found["auroc_entropy"] <= 1 and 0 <= found["auroc_confidence"] <= 1
    assert "auroc_mutual_information" not in found  # one prediction says nothing about the weights
    assert 0 < final["uncertainty"]["error_auroc_entropy"] <= 1

    shown = dict(summary(result))
    assert shown["OOD AUROC (entropy)"][2] == f"{found['auroc_entropy']:.4f}"
    assert shown["error AUROC (entropy)"][2] == f"{final['uncertainty']['error_auroc_entropy']:.4f}"
    numbers = from_result(result, folder, "here", Pool()).numbers
    assert numbers["final.ood.auroc_entropy"] == found["auroc_entropy"]
    assert numbers["final.uncertainty.error_auroc_entropy"] == final["uncertainty"]["error_auroc_entropy"]

    # the stored entropies are those of the metrics
    with np.load(folder / "predictions.npz") as stored:
        assert stored["entropy"].mean() == pytest.approx(final["uncertainty"]["entropy"], rel=1e-5)
        assert len(stored["entropy"]) == len(stored["label"]) == 360


def test_pictures_of_another_shape_are_refused_before_training(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, "dataset=digits", "ood=cifar10")
    with pytest.raises(UserError, match=r"ood=cifar10 has pictures of 3x32x32.*digits take 1x8x8; use ood=noise"):
        assemble.build(config, tmp_path)


def test_a_run_without_foreign_pictures_keeps_its_folder(tmp_path: Path) -> None:
    without, _ = configure(tmp_path)
    assert "ood" not in without
    withit, _ = configure(tmp_path, "ood=noise")
    assert run_folder(without) != run_folder(withit)
    # the pretraining that runs share knows nothing of it
    jobs = [assemble.build(config, tmp_path)[0] for config in (without, withit)]
    assert len({job.dense_folder(job.phases[0]) for job in jobs}) == 1


@pytest.mark.parametrize("name", sorted(options("ood")))
def test_each_option_is_normalised_like_the_run_s_own(name: str, tmp_path: Path) -> None:
    own = "mnist" if name in ("mnist", "fashion_mnist", "noise") else "cifar10"
    config, _ = configure(tmp_path, f"dataset={own}", f"ood={name}", "dataset.eval_batch_size=77")
    found = config["ood"]
    assert found["name"] == name
    assert (found["mean"], found["std"]) == (config["dataset"]["mean"], config["dataset"]["std"])
    assert (found["validation"], found["eval_batch_size"]) == (0, 77)


def test_help_names_it() -> None:
    assert "ood=" in help_text() and "ood=fashion_mnist" in help_text()
