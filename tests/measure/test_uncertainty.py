from __future__ import annotations

import json
import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from prunebench.errors import UserError
from prunebench.measure import uncertainty
from prunebench.measure.evaluate import probabilities, summarise
from tests.measure.peer_values import AURC_TRAPEZOIDS, FPR95, predictions


def test_entropy_of_known_distributions() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]])
    expected = [0.0, math.log(4), math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)]
    torch.testing.assert_close(
        uncertainty.entropy(probs), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7
    )


def test_two_samples_that_disagree_know_nothing_of_the_weights() -> None:
    # sure but opposite: all of the entropy ln 2 is epistemic; equal coins: none of it
    sure = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    coins = torch.full((2, 1, 2), 0.5)
    for samples, total, aleatoric in ((sure, math.log(2), 0.0), (coins, math.log(2), math.log(2))):
        mean = samples.mean(0)
        expected = uncertainty.expected_entropy(samples)
        assert uncertainty.entropy(mean).item() == pytest.approx(total, abs=1e-12)
        assert expected.item() == pytest.approx(aleatoric, abs=1e-12)
        found = uncertainty.mutual_information(uncertainty.entropy(mean), expected).item()
        assert found == pytest.approx(total - aleatoric, abs=1e-12)


def test_mutual_information_by_hand() -> None:
    # p = (0.8, 0.2) and (0.4, 0.6), mean (0.6, 0.4)
    samples = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=torch.float64)

    def h(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    found = uncertainty.scores(samples.mean(0), uncertainty.expected_entropy(samples))
    assert found["mutual_information"].item() == pytest.approx(h(0.6) - (h(0.8) + h(0.4)) / 2)
    assert found["confidence"].item() == pytest.approx(0.4)
    assert "mutual_information" not in uncertainty.scores(samples[0], None)


def test_information_of_a_dirichlet_has_a_closed_form() -> None:
    # p ~ Dirichlet(a): E H[p] = psi(A + 1) - sum (a_i / A) psi(a_i + 1)
    concentration = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    torch.manual_seed(0)
    samples = torch.distributions.Dirichlet(concentration).sample((200_000, 1))
    total = concentration.sum()
    expected = torch.digamma(total + 1) - (concentration / total * torch.digamma(concentration + 1)).sum()
    assert uncertainty.expected_entropy(samples).item() == pytest.approx(expected.item(), rel=3e-3)
    assert uncertainty.entropy(samples.mean(0)).item() == pytest.approx(
        torch.distributions.Categorical(concentration / total).entropy().item(), rel=3e-3
    )


def test_auroc_by_hand() -> None:
    # positives 0.9, 0.4; negatives 0.8, 0.3, 0.4: pairs won 3 + 1, one tie -> 4.5 of 6
    score = torch.tensor([0.9, 0.4, 0.8, 0.3, 0.4])
    positive = torch.tensor([True, True, False, False, False])
    assert uncertainty.auroc(score, positive) == pytest.approx(4.5 / 6)
    assert uncertainty.auroc(-score, positive) == pytest.approx(1.5 / 6)
    assert uncertainty.auroc(torch.ones(5), positive) == 0.5
    # only the order counts, also where a sigmoid would make all scores equal
    assert uncertainty.auroc(100 * score, positive) == pytest.approx(4.5 / 6)
    assert uncertainty.aupr(100 * score, positive) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert uncertainty.aupr(torch.ones(5), positive) == pytest.approx(2 / 5)
    # thresholds 0.9 (1 of 1), 0.8 (1 of 2), 0.4 (2 of 4): precision 1 for half of the recall, 1/2 for the rest
    assert uncertainty.aupr(score, positive) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


@pytest.mark.parametrize("levels", [3, 50, 100_000])
def test_auroc_and_aupr_are_scikit_learns(levels: int) -> None:
    torch.manual_seed(levels)
    score = torch.randint(0, levels, (997,)).double() / levels
    positive = torch.rand(997) < 0.2 + 0.4 * score
    # in float32
    assert uncertainty.auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=2e-7)
    assert uncertainty.aupr(score, positive) == pytest.approx(average_precision_score(positive, score), abs=2e-7)


def test_false_positives_by_hand() -> None:
    # 20 positives, 19 of them are found at 0.2: negatives 0.5 and 0.2 too
    score = torch.cat([torch.full((19,), 0.2), torch.tensor([0.0]), torch.tensor([0.5, 0.2, 0.1, 0.05])])
    positive = torch.arange(24) < 20
    assert uncertainty.false_positive_rate(score, positive) == 2 / 4
    assert uncertainty.false_positive_rate(score, positive, recall=1.0) == 1.0
    assert uncertainty.false_positive_rate(-score, positive) == 3 / 4
    assert uncertainty.false_positive_rate(100 * score, positive) == 2 / 4


