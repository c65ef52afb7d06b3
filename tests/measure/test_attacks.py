"""FGSM and PGD: their bounds, by hand on a linear net, and beside torchattacks and foolbox."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.measure.attacks import FGSM, OFFICIAL, PAPER, PGD, AutoAttack, Space, climb, log_mean, random_start
from tests.measure.peer_attacks import FOOLBOX_PGD, TORCHATTACKS_FGSM, TORCHATTACKS_PGD, pictures, small_net

COMMON: dict[str, Any] = {
    "name": "x",
    "threat_model": PAPER,
    "source": None,
    "num_samples": None,
    "batch_size": 8,
    "seed": 0,
}


def pgd(**options: Any) -> PGD:
    settings = {"eps": 0.1, "step": 0.03, "steps": 7, "restarts": 1, "random_start": True}
    return PGD(**COMMON, **{**settings, **options})


class Shift(nn.Module):
    """Pixels to what a net is given, as its first layer."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def forward(self, pixels: Tensor) -> Tensor:
        return self.space.inputs(pixels)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- what must hold for every example


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("start", [False, True])
def test_an_example_is_a_picture_near_the_clean_one(eps: float, start: bool) -> None:
    pixels, labels = pictures()
    moved = pgd(eps=eps, random_start=start).examples(small_net(), pixels, labels, draws())
    assert float((moved - pixels).abs().max()) <= eps + 1e-6
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert torch.equal(moved, pixels) == (eps == 0)
    fgsm = FGSM(**COMMON, eps=eps).examples(small_net(), pixels, labels, draws())
    assert float((fgsm - pixels).abs().max()) <= eps + 1e-6 and torch.equal(fgsm, pixels) == (eps == 0)


def test_the_official_threat_model_leaves_the_ball() -> None:
    """Standardised pictures, clipped to [0, 1]: what the paper's threat model forbids."""
    pixels, labels = pictures()
    mean, std = [0.1307], [0.3081]
    distances = {}
    for name in (PAPER, OFFICIAL):
        net, space = Space.of(mean, std, PAPER), Space.of(mean, std, name)
        clean = space.pixels(net.inputs(pixels))
        moved = pgd().examples(nn.Sequential(Shift(space), small_net()), clean, labels, draws())
        distances[name] = float((moved - clean).abs().max())
    assert distances[PAPER] <= 0.1 + 1e-6
    assert distances[OFFICIAL] > 0.3  # a black pixel is at -0.42 and goes to 0


def test_pixels_and_inputs_are_inverse() -> None:
    pixels, _ = pictures()
    colours = pixels.expand(-1, 3, -1, -1)
    space = Space.of([0.1, 0.2, 0.3], [0.5, 0.25, 0.2], PAPER)
    inputs = space.inputs(colours)
    assert float(inputs[0, 2, 0, 0]) == pytest.approx((float(pixels[0, 0, 0, 0]) - 0.3) / 0.2)
    torch.testing.assert_close(space.pixels(inputs), colours)
    same = Space.of([0.1, 0.2, 0.3], [0.5, 0.25, 0.2], OFFICIAL)
    assert torch.equal(same.inputs(colours), colours) and torch.equal(same.pixels(colours), colours)


# -- by hand


def test_on_a_linear_net_every_pixel_goes_to_its_end() -> None:
    """ln p of two classes with logits (w x, 0): for the label 0 the NLL rises against the sign of w."""
    weight = torch.tensor([1.0, -2.0, 0.5, -0.1]).view(1, 4)

    def scores(pixels: Tensor) -> Tensor:
        logits = pixels.flatten(1) @ weight.T
        return torch.cat([logits, torch.zeros_like(logits)], 1)

    pixels, labels = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    expected = torch.tensor([0.4, 0.6, 0.4, 0.6]).view(1, 1, 2, 2)
    torch.testing.assert_close(FGSM(**COMMON, eps=0.1).examples(scores, pixels, labels, draws()), expected)
    # 4 steps of 0.03 reach 0.12 and are brought back
    found = climb(scores, pixels, labels, eps=0.1, step=0.03, steps=4, start=pixels)
    torch.testing.assert_close(found, expected)
    two = climb(scores, pixels, labels, eps=0.1, step=0.03, steps=2, start=pixels)
    torch.testing.assert_close(two, torch.tensor([0.44, 0.56, 0.44, 0.56]).view(1, 1, 2, 2))
    # the step that is not given: 2.5 eps / steps
    assert pgd(step=None, eps=0.2, steps=10).step == pytest.approx(0.05)


def test_the_start_is_uniform_in_the_ball_and_follows_from_the_seed() -> None:
    pixels = torch.full((50, 1, 20, 20), 0.5)
    noise = (random_start(pixels, 0.2, draws(3)) - 0.5) / 0.2
    assert -1 <= float(noise.min()) < -0.99 and 0.99 < float(noise.max()) <= 1
    assert abs(float(noise.mean())) < 0.02 and float(noise.std()) == pytest.approx(3**-0.5, abs=0.01)
    assert torch.equal(random_start(pixels, 0.2, draws(3)), random_start(pixels, 0.2, draws(3)))
    assert not torch.equal(random_start(pixels, 0.2, draws(3)), random_start(pixels, 0.2, draws(4)))


