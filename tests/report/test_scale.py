"""20,000 results: in less than 1 GB and on a page of less than 10 MB, with one of them broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.factory import make
from tests.report.synthetic import SKILL

NUM_RESULTS, NUM_SEEDS = 20_000, 5

# In a process of its own, so that its memory is not that of the other tests; ru_maxrss would be: exec keeps it.
PROGRAM = """
import json, sys
from pathlib import Path
from prunebench.report import build
from prunebench.rows import load_papers
report = build(Path(sys.argv[1]), Path(sys.argv[2]), rows=load_papers())
print(json.dumps({
    "runs": len(report.collection.records),
    "left_out": [item.reason for item in report.collection.left_out],
    "bytes": 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]),
    "page_bytes": report.page.stat().st_size,
}))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of 120 different runs under other ids and seeds; the files beside them are links."""
    root = tmp_path_factory.mktemp("scale")
    templates = [
        make(root / "templates", method=method, model=model, dataset="cifar10", ratio=ratio, schedule=schedule)
        for method in SKILL
        for model in ("resnet20", "resnet56")
        for ratio in (0.1, 0.2, 0.3, 0.4, 0.5)
        for schedule in ("oneshot", "finetune")
    ]
    texts = [(folder / "result.json").read_text(encoding="utf-8") for folder in templates]
    for number in range(NUM_RESULTS):
        source, text = templates[number % len(templates)], texts[number % len(texts)]
        result_id = f"{number // (len(templates) * NUM_SEEDS):04x}{source.parent.name[4:]}"
        seed = number // len(templates) % NUM_SEEDS
        folder = root / "runs" / source.parent.parent.name / result_id / f"seed_{seed}"
        folder.mkdir(parents=True)
        own = text.replace(source.parent.name, result_id).replace('"seed": 0', f'"seed": {seed}')
        (folder / "result.json").write_text(own, encoding="utf-8")
        for name in ("metrics.csv", "predictions.npz"):
            if (source / name).exists():
                os.link(source / name, folder / name)
    (folder / "result.json").write_text(own[:1000], encoding="utf-8")
    return root / "runs"


@pytest.mark.slow
def test_twenty_thousand_results(runs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(runs), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["runs"] == NUM_RESULTS - 1
    assert len(found["left_out"]) == 1
    assert found["bytes"] < 1e9
    assert found["page_bytes"] < 10e6
