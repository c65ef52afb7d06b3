from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.layers.saliency import SaliencyPruning, recorded_decisions


def with_logits(logits: Tensor, **options: object) -> SaliencyPruning:
    """A module whose logits are its input: the linear layer is the identity."""
    gate = SaliencyPruning(in_channels=logits.shape[1], out_channels=logits.shape[1], **options)  # type: ignore[arg-type]
    with torch.no_grad():
        gate.excite.weight.copy_(torch.eye(logits.shape[1]))
        gate.excite.bias.zero_()
    return gate


def test_decisions_are_hard_and_their_gradient_is_the_sigmoids() -> None:
    logits = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]], requires_grad=True)
    _, decisions = with_logits(logits).decide(logits)
    assert decisions.tolist() == [[0, 0, 1, 1, 1]]
    (decisions * torch.arange(1, 6)).sum().backward()
    expected = torch.tensor([[0.104994, 0.470007, 0.75, 0.940015, 0.524968]])
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=0)


def test_evaluation_decides_the_same() -> None:
    logits = torch.randn(64, 5)
    gate = with_logits(logits, may_be_empty=True)
    assert torch.equal(gate.train().decide(logits)[1], gate.eval().decide(logits)[1])
    assert torch.equal(gate.decide(logits)[1], (torch.sigmoid(logits) >= 0.5).float())


def test_all_channels_start_switched_on() -> None:
    torch.manual_seed(0)
    gate = SaliencyPruning(in_channels=64, out_channels=200)
    assert float(gate.excite.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert torch.equal(gate.excite.bias, torch.ones(200))
    saliency, decisions = gate(torch.randn(2, 64, 4, 4))
    assert decisions.all()
    assert float(saliency.detach().mean()) == pytest.approx(0.731, abs=0.01)


@pytest.mark.parametrize("binarize", ["straight_through", "semhash"])
def test_the_most_salient_channel_stays_unless_the_layer_may_be_empty(binarize: str) -> None:
    logits = torch.tensor([[-9.0, -8.0, -9.5], [-9.0, 1.0, -9.0]])
    for training in (True, False):
        guarded = with_logits(logits, binarize=binarize).train(training)
        free = with_logits(logits, binarize=binarize, may_be_empty=True).train(training)
        assert guarded.decide(logits)[1][0].tolist() == [0, 1, 0]
        assert free.decide(logits)[1][0].tolist() == [0, 0, 0]
    assert guarded.decide(logits)[1][1].tolist() == [0, 1, 0]


def test_semhash_relaxes_half_of_the_samples_in_training_only() -> None:
    logits = torch.full((4000, 3), 0.3, requires_grad=True)
    gate = with_logits(logits, binarize="semhash", may_be_empty=True)
    _, decisions = gate.train().decide(logits)
    hard = ((decisions == 0) | (decisions == 1)).all(1)
    # of the relaxed half a few samples are clipped in all three channels
    assert 0.45 < float(hard.float().mean()) < 0.56
    # hard ones: 1 with the probability that 0.3 plus standard normal noise is positive
    decided = decisions.detach()
    assert float(decided[hard].mean()) == pytest.approx(0.618, abs=0.03)
    assert float(decided.min()) >= 0 and float(decided.max()) <= 1
    decisions.sum().backward()
    assert logits.grad is not None and (logits.grad >= 0).all() and (logits.grad > 0).float().mean() > 0.8
    assert gate.eval().decide(logits)[1].all()


def test_hidden_layer_and_threshold() -> None:
    gate = SaliencyPruning(in_channels=8, out_channels=6, hidden=3, threshold=0.8)
    assert [tuple(p.shape) for p in gate.parameters()] == [(3, 8), (3,), (6, 3), (6,)]
    saliency, decisions = gate(torch.randn(5, 8, 4, 4))
    assert saliency.shape == decisions.shape == (5, 6)
    with torch.no_grad():
        gate.excite.bias.fill_(1.38)  # sigmoid 0.799
        gate.excite.weight.zero_()
    assert not gate.train(False)(torch.zeros(2, 8, 4, 4))[1][:, 1:].any()


def test_the_pooled_input_is_the_mean_over_space_in_float32() -> None:
    gate = with_logits(torch.zeros(1, 4))
    x = torch.randn(3, 4, 5, 6)
    torch.testing.assert_close(gate(x)[0], torch.sigmoid(x.mean((2, 3))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        saliency, decisions = gate(x.bfloat16())
    assert saliency.dtype == decisions.dtype == torch.float32


def test_recorded_decisions_come_by_layer_and_leave_no_hook() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = SaliencyPruning(in_channels=2, out_channels=3)

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(x)[1].sum()

    net = nn.ModuleDict({"a": Layer(), "b": Layer()})
    with recorded_decisions(net) as found:
        net["a"](torch.ones(4, 2, 1, 1))
    assert list(found) == ["a"] and found["a"].shape == (4, 3)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binarize": "straight"}, "binarize must be one of .* got 'straight'.*straight_through"),
        ({"threshold": 1.0}, r"threshold must be a number in \(0, 1\), got 1.0"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1 or null, got 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SaliencyPruning(in_channels=2, out_channels=2, **options)  # type: ignore[arg-type]
