"""What a net says of itself where it goes: a model card beside its files, and facts inside of an exported file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.config.source import OWN
from prunebench.core.asked import beside
from prunebench.core.result import CHECKSUM, FILE, in_integers, read_result, removed, shown_stages, summary
from prunebench.disk.seal import file_sha256
from prunebench.errors import UserError
from prunebench.nets import package
from prunebench.nets.spec import Spec

NAME = f"{package.FOLDER}/README.md"
LICENCE = "not stated; that of the data and of the weights that training began with applies"


def model_card(result: Mapping[str, Any], spec: Spec) -> str:
    """A page for whoever gets the net: what was cut, what was measured on what, how, and what it is not good for.

    Args:
        result: of the run, complete but for its checksum.
        spec: of the saved net.
    """
    run, cost, latency = result["run"], result["cost"], result.get("latency") or {}
    number = f"{result['metrics']['final'].get('num_samples', 0):,}"
    names = {group: _cell(result[group]["name"]) for group in ("model", "method", "dataset", "schedule")}
    head = ["", *(stage.label for stage in shown_stages(result))]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *([label, *cells] for label, cells in summary(result))]
    interval = result["guarantee"].get("accuracy_interval_95")
    lines = [
        f"# {names['model']}, pruned by {names['method']}, for {names['dataset']}",
        "",
        f"{removed(cost)}. Schedule {names['schedule']}, seed {run['seed']}, status {result['status']}.",
        *(f"{line[0].upper()}{line[1:]}." for line in beside(result.get("budget") or {})),
        "",
        *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows),
        "",
        f"Measured on {number} test samples of {names['dataset']} after the last epoch; nothing was chosen on them.",
    ]
    if interval is not None:
        low, high = (f"{100 * bound:.2f}" for bound in interval)
        lines.append(f"The accuracy of this one net has the 95 % interval {low} to {high} % (Clopper-Pearson).")
    lines += [f"{line[0].upper()}{line[1:]}." for line in in_integers(result)]
    if latency:
        threads = f"{latency['threads']} thread{'' if latency['threads'] == 1 else 's'}"
        where = f"{latency['device_name']}, {threads}, {latency['dtype']}"
        lines.append(f"Times are medians on {where}; on another machine they are others.")
    lines += [
        "",
        "## Use",
        "",
        f"Inputs: {_inputs(spec)}. Outputs: {_outputs(spec)}.",
        "",
        *_use(spec, integers="quantized" in result["metrics"]),
        "",
        "## Limits",
        "",
        "Nothing is known of samples of another kind than the data set's. What pruning does to single classes is not",
        "seen in a mean: `predictions.npz` of the run has each test sample.",
        "",
        *(f"- {_cell(warning)}" for warning in result.get("warnings") or ()),
        "",
        f"Licence: {LICENCE}.",
    ]
    return "\n".join(lines) + "\n"


def facts(folder: Path, stage: str = "final") -> dict[str, str]:
    """What an exported file carries: name, inputs, classes, the run that it is from, its accuracy, a licence field.

    Args:
        folder: of a run, or its ``model``; without a result beside it, what the net alone says.
        stage: at which the file's net was measured.
    """
    spec = package.read_spec(folder)
    found = {"name": spec.name, "input_shape": json.dumps(["batch", *spec.example_shape[1:]]), "licence": LICENCE}
    for key in ("mean", "std", "class_names"):
        if (value := getattr(spec, key)) is not None:
            found[key] = json.dumps(list(value))
    if spec.preparation is not None:
        found["preparation"] = spec.preparation
    run = package.model_folder(folder).parent
    try:
        result = read_result(run)
    except UserError:
        return found
    measured = result.get("metrics", {}).get(stage, {})
    found |= {"run": str(result["run"]["id"]), "result_sha256": str(result.get(CHECKSUM) or file_sha256(run / FILE))}
    if "accuracy" in measured:
        found["test_accuracy"] = f"{measured['accuracy']:.6f}"
    return found


def _use(spec: Spec, *, integers: bool) -> list[str]:
    """How to get at the net."""
    trust, flag, needs = "", "", ""
    if (module := spec.target.rpartition(".")[0]).partition(".")[0] != OWN:
        trust, flag = ", trust=True", " --trust"
        needs = f" Both import `{_cell(module)}`, which must be on the path (`PYTHONPATH`); an ONNX file does not."
    lines = [
        f"`prunebench.load(<this folder>{trust})` gives a `torch.nn.Module`, `python scripts/export.py <this folder>",
        f"--to onnx{flag}` an ONNX file with the tensors `input` and `output`.{needs}",
    ]
    if integers:
        lines.append("In integers, as measured, it is `../export/final_int8.onnx`; `--to int8` writes that with facts.")
    return lines


def _inputs(spec: Spec) -> str:
    shape = " x ".join(map(str, spec.example_shape[1:]))
    if spec.mean is None or spec.std is None:
        return f"`{spec.example_dtype}` [batch, {shape}]"
    numbers = [", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std)]
    cut = f"{_cell(spec.preparation)}; " if spec.preparation else ""
    pixels = f"{cut}pixels in [0, 1] less the mean ({numbers[0]}), divided by the deviation ({numbers[1]})"
    return f"`{spec.example_dtype}` [batch, {shape}], {pixels}"


def _outputs(spec: Spec, most: int = 20) -> str:
    names: Sequence[str] = spec.class_names or ()
    if not names:
        return "scores before the softmax"
    shown = ", ".join(map(_cell, names[:most])) + (", ..." if len(names) > most else "")
    return f"scores before the softmax of {len(names)} classes: {shown}"


def _cell(text: str) -> str:
    """Text that a table of Markdown takes for text."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
