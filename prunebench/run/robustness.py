"""What a net still gets right when somebody changes its test pictures on purpose: ``metrics.<stage>.robust``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.config import named
from prunebench.config.identity import run_sha256
from prunebench.core.context import Run
from prunebench.core.task import Batch
from prunebench.data.base import Data
from prunebench.data.loaders import ImageData
from prunebench.data.splits import some_of
from prunebench.errors import UserError
from prunebench.measure.attacks import PAPER, Attack, Space, log_mean
from prunebench.measure.statistics import clopper_pearson
from prunebench.measure.vulnerability import Distances
from prunebench.nets import package

_STRIDE = 1_000_003  # between the seeds of two attacks, as everywhere
_TOLERANCE = 1e-3  # a pixel may be outside of [0, 1] by so much: rounding


@dataclass(frozen=True)
class Adversary:
    """An attack, and the net that it looks at.

    Attributes:
        attack: how examples are made.
        source: on which net; None = the one that is measured.
        space: of the source's inputs. ``content``: checksum of its run.
    """

    attack: Attack
    source: nn.Module | None = None
    space: Space | None = None
    content: str | None = None


def make_adversary(
    settings: Mapping[str, Any] | None, data: Data, model: Mapping[str, Any], *, trust: bool
) -> Adversary | None:
    """The adversary of the config group ``attack``; None without.

    Args:
        data: set up. ``model``: settings of the run's own net, whose code is called anyway.

    Raises:
        UserError: there are no pictures to attack, too few of them, or the source is no net for them.
    """
    if settings is None:
        return None
    attack: Attack = named.build("attack", settings, expects=Attack, trust=trust)
    if not isinstance(data, ImageData):
        raise UserError(
            f"attack={attack.name} changes the pixels of pictures with labels, and dataset={data.name} has none; "
            "leave attack out"
        )
    _chosen(attack, data)
    first, _ = next(iter(data.test(batch_size=attack.batch_size)))
    _check_range(Space.of(data.mean, data.std, attack.threat_model).pixels(first), attack, data)
    if not attack.source:
        return Adversary(attack)
    folder = Path(attack.source)
    spec = package.read_spec(folder)
    where = f"attack.source={folder}"
    if list(spec.example_shape) != list(data.example().shape) or spec.mean is None or spec.std is None:
        raise UserError(
            f"{where} holds a net for inputs of {list(spec.example_shape)}, those of dataset={data.name} are "
            f"{list(data.example().shape)}; give a run on the same pictures"
        )
    net = package.load(folder, trust=trust and spec.target == model["_target_"])
    with torch.no_grad():
        classes = net(data.example()).shape[-1]
    if classes != data.num_classes:
        raise UserError(f"{where} holds a net for {classes} classes, dataset={data.name} has {data.num_classes}")
    space = Space.of(spec.mean, spec.std, attack.threat_model)
    return Adversary(attack, net.requires_grad_(False), space, run_sha256(folder))


def robustness(adversary: Adversary, net: nn.Module, predict: Callable[[Batch], Tensor], run: Run) -> dict[str, Any]:
    """Accuracy of ``predict`` on attacked test pictures, and how far its features move.

    An example that the attack has changed counts as right if the mean prediction is right on it; a picture that was
    wrong before the attack is no exception.

    Args:
        net: what ``predict`` runs, in evaluation mode on ``run.device``.
        predict: probabilities ``[S, B, classes]`` of a batch of inputs and labels.

    Returns:
        ``attack`` (its settings; ``access`` white_box or black_box), ``num_samples``, ``correct``, ``accuracy``,
        ``interval`` (Clopper-Pearson, 95 %), ``max_distance`` (largest change of a pixel, measured) and what
        :meth:`~prunebench.measure.vulnerability.Distances.summarise` says.

    Raises:
        UserError: the pixels are not in [0, 1].
    """
    attack, data = adversary.attack, run.data
    assert isinstance(data, ImageData)
    space = Space.of(data.mean, data.std, attack.threat_model)
    moved_features = Distances(run.template, run.example)
    correct, seen, largest = 0, 0, 0.0
    for first, (inputs, labels) in _batches(attack, data):
        pixels = space.pixels(inputs)
        _check_range(pixels, attack, data)
        draws = torch.Generator().manual_seed(attack.seed * _STRIDE + first)
        scores = _scores(adversary, predict, space, labels)
        attacked = attack.examples(scores, pixels, labels, draws)
        with torch.no_grad(), moved_features.watching(net, len(labels)):
            both = torch.cat([inputs, space.inputs(attacked)])
            found = predict((both, torch.cat([labels, labels]))).mean(0)[len(labels) :]
        correct += int((found.argmax(1) == labels).sum())
        seen += len(labels)
        largest = max(largest, float((attacked - pixels).abs().max()))
    black = {} if adversary.source is None else {"source_sha256": adversary.content}
    facts = {**attack.facts(), "access": "black_box" if black else "white_box", "seed": attack.seed, **black}
    return summarise(correct, seen, largest, moved_features, facts)


def summarise(
    correct: int, num_samples: int, largest: float, moved: Distances, attack: Mapping[str, Any]
) -> dict[str, Any]:
    """The counts as :func:`robustness` returns them."""
    return {
        "attack": dict(attack),
        "num_samples": num_samples,
        "correct": correct,
        "accuracy": correct / num_samples,
        "interval": list(clopper_pearson(correct, num_samples)),
        "max_distance": largest,
        **moved.summarise(),
    }


def _scores(
    adversary: Adversary, predict: Callable[[Batch], Tensor], space: Space, labels: Tensor
) -> Callable[[Tensor], Tensor]:
    if adversary.source is None:
        # a part of the batch may be asked for, too: no prediction depends on its label
        return lambda pixels: log_mean(predict((space.inputs(pixels), labels[: len(pixels)])))
    source, own = adversary.source.to(labels.device).eval(), adversary.space
    assert own is not None

    def scores(pixels: Tensor) -> Tensor:
        # under the official threat model the two nets must be given the same: inputs are pixels there
        logits: Tensor = source(own.inputs(pixels))
        return logits.float()

    return scores


def _chosen(attack: Attack, data: ImageData) -> Tensor | None:
    """Places of the test pictures that are attacked, in order; None = all."""
    if attack.num_samples is None:
        return None
    what = f"{data.name} has {data.num_test} test pictures (attack.num_samples)"
    found = some_of(torch.arange(data.num_test), attack.num_samples, seed=attack.seed, draw="attack", what=what)
    return found.sort().values


def _batches(attack: Attack, data: ImageData) -> Iterator[tuple[int, Batch]]:
    """Batches of the pictures that are attacked, each with the place of its first one in the test set."""
    chosen, place = _chosen(attack, data), 0
    waiting: list[tuple[Tensor, Tensor]] = []
    first = 0
    for inputs, labels in data.test(batch_size=attack.batch_size):
        if chosen is None:
            yield place, (inputs, labels)
        else:
            inside = chosen[(chosen >= place) & (chosen < place + len(labels))] - place
            waiting.append((inputs[inside.to(inputs.device)], labels[inside.to(labels.device)]))
            if sum(len(part) for _, part in waiting) >= attack.batch_size:
                yield first, _joined(waiting)
                waiting, first = [], place + len(labels)
        place += len(labels)
    if sum(len(part) for _, part in waiting):
        yield first, _joined(waiting)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> Batch:
    inputs, labels = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def _check_range(pixels: Tensor, attack: Attack, data: ImageData) -> None:
    low, high = float(pixels.min()), float(pixels.max())
    if attack.threat_model == PAPER and not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise UserError(
            f"attack={attack.name} changes pixels between 0 and 1, and those of dataset={data.name} reach from "
            f"{low:.3g} to {high:.3g}; take a set without noise"
        )
