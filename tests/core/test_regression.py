"""Regression against closed forms: likelihoods of normal targets, mixtures of predictions, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunebench
from prunebench.core.regression import Regression
from prunebench.core.result import read_result, summary
from prunebench.errors import UserError
from prunebench.models.regression_mlp import RegressionMLP
from tests.kit import configure, run

TASK = Regression(num_outputs=2)
FACTS: dict[str, Any] = {"num_inputs": 3, "num_outputs": 2, "hidden": (4,), "activation": "tanh"}


def normal(std: float, mean: float, y: float) -> float:
    return math.exp(-((y - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("learned", [False, True])
def test_loss_is_the_likelihood_of_normal_targets(learned: bool) -> None:
    net = RegressionMLP(**FACTS, noise_std=0.5, learned=learned)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    means = net(x).detach()
    by_hand = (
        -sum(math.log(normal(0.5, float(m), float(t))) for m, t in zip(means.flatten(), y.flatten(), strict=True)) / 5
    )
    loss = TASK.losses(net, (x, y))["gaussian_nll"]
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert ("log_noise_std" in dict(net.named_parameters())) == learned
    if learned:
        # d/d ln s of sum_k (y - f)^2 / (2 s^2) + ln s: 2 - sum of squares / s^2
        (slope,) = torch.autograd.grad(loss, [net.log_noise_std])
        assert slope.item() == pytest.approx(2 - float((y - means).square().sum()) / 5 / 0.25, rel=1e-4)


def predictions(*samples: tuple[float, float]) -> Tensor:
    """One example of one target: mean and deviation of each sample."""
    return torch.tensor([[[mean, std**2]] for mean, std in samples])


def test_several_predictions_are_a_mixture() -> None:
    task = Regression(num_outputs=1)
    batches = [(torch.zeros(1, 1), torch.tensor([[0.3]]))]
    metrics, kept = task.evaluate(lambda _: predictions((0.0, 0.5), (1.0, 0.5)), batches)
    assert kept is None and metrics["num_predictions"] == 2 and metrics["num_samples"] == 1
    assert metrics["rmse"] == pytest.approx(0.2)  # of the mean, 0.5
    assert metrics["nll"] == pytest.approx(-math.log(0.5 * normal(0.5, 0.0, 0.3) + 0.5 * normal(0.5, 1.0, 0.3)))
    assert metrics["noise_std"] == pytest.approx(0.5)


def test_validation_watches_the_mean_prediction() -> None:
    task = Regression(num_outputs=1)
    found = task.validation(torch.tensor([[1.0, 0.25], [3.0, 0.25]]), (torch.zeros(2, 1), torch.tensor([[1.5], [2.0]])))
    assert found["val/rmse"].item() == pytest.approx(math.sqrt((0.25 + 1.0) / 2))
    expected = -(math.log(normal(0.5, 1.0, 1.5)) + math.log(normal(0.5, 3.0, 2.0))) / 2
    assert found["val/nll"].item() == pytest.approx(expected, rel=1e-5)
    assert (task.monitor, task.mode) == ("val/rmse", "min")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dataset=simulation_one", "model=mlp_2x400"), "model=mlp_2x400 does not fit dataset=simulation_one"),
        (("model=regression_mlp", "dataset=digits"), "model=regression_mlp does not fit dataset=digits"),
    ],
)
def test_a_net_for_something_else_is_refused(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=sentence):
        configure(tmp_path, *words)


def test_shapes_and_labels_are_refused() -> None:
    assert TASK.refuses(torch.zeros(1, 2)) is None
    assert TASK.refuses(torch.zeros(1, 10)) == (
        "its output has the shape [1, 10] for one example, [1, 2] is needed, a mean per target"
    )
    assert "gives a tuple" in str(TASK.refuses((1, 2)))
    assert TASK.smoothed(0.0) is TASK
    with pytest.raises(UserError, match=r"label_smoothing=0\.1 is for classes"):
        TASK.smoothed(0.1)
    with pytest.raises(UserError, match="has no parameter or buffer log_noise_std"):
        TASK.losses(nn.Linear(3, 2), (torch.zeros(1, 3), torch.zeros(1, 2)))


SHORT_RUN = (
    "latency=true", "trainer.progress=false", "trainer.num_threads=1", "model=regression_mlp",
    "dataset.epochs.train=2", "dataset.epochs.finetune=2",
)  # fmt: skip


@pytest.mark.parametrize("noise", ["known", "learned"])
def test_a_run_without_an_accuracy(noise: str, tmp_path: Path) -> None:
    """Train, cut by norm, train again: the whole way of a method that knows nothing of regression."""
    words = (f"model.noise={noise}", "method=l1norm", "method.layers=[hidden.0]", "method.prune_ratio=0.5")
    result, folder = run(tmp_path, *SHORT_RUN, *words)
    assert result == read_result(folder) | {"run": result["run"]}
    final = result["metrics"]["final"]
    assert {"dense", "pruned", "final"} <= result["metrics"].keys()
    assert result["status"] == "complete" and result["warnings"] == []
    assert 0 < final["rmse"] < 20 and final["num_samples"] == 100
    assert final["recovery"] == {"nodes": 10, "nodes_per_layer": [10], "true_nodes": 2, "inputs_found": 1.0}
    assert result["guarantee"]["accuracy_interval_95"] is None and not (folder / "predictions.npz").exists()
    shown = dict(summary(result))
    assert shown["RMSE"][-1] == f"{final['rmse']:.4f}" and "test accuracy %" not in shown
    assert shown["hidden nodes at work"][-1] == "10"
    net = prunebench.load(folder)
    assert sum(p.numel() for p in net.parameters()) == 10 * 3 + 11 + (noise == "learned")
    config, _ = configure(tmp_path, *SHORT_RUN, *words)
    from prunebench.run import assemble

    data = assemble.load_data(config)
    task = Regression(num_outputs=1)
    again, _ = task.evaluate(lambda batch: task.probabilities(net, batch)[None], data.test())
    assert again["rmse"] == pytest.approx(final["rmse"], rel=1e-9) and again["nll"] == pytest.approx(final["nll"])