def test_of_several_restarts_the_worst_one_stays() -> None:
    pixels, labels = pictures()
    net = small_net()
    one, five = (pgd(steps=1, eps=0.3, restarts=n).examples(net, pixels, labels, draws()) for n in (1, 5))

    def nll(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(x), labels, reduction="none")

    with torch.no_grad():
        right = net(one).argmax(1) == labels
        assert bool((nll(five) >= nll(one) - 1e-6)[right].all()) and not torch.equal(one, five)


def test_the_mean_of_several_predictions_is_attacked() -> None:
    """Two nets: the gradient is that of ln of the mean probability, by finite differences."""
    nets = [small_net(seed).double() for seed in (0, 1)]
    pixels, labels = (part[:1] for part in pictures())
    pixels = pixels.double().requires_grad_(True)

    def loss(x: Tensor) -> Tensor:
        samples = torch.stack([torch.softmax(net(x), 1) for net in nets])
        return -log_mean(samples)[0, labels[0]]

    (gradient,) = torch.autograd.grad(loss(pixels), pixels)
    shift = torch.zeros_like(pixels)
    shift.view(-1)[37] = 1e-5
    with torch.no_grad():
        slope = (loss(pixels + shift) - loss(pixels - shift)) / 2e-5
        expected = -torch.stack([torch.softmax(net(pixels), 1) for net in nets]).mean(0)[0, labels[0]].log()
        assert float(loss(pixels)) == pytest.approx(float(expected))
    assert float(gradient.view(-1)[37]) == pytest.approx(float(slope), rel=1e-4)


def test_a_net_keeps_its_gradients_and_its_mode() -> None:
    pixels, labels = pictures()
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        pgd().examples(net, pixels, labels, draws())
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"attack.restarts=3 needs attack.random_start=true"):
        pgd(restarts=3, random_start=False)
    with pytest.raises(UserError, match=r"eps must be .*-1"):
        pgd(eps=-1.0)


# -- peers


def recorded(name: str) -> Tensor:
    return {"fgsm": TORCHATTACKS_FGSM, "pgd": TORCHATTACKS_PGD, "foolbox": FOOLBOX_PGD}[name]


@pytest.mark.parametrize("name", ["fgsm", "pgd", "foolbox"])
def test_the_examples_are_those_of_the_peers(name: str) -> None:
    """Recorded sums of each picture, and the pictures themselves where the peer is installed."""
    pixels, labels = pictures()
    net = small_net()
    ours = (
        FGSM(**COMMON, eps=0.1).examples(net, pixels, labels, draws())
        if name == "fgsm"
        else pgd(random_start=False).examples(net, pixels, labels, draws())
    )
    torch.testing.assert_close(ours.sum((1, 2, 3)), recorded(name), rtol=0, atol=1e-3)
    if (live := PEERS[name](net, pixels, labels)) is not None:
        torch.testing.assert_close(ours, live, rtol=0, atol=1e-6)


def peer(name: str) -> Any:
    """The package, None where it is not installed; they import what others have deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def by_torchattacks(kind: str, **options: Any) -> Callable[[nn.Module, Tensor, Tensor], Tensor | None]:
    def attack(net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor | None:
        package = peer("torchattacks")
        return package and getattr(package, kind)(net, eps=0.1, **options)(pixels, labels)

    return attack


def by_foolbox(net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor | None:
    foolbox = peer("foolbox")
    if foolbox is None:
        return None
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.03, steps=7, random_start=False)
    found: Tensor = attack.run(model, pixels, foolbox.criteria.Misclassification(labels), epsilon=0.1)
    return found


PEERS = {
    "fgsm": by_torchattacks("FGSM"),
    "pgd": by_torchattacks("PGD", alpha=0.03, steps=7, random_start=False),
    "foolbox": by_foolbox,
}


# -- AutoAttack


def test_autoattack_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"needs the package pyautoattack: pip install 'prunebench\[robust\]'"):
        AutoAttack(**COMMON, eps=0.1)


@pytest.mark.slow
def test_autoattack_is_at_least_as_strong_as_pgd() -> None:
    pytest.importorskip("pyautoattack", reason="the extra robust is not installed")
    pixels, _ = pictures()
    net = small_net()
    labels = net(pixels).argmax(1)  # all right before the attack
    ours = pgd(eps=0.05, step=0.01, steps=20).examples(net, pixels, labels, draws())
    theirs = AutoAttack(**COMMON, eps=0.05).examples(net, pixels, labels, draws())
    assert float((theirs - pixels).abs().max()) <= 0.05 + 1e-6
    assert float(theirs.min()) >= 0 and float(theirs.max()) <= 1
    right = [int((net(x).argmax(1) == labels).sum()) for x in (pixels, ours, theirs)]
    assert right[2] <= right[1] < right[0]
