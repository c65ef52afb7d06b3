"""Synthetic runs with the files of real ones: ``result.json`` of schema 1, ``metrics.csv``, ``predictions.npz``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.report.synthetic import SKILL, history, measured, predictions


def make(
    root: Path,
    *,
    method: str = "fpgm",
    model: str = "resnet20",
    dataset: str = "digits",
    ratio: float = 0.4,
    seed: int = 0,
    schedule: str = "oneshot",
    status: str = "complete",
    row: dict[str, Any] | None = None,
    files: bool = True,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write one run below ``root`` and return its folder; the same arguments give the same numbers.

    Args:
        more: further settings of the method.
    """
    settings = {"name": method, "prune_ratio": ratio, "coupling": "free", "round_to": 1, **(more or {})}
    identity = json.dumps([settings, model, dataset, schedule, (row or {}).get("id")])
    run_id = hashlib.sha256(identity.encode()).hexdigest()[:12]
    label = hashlib.sha256(f"{method}{model}{dataset}".encode()).hexdigest()[:6] if "<" in method + dataset else ""
    name = label or f"{method}-{model}-{dataset}"
    folder = root / (f"{name}-{row['id']}" if row else name) / run_id / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(run_id, 16) % 2**32 + seed)
    result = _head(run_id, folder, settings, model, dataset, schedule, seed, row)
    if status == "failed":
        result |= {"status": "failed", "error": "the loss is not finite in phase finetune, epoch 3", "traceback": "…"}
    else:
        correct = predictions(folder, method, dataset, ratio, schedule, seed, rng, files)
        result |= measured(model, dataset, ratio, schedule, correct, rng)
        result["status"] = status
        if files:
            history(folder / "metrics.csv", result["phases"], rng)
    (folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return folder


def _head(
    run_id: str,
    folder: Path,
    settings: dict[str, Any],
    model: str,
    dataset: str,
    schedule: str,
    seed: int,
    row: dict[str, Any] | None,
) -> dict[str, Any]:
    command = f"python -m prunebench method={settings['name']} method.prune_ratio={settings['prune_ratio']}"
    command += f" model={model} dataset={dataset} schedule={schedule} seed={seed}"
    cpu = {"cpu": "AMD EPYC 9654 96-Core Processor", "cores": 2, "threads": 2, "ram_bytes": 2**34, "gpus": []}
    versions = {"python": "3.11.7", "os": "Linux-6.1", "torch": "2.13.0", "pytorch-lightning": "2.6.6"}
    return {
        "schema": 1,
        "run": {
            "id": run_id,
            "folder": str(folder),
            "command": command,
            "seed": seed,
            "config_hash": run_id,
            "started": f"2026-11-{1 + int(run_id, 16) % 20:02d}T10:{seed % 60:02d}:00+00:00",
            "finished": "2026-11-21T10:00:00+00:00",
            "seconds": 61.25,
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
            "versions": versions,
            "hardware": cpu,
        },
        "method": {"name": settings["name"], "settings": settings},
        "model": {"name": model, "settings": {"name": model, "shortcut": "A"}}
        | (
            {"pretrained": {"source": f"{model}.th", "sha256": hashlib.sha256(model.encode()).hexdigest()}}
            if dataset == "cifar10"
            else {}
        ),
        "dataset": {"name": dataset, "settings": {"name": dataset, "batch_size": 128}},
        "schedule": {"name": schedule},
        "trainer": {"precision": "32-true", "deterministic": True},
        "row": (row or {}).get("id"),
        "expected": row,
    }


ROWS = (
    ("l1norm", "resnet56", "l1norm-t1_resnet56_a", 0.08),
    ("l1norm", "resnet56", "l1norm-t1_resnet56_b", 0.35),
    ("fpgm", "resnet56", "fpgm-t1_resnet56_only40_pretrained", 0.4),
    ("fpgm", "resnet20", "fpgm-t1_resnet20_only40", 0.4),
)
"""Rows of real papers: (method, model, name, ratio). One is reproduced (7.7 to 9.4 % removed, as published),
two are not, one has another dense net."""


def populate(root: Path) -> None:
    """A small benchmark: two nets on CIFAR-10 one-shot, fine-tuned runs on digits, and everything that goes wrong."""
    for model in ("resnet20", "resnet56"):
        for method in SKILL:
            for ratio in (0.1, 0.2, 0.3, 0.4, 0.5):
                for seed in range(3 if method == "random" else 1):
                    make(root, method=method, model=model, dataset="cifar10", ratio=ratio, seed=seed)
    for method in ("random", "fpgm", "l1norm"):
        for ratio in (0.3, 0.5):
            for seed in range(3):
                make(root, method=method, ratio=ratio, seed=seed, schedule="finetune")
    for method, model, name, ratio in ROWS:
        row = {"id": name, "changed": [], "source": "secondary", "reported": {"accuracy": 0.931, "macs": 112_000_000}}
        for seed in range(3):
            where: Any = {"model": model, "dataset": "cifar10", "schedule": "finetune", "row": row}
            make(root, method=method, ratio=ratio, seed=seed, **where)
    make(root, method="fpgm", ratio=0.7, schedule="finetune", status="failed")
    row = {"id": "l1norm-t1_vgg16_a", "changed": []}
    make(root, method="l1norm", model="vgg16", dataset="cifar10", schedule="finetune", status="failed", row=row)
    make(root, method="l1norm", ratio=0.6, schedule="finetune", status="missed_target")
    make(root, method="<script>alert(1)</script>", dataset="<script>alert(1)</script>")
    broken = make(root, method="fpgm", ratio=0.9) / "result.json"
    broken.write_text(broken.read_text(encoding="utf-8")[:300], encoding="utf-8")
    foreign = root / "somebody-elses" / "run"
    foreign.mkdir(parents=True, exist_ok=True)
    (foreign / "result.json").write_text('{"accuracy": 0.99}', encoding="utf-8")
