"""What torch-uncertainty 0.13.0 says of generated predictions; it cannot be installed beside the pinned torch."""

from __future__ import annotations

import torch
from torch import Tensor

AURC_TRAPEZOIDS = 0.2661397800588526
"""``AURC``: the same risks, integrated by trapezoids from 1/N to 1 and divided by 1 - 1/N."""
FPR95 = 0.9507042169570923
"""``FPR95`` with errors as positives and 1 - confidence as score, float32."""
CLASS_WISE_ECE = 0.08547694598536108
"""``ClasswiseCalibrationError`` with 15 bins."""
TEMPERATURE = 1.7967923879623413
"""``TemperatureScaler`` with lr 1 and 200 iterations, float32."""


def predictions() -> tuple[Tensor, Tensor]:
    """Probabilities [400, 5] and labels [400], 116 of the predictions wrong."""
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 5, generator=draws, dtype=torch.float64)
    kept = torch.rand(400, generator=draws) < 0.6
    labels = torch.where(kept, logits.argmax(1), torch.randint(0, 5, (400,), generator=draws))
    return torch.softmax(logits, 1), labels
