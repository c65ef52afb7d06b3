"""The numbers of synthetic runs: costs of a pruned ResNet, predictions with a given accuracy, learning curves."""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.config.phase import Phase
from prunebench.measure.guarantee import against
from prunebench.measure.statistics import clopper_pearson

# data set -> classes, training, validation and test examples, dense accuracy
DATA = {
    "cifar10": (10, 45_000, 5_000, 10_000, 0.9339),
    "digits": (10, 1_293, 144, 360, 0.9720),
    "<script>alert(1)</script>": (10, 100, 10, 200, 0.8),
}
BLOCKS = {"resnet20": 3, "resnet56": 9}
# accuracy points lost at half of the MACs, in fractions, before any fine-tuning
SKILL = {"random": 0.42, "l1norm": 0.20, "l2norm": 0.19, "fpgm": 0.16, "bn_scale": 0.24, "bn_importance": 0.13}


def measured(
    model: str, dataset: str, ratio: float, schedule: str, correct: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, Any]:
    classes, train, val, test, dense = DATA[dataset]
    final, layers, dense_macs, dense_params = _costs(model, ratio)
    accuracy = float(correct.mean())
    stage = {"split": "test", "num_samples": test, "ece_bins": 15, "ece_norm": "l1"}
    loss = 1 - accuracy
    metrics = {
        "dense": stage | {"accuracy": dense, "nll": 0.29, "ece": 0.038, "brier": 0.108},
        "pruned": stage | {"accuracy": max(0.1, accuracy - 0.02), "nll": 0.9, "ece": 0.06, "brier": 0.2},
        "final": stage
        | {"accuracy": accuracy, "nll": 0.3 + 3 * loss, "ece": 0.035 + 0.3 * loss, "brier": 0.1 + loss}
        | {"correct": int(correct.sum()), "interval": list(clopper_pearson(int(correct.sum()), test))},
    }
    macs, params = final
    slow = 1 + 0.03 * rng.standard_normal()
    times = {"dense": (7.4, 118.0), "final": (7.4 * (0.35 + 0.65 * macs / dense_macs) * slow, 118 * macs / dense_macs)}
    epochs = {"finetune": [("pretrain", 30), ("finetune", 10)], "simultaneous": [("train", 40)]}.get(schedule, [])
    epochs = epochs[1:] if dataset == "cifar10" else epochs  # pretrained
    return {
        "metrics": metrics,
        "cost": {
            "dense": {
                "macs": dense_macs,
                "flops": 2 * dense_macs,
                "params": dense_params,
                "file_bytes": 4 * dense_params,
            },
            "final": {"macs": macs, "flops": 2 * macs, "params": params, "file_bytes": 4 * params},
            "macs_removed": 1 - macs / dense_macs,
            "params_removed": 1 - params / dense_params,
            "speedup_macs": dense_macs / macs,
            "per_layer": layers,
        },
        "latency": {
            "device": "cpu",
            "device_name": "AMD EPYC 9654 96-Core Processor",
            "threads": 2,
            **{
                stage: {"batch_1_ms": a, "batch_1_spread_ms": a / 9, "batch_64_ms": b, "batch_64_spread_ms": b / 20}
                for stage, (a, b) in times.items()
            },
            "speedup": {f"batch_{n}": times["dense"][i] / times["final"][i] for i, n in enumerate((1, 64))},
        },
        "equivalence": {"max_abs_diff": 1.9e-6},
        "budget": {},
        "not_pruned": [{"layer": "linear", "reason": "its output is the net's output"}],
        "phases": [_phase(name, count, dense_macs, train) for name, count in epochs],
        "guarantee": {
            "accuracy_interval_95": list(clopper_pearson(int(correct.sum()), test)),
            "test_evaluations": 3,
            "selection": "last_epoch",
            "objective": "map",
            "num_seeds": 1,
            # against a net that gets every second example right
            "against": against(np.arange(test) % 2 == 0, correct, name="dense"),
        },
        "data": {
            "name": dataset,
            "num_train": train,
            "num_val": val,
            "num_test": test,
            "num_classes": classes,
            "split_seed": 0,
            "test_labels_sha256": hashlib.sha256(dataset.encode()).hexdigest(),
        },
    }


def _phase(name: str, epochs: int, macs: int, train: int) -> dict[str, Any]:
    lr = [0.1 * 0.5 * (1 + math.cos(math.pi * e / epochs)) for e in range(epochs)]
    phase = Phase(name=name, epochs=epochs, lr=0.1, lr_schedule="cosine", pretrain=name == "pretrain")
    phase = replace(phase, prune=name == "finetune", active=name == "train")
    # JSON has no infinity, see result.write_json
    settings = {key: None if value == math.inf else value for key, value in asdict(phase).items()}
    return {
        "name": name,
        "epochs": epochs,
        "seconds": 1.5 * epochs,
        "train_macs": 3 * macs * train * epochs,
        "lr": lr,
        "best_epoch": epochs - 1,
        "selected_epoch": epochs - 1,
        "settings": settings,
    }


