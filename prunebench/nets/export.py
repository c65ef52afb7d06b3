"""A saved net for other programs: ONNX, ``torch.export`` or plain tensors, compared with the net output by output."""

from __future__ import annotations

import copy
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from prunebench.config.arguments import fit
from prunebench.config.ranges import Among, PositiveInt
from prunebench.disk.atomic import write_bytes
from prunebench.disk.paths import make_folder
from prunebench.errors import UserError, first_line
from prunebench.nets import package
from prunebench.nets.spec import Spec
from prunebench.nets.weights import read_into, to_bytes

TOLERANCE = 1e-4  # largest allowed difference of two outputs
SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".safetensors"}
FORMATS = tuple(SUFFIX)
INTEGERS = "int8"
"""The format that no net is written in anew: the file is the one that was measured."""
COMPARED_BATCHES = (1, 3, 8)  # sizes that a dynamic batch must take

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A written file: its format, place, size in bytes, and the largest difference to the net's outputs.

    None = not compared: it is the file that was measured itself.
    """

    form: str
    path: Path
    num_bytes: int
    max_abs_diff: float | None


def export(
    folder: Path | str,
    form: str,
    *,
    output: Path | None = None,
    batch: int | None = None,
    facts: Mapping[str, str] | None = None,
    trust: bool = False,
) -> Exported:
    """Write the net of a run in another format and compare both on random inputs.

    Args:
        folder: a run folder or its ``model`` folder.
        form: ``onnx``, ``torch_export`` (.pt2) or ``state_dict`` (.safetensors).
        output: file to write; by default ``export/<name><suffix>`` in the folder.
        batch: fixed batch size of the exported graph; None leaves it dynamic. A state dict has no batch size.
        facts: what an ONNX file shall say of its net (``metadata_props``).
        trust: see ``prunebench.load``.

    Raises:
        UserError: unknown format, an optional package is missing, the graph cannot be exported, or the outputs
            differ by more than 1e-4; then no file is left.
    """
    fit(form, Annotated[str, Among(FORMATS)], "export: the format")
    fit(batch, PositiveInt | None, "export: the batch size")
    net, spec = package.load(folder, trust=trust), package.read_spec(folder)
    if not spec.example().is_floating_point():
        raise UserError(f"export: {spec.name} takes {spec.example_dtype} inputs; only nets for images are exported")
    path = output or Path(folder) / "export" / f"{spec.name}{SUFFIX[form]}"
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"export: {path} is a folder; give the file to write in --output")
    # written beside the target and renamed, so that a failure leaves neither a wrong nor half a file;
    # the suffix stays last because torch.export looks at it
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}{SUFFIX[form]}")
    try:
        with torch.no_grad():
            difference = _write(net, spec, form, temporary, batch)
        if form == "onnx" and facts:
            _describe(temporary, facts)
        size = temporary.stat().st_size
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(form, path, size, difference)


def export_measured(source: Path, output: Path, facts: Mapping[str, str]) -> Exported:
    """Write the ONNX file of a run that was measured itself, with what it shall say of its net.

    Args:
        source: the file.
        output: the file to write.
        facts: see :func:`export`.

    Raises:
        UserError: it cannot be written.
    """
    make_folder(output.parent)
    model = onnx.load(source)
    onnx.helper.set_model_props(model, dict(facts))
    content = model.SerializeToString()
    write_bytes(output, content)
    return Exported(INTEGERS, output, len(content), None)


def _write(net: nn.Module, spec: Spec, form: str, path: Path, batch: int | None) -> float:
    """Write the file, run it, and give the largest difference of the outputs if it is within the tolerance."""
    writer = {"onnx": _onnx, "torch_export": _torch_export, "state_dict": _state_dict}[form]
    # a graph traced with one sample may take the 1 for a constant
    runner = writer(net, _inputs(spec, batch or 2, seed=0), path, batch is None)
    sizes = COMPARED_BATCHES if batch is None else (batch,) * len(COMPARED_BATCHES)
    difference = _difference(net, runner, [_inputs(spec, size, seed=1 + i) for i, size in enumerate(sizes)])
    if not difference <= TOLERANCE:  # NaN differs
        raise UserError(
            f"export: the outputs of the {form} file differ from the net's by {difference:.2e}, more than "
            f"{TOLERANCE:.0e}; no file was left"
        )
    return difference


def _describe(path: Path, facts: Mapping[str, str]) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, path)


def _inputs(spec: Spec, batch: int, *, seed: int) -> Tensor:
    """Normalised inputs are about standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *spec.example_shape[1:], generator=generator).to(spec.example().dtype)


