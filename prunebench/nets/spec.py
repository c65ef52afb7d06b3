"""What a saved net says of itself in ``net.yaml``, held against types and bounds before anything is built from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from prunebench.config.arguments import fitted
from prunebench.config.ranges import Among, FiniteFloat, PositiveFloat, PositiveInt
from prunebench.disk.yaml_files import read_yaml, to_yaml
from prunebench.errors import UserError

SCHEMA = 1
MAX_INPUT = 1 << 24
"""Values of one input: five pictures of 1024 x 1024 in colour."""
MAX_MEMBERS = 1000
MAX_AXES = 8
MAX_ELEMENTS = 1 << 29
"""Parameters and buffers of a dense net: 2 GiB in float32, twice the largest net of the papers."""
MAX_WORDS = 300
"""Letters of a sentence."""
MAX_TENSORS = 20_000
"""Tensors of a dense net; ResNet-152 has 932."""
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
NAME = re.compile(r"[^/\\\0.][^/\\\0]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything about a saved net but its plan and weights.

    Attributes:
        target: dotted path of the function or class that builds the dense net.
        arguments: its keyword arguments.
        name: name of the net in results.
        example_shape: shape of one input, with a batch dimension of 1.
        example_dtype: its type, for example ``float32``.
        mean, std: per-channel normalisation of inputs in [0, 1], None if unknown.
        class_names: names of the classes in the order of the outputs, None if unknown.
        preparation: how a picture of any size became an input, in words; None = as it is stored.
        layers: layers that stand where the dense net has others, see :mod:`prunebench.surgery.rebuild`.
        members: of an ensemble of small nets: what was cut from each, as in ``plan.json``; an empty text is what
            ``plan.json`` says. None = it is one net.
    """

    target: str
    arguments: Mapping[str, Any]
    name: str
    example_shape: Sequence[PositiveInt]
    example_dtype: Annotated[str, Among(DTYPES)] = "float32"
    mean: Sequence[FiniteFloat] | None = None
    std: Sequence[PositiveFloat] | None = None
    class_names: Sequence[str] | None = None
    preparation: str | None = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    members: Sequence[str] | None = None

    def example(self) -> Tensor:
        """Zeros of the input's shape and type."""
        return torch.zeros(tuple(self.example_shape), dtype=getattr(torch, self.example_dtype))

    def to_yaml(self) -> str:
        """As :func:`read_spec` reads it. Raises UserError if an argument is no plain data."""
        values = asdict(self)
        if self.preparation is None:
            del values["preparation"]  # a net without one is the same file, and checksum, as before there were any
        return to_yaml({"schema": SCHEMA, **values})


def read_spec(path: Path) -> Spec:
    """The content of ``net.yaml``.

    Raises:
        UserError: it is damaged, of another schema, or a value is of another type or larger than any net's.
    """
    content = read_yaml(path)
    if "schema" not in content:
        raise UserError(f"{path} is damaged (it has no schema); save the net again")
    if (schema := content.pop("schema")) != SCHEMA:
        raise UserError(f"{path} has schema {schema!s:.50}, this version reads {SCHEMA}; save the net again")
    try:
        spec = Spec(**fitted(Spec, content, where=path.name))
        _check(spec)
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}); save the net again") from None
    return spec


def _check(spec: Spec) -> None:
    """What types do not say."""
    shape = list(spec.example_shape)
    if not 1 <= len(shape) <= MAX_AXES or math.prod(shape) > MAX_INPUT:
        raise UserError(
            f"example_shape must have 1 to {MAX_AXES} axes and at most {MAX_INPUT:,} values, got {shape!r:.99}"
        )
    if spec.members is not None and not 1 <= len(spec.members) <= MAX_MEMBERS:
        raise UserError(f"members must be 1 to {MAX_MEMBERS:,} nets, got {len(spec.members):,}")
    if len(spec.preparation or "") > MAX_WORDS:
        raise UserError(f"preparation must have at most {MAX_WORDS} letters, got {len(spec.preparation or ''):,}")
    if not NAME.fullmatch(spec.name):
        raise UserError(f"the name {spec.name[:100]!r} is no file name of at most 100 letters")
    if not all(isinstance(key, str) for key in spec.arguments):
        raise UserError("the keys of arguments must be names")
    for layer, row in spec.layers.items():
        whole = set(row) == {"target", "arguments"} and isinstance(row["arguments"], Mapping)
        if not (whole and all(isinstance(key, str) for key in (layer, *row["arguments"]))):
            raise UserError(f"layers.{layer} must be a table with target and arguments")


@contextmanager
def without_memory() -> Iterator[None]:
    """Nets that are built inside have no numbers; one that is too large for any machine ends it.

    Raises:
        UserError: more tensors or elements than any net has; by then no memory was taken for them.
    """
    found = {"tensors": 0, "elements": 0}

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        found["tensors"] += tensor is not None
        found["elements"] += 0 if tensor is None else tensor.numel()
        if found["tensors"] > MAX_TENSORS or found["elements"] > MAX_ELEMENTS:
            raise UserError(
                f"the net would have more than {MAX_ELEMENTS:,} numbers or {MAX_TENSORS:,} tensors; "
                "give trust=True if it has"
            )

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()
