"""Made-up radio galaxies in the files' format of MiraBest, for machines without the real ones.

No result on them says anything about real galaxies: FR I are two blobs brightest near the centre, FR II two lobes
brightest at their ends, on a noisy background, at a random angle.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prunebench.data.mirabest import BATCHES, SIDE, MiraBest

Pixels = npt.NDArray[np.uint8]
TRAIN_LABELS = {0: 297, 1: 43, 2: 8, 3: 167, 4: 2, 5: 378, 6: 3, 7: 171, 8: 17, 9: 13}
TEST_LABELS = {0: 42, 1: 6, 2: 1, 3: 24, 4: 1, 5: 54, 6: 1, 7: 24, 8: 2, 9: 2}
"""How many pictures have which label, as in MiraBest."""
SECOND_KIND = (5, 6, 7)  # labels of FR II
BEAM, NOISE = 3.5, 2.0  # standard deviation of a point, in pixels, and of the noise, in grey values


def draw(label: int, random: np.random.Generator) -> Pixels:
    """One picture, ``[150 * 150]``."""
    hybrid, second = label >= 8, label in SECOND_KIND
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(14, 40)
    bright = random.uniform(90, 200)
    steps = np.linspace(0.15, 1, 8)  # from the centre outwards
    image = NOISE * random.standard_normal((SIDE, SIDE))
    for side in (1, -1):
        edge_bright = second if not hybrid else side == 1
        peaks = bright * (steps**3 if edge_bright else (1.1 - steps) ** 1.5) * random.uniform(0.6, 1, len(steps))
        rows, columns = _beams(side * length * steps * np.sin(angle)), _beams(side * length * steps * np.cos(angle))
        image += (rows * peaks) @ columns.T
    return image.clip(0, 255).astype(np.uint8).ravel()


def _beams(offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Profiles along one axis of points at ``offsets`` pixels from the centre, ``[150, points]``."""
    places = np.arange(SIDE) - (SIDE - 1) / 2
    found: npt.NDArray[np.float64] = np.exp(-((places[:, None] - offsets) ** 2) / (2 * BEAM**2))
    return found


def batch(title: str, labels: list[int], random: np.random.Generator) -> bytes:
    """A pickled batch as in the official archives."""
    content = {
        "batch_label": title,
        "labels": labels,
        "data": [draw(label, random) for label in labels],
        "filenames": [np.str_(f"synthetic_{number}.png") for number in range(len(labels))],
    }
    return pickle.dumps(content, protocol=3)


class SyntheticRadio(MiraBest):
    """As many made-up pictures as MiraBest has real ones, always the same, read through the same reader.

    Args:
        **common: the arguments of :class:`~prunebench.data.mirabest.MiraBest`.
    """

    def fetch(self, root: Path) -> None:
        """Nothing to do: the pictures are computed."""

    def _contents(self, root: Path) -> dict[str, bytes]:
        random = np.random.default_rng(0)
        train = random.permutation([label for label, num in TRAIN_LABELS.items() for _ in range(num)])
        parts = [part.tolist() for part in np.array_split(train, len(BATCHES) - 1)]
        parts.append([label for label, num in TEST_LABELS.items() for _ in range(num)])
        return {name: batch(name, labels, random) for name, labels in zip(BATCHES, parts, strict=True)}