def test_risk_and_coverage_by_hand() -> None:
    # in the order of the score: right, wrong, right, wrong: 0/1, 1/2, 1/3, 2/4
    score = torch.tensor([0.1, 0.2, 0.3, 0.4])
    wrong = torch.tensor([False, True, False, True])
    assert uncertainty.risk_coverage(score, wrong) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    # the best order has its errors last: 0, 0, 1/3, 2/4
    assert uncertainty.risk_coverage(wrong.double(), wrong) == pytest.approx((1 / 3 + 2 / 4) / 4)
    # one tie: each of its inputs is half an error, in any order
    assert uncertainty.risk_coverage(torch.ones(4), wrong) == 0.5 == uncertainty.risk_coverage(torch.ones(4), ~wrong)
    assert uncertainty.risk_coverage(score, torch.zeros(4, dtype=torch.bool)) == 0.0


def test_both_are_torch_uncertaintys() -> None:
    probs, labels = predictions()
    score, wrong = 1 - probs.max(1).values, probs.argmax(1) != labels
    assert uncertainty.false_positive_rate(score, wrong) == pytest.approx(FPR95, abs=1e-7)
    number = len(labels)
    first, last = float(wrong[score.argmin()]), float(wrong.double().mean())
    trapezoids = (number * uncertainty.risk_coverage(score, wrong) - (first + last) / 2) / (number - 1)
    assert trapezoids == pytest.approx(AURC_TRAPEZOIDS, abs=1e-9)  # its risks are float32


def test_without_both_kinds_there_is_no_value() -> None:
    score = torch.rand(4)
    nothing, everything = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    assert uncertainty.auroc(score, nothing) is None and uncertainty.auroc(score, everything) is None
    assert uncertainty.aupr(score, nothing) is None and uncertainty.aupr(score, everything) == 1.0
    assert uncertainty.false_positive_rate(score, nothing) is None
    assert uncertainty.false_positive_rate(score, everything) is None


def test_broken_scores_are_refused() -> None:
    with pytest.raises(UserError, match="not a number"):
        uncertainty.auroc(torch.tensor([0.1, float("nan")]), torch.tensor([True, False]))
    with pytest.raises(UserError, match=r"scores \[N\]"):
        uncertainty.auroc(torch.rand(3), torch.tensor([True, False]))


def test_foreign_inputs_are_the_positives() -> None:
    inside = {"entropy": torch.tensor([0.1, 0.2, 0.9]), "confidence": torch.tensor([0.0, 0.0, 0.0])}
    outside = {"entropy": torch.tensor([0.5, 1.0]), "confidence": torch.tensor([1.0, 1.0])}
    found = uncertainty.compare(inside, outside)
    assert found == {
        "entropy": 0.75,
        "auroc_entropy": pytest.approx(5 / 6),
        "auroc_confidence": 1.0,
        "fpr95_entropy": pytest.approx(1 / 3),
        "fpr95_confidence": 0.0,
    }


def test_summary_of_an_evaluation() -> None:
    # four inputs, two sure samples each; they agree on the first three, the third is wrong, they disagree on the last
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.0, 1.0]])
    batches = [
        (torch.stack([first, second], 1)[:3], torch.tensor([0, 1, 1])),
        (torch.stack([first, second], 1)[3:], torch.tensor([1])),
    ]
    evaluation = probabilities(lambda batch: batch[0].transpose(0, 1), batches)
    metrics = summarise(evaluation, 2)
    found = metrics["uncertainty"]
    mixed = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert metrics["num_predictions"] == 2
    assert found["entropy"] == pytest.approx((mixed + math.log(2)) / 4, abs=1e-6)
    assert found["expected_entropy"] == pytest.approx(mixed / 4, abs=1e-6)
    assert found["mutual_information"] == pytest.approx(math.log(2) / 4, abs=1e-6)
    # wrong: the third (doubtful, but both samples say the same) and the tie of the last, which counts as class 0
    assert found["error_auroc_entropy"] == found["error_auroc_confidence"] == 1.0
    assert found["error_auroc_mutual_information"] == pytest.approx(0.75)
    assert json.loads(json.dumps(metrics)) == metrics


def test_a_single_prediction_has_no_information_about_weights() -> None:
    batch = (torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0]))
    metrics = summarise(probabilities(lambda b: b[0][None], [batch]), 2)
    assert metrics["num_predictions"] == 1
    assert not any("mutual" in key or "expected" in key for key in metrics["uncertainty"])