def _difference(net: nn.Module, runner: Runner, inputs: list[Tensor]) -> float:
    differences = []
    for x in inputs:
        expected, found = net(x), runner(x)
        if expected.shape != found.shape:
            raise UserError(f"export: the outputs have shape {list(found.shape)} instead of {list(expected.shape)}")
        differences.append((expected - found).abs().max())
    return float(torch.stack(differences).max())


def _state_dict(net: nn.Module, example: Tensor, path: Path, dynamic: bool) -> Runner:
    path.write_bytes(to_bytes(net))
    again = copy.deepcopy(net)
    for tensor in again.state_dict().values():
        tensor.zero_()  # every number must come from the file
    read_into(again, path)
    return again


def _torch_export(net: nn.Module, example: Tensor, path: Path, dynamic: bool) -> Runner:
    with _export_errors("torch_export"):
        program = torch.export.export(net, (example,), dynamic_shapes=_shapes(dynamic))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # see _forget_source
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _onnx(net: nn.Module, example: Tensor, path: Path, dynamic: bool) -> Runner:
    to_onnx(net, example, path, dynamic=dynamic)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def to_onnx(net: nn.Module, example: Tensor, path: Path, *, dynamic: bool = True) -> None:
    """Write ``net`` as an ONNX file that takes ``input`` and gives ``output``.

    Args:
        net: in evaluation mode.
        example: inputs, ``[at least 2, ...]`` where the batch is ``dynamic``.

    Raises:
        UserError: the net cannot be exported.
    """
    with _export_errors("onnx"), _known_noise():
        torch.onnx.export(
            net,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=_shapes(dynamic),
        )
    _forget_source(path)


def _forget_source(path: Path) -> None:
    """Leave out of an ONNX file where each of its operations came from.

    The exporter notes stack traces: lines and places of somebody's code, more bytes than a small net has weights.
    """
    model = onnx.load(path)
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


def _shapes(dynamic: bool) -> tuple[dict[int, torch.export.Dim], ...] | None:
    return ({0: torch.export.Dim("batch")},) if dynamic else None


def _root(error: BaseException) -> BaseException:
    """What was raised first: the exporter's own error is a page about itself."""
    return error if error.__cause__ is None else _root(error.__cause__)


@contextmanager
def _export_errors(form: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the exporters have no common error, and each sort of failure has its own
        reason = first_line(_root(error))
        raise UserError(
            f"export: {form} cannot express this net ({reason}); if its forward depends on the batch size, "
            "fix that with --batch 1"
        ) from error


# what torch 2.13's exporter logs on every call, without meaning for these nets: logger -> part of the message
KNOWN_NOISE = {
    "torch.onnx._internal.exporter._registration": "torchvision is not installed",
    "onnx_ir._convenience": "Attribute type is ambiguous because it is an empty sequence",
}


@contextmanager
def _known_noise() -> Iterator[None]:
    """Silences the exporter's ``KNOWN_NOISE`` and one deprecation inside torch, and nothing else."""
    with ExitStack() as stack:
        for name, text in KNOWN_NOISE.items():
            logger, known = logging.getLogger(name), partial(_is_other, text)
            logger.addFilter(known)
            stack.callback(logger.removeFilter, known)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield


def _is_other(text: str, record: logging.LogRecord) -> bool:
    return text not in record.getMessage()