@cache
def _costs(model: str, ratio: float) -> tuple[tuple[int, int], list[dict[str, Any]], int, int]:
    """(MACs, parameters) and layers of a pruned ResNet with all convolutions at one ratio, then the dense counts."""
    rows, sums = [], [[0, 0], [0, 0]]
    blocks = BLOCKS.get(model, 3)
    shapes = [("conv1", 3, 16, 32)]
    for stage, (width, size) in enumerate(((16, 32), (32, 16), (64, 8)), 1):
        for block in range(blocks):
            before = width // 2 if stage > 1 and block == 0 else width
            shapes += [(f"layer{stage}.{block}.conv1", before, width, size)]
            shapes += [(f"layer{stage}.{block}.conv2", width, width, size)]
    for i, (name, inputs, outputs, size) in enumerate(shapes):
        kept = outputs - int(outputs * ratio * (0.75 + 0.5 * (i % 5) / 4))
        own_inputs = inputs - int(inputs * ratio) if name.endswith("conv2") else inputs
        for total, (a, b) in zip(sums, ((inputs, outputs), (own_inputs, kept)), strict=True):
            total[0] += 9 * a * b * size**2
            total[1] += 9 * a * b + 2 * b
        cost = {"macs": 9 * own_inputs * kept * size**2, "params": 9 * own_inputs * kept}
        rows.append({"layer": name, "kind": "conv", "in_channels": own_inputs, "out_channels": kept} | cost)
        rows[-1]["dense_out_channels"] = outputs
        norm = {"layer": name.replace("conv", "bn"), "kind": "norm", "macs": 0, "params": 2 * kept}
        rows.append(norm | {"in_channels": None, "out_channels": None, "dense_out_channels": None})
    rows.append(
        {"layer": "linear", "kind": "linear", "macs": 640, "params": 650, "in_channels": 64, "out_channels": 10}
    )
    rows[-1]["dense_out_channels"] = 10
    dense, final = sums
    return (final[0] + 640, final[1] + 650), rows, dense[0] + 640, dense[1] + 650


@cache
def _examples(dataset: str) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Difficulty and label of each test example: what one net gets wrong is hard for the others too."""
    classes, *_, test, _ = DATA[dataset]
    rng = np.random.default_rng(7)
    return rng.standard_normal(test), rng.integers(classes, size=test).astype(np.int16)


def predictions(
    folder: Path,
    method: str,
    dataset: str,
    ratio: float,
    schedule: str,
    seed: int,
    rng: np.random.Generator,
    files: bool,
) -> NDArray[np.bool_]:
    difficulty, label = _examples(dataset)
    classes, *_, dense = DATA[dataset]
    lost = SKILL.get(method, 0.2) * (ratio / 0.3) ** 2.2 * (1.0 if schedule == "oneshot" else 0.08)
    accuracy = max(1 / classes, dense - lost + 0.002 * rng.standard_normal())
    low, high = -30.0, 30.0
    for _ in range(50):  # the shift at which the mean chance of being right is the accuracy
        shift = (low + high) / 2
        chance = 1 / (1 + np.exp(3 * difficulty - shift))
        low, high = (shift, high) if chance.mean() < accuracy else (low, shift)
    correct = rng.random(len(chance)) < chance
    if files:
        # surer than right, as trained nets are
        confidence = np.clip(1 / (1 + np.exp(1.3 * (3 * difficulty - shift) - 0.5)), 1.05 / classes, 1)
        np.savez_compressed(
            folder / "predictions.npz",
            label=label,
            prediction=np.where(correct, label, (label + 1) % classes).astype(np.int16),
            confidence=confidence.astype(np.float32),
            correct=correct,
        )
    return correct


def history(path: Path, phases: list[dict[str, Any]], rng: np.random.Generator) -> None:
    rows = []
    for phase in phases:
        for epoch, lr in enumerate(phase["lr"]):
            done = (epoch + 1) / phase["epochs"]
            loss = 2.2 * math.exp(-4 * done) + 0.05 + 0.02 * rng.random()
            row = {"phase": phase["name"], "epoch": epoch, "lr": lr, "seconds": 1.5, "train/ce": loss}
            accuracy = 0.95 - 0.7 * math.exp(-5 * done) - 0.02 * rng.random()
            rows.append(row | {"val/accuracy": accuracy, "val/nll": loss + 0.1 + 0.1 * done**2})
    if rows:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
