"""Nets drawn at random: a list of statements that a forward pass carries out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.surgery.nets import Affine, Bias, Frozen, randomise

SIZE = 8
WIDTHS = (2, 3, 4, 6)
Statement = tuple[str, tuple[int, ...], Any]
"""Name of the statement, places of the tensors that it reads, and an option."""


class RandomNet(nn.Module):
    """Carries out ``statements`` from ``[batch, 3, 8, 8]`` to five numbers; each adds one tensor to those before."""

    def __init__(self, statements: Sequence[Statement], modules: dict[str, nn.Module], *, unread: str = "") -> None:
        super().__init__()
        self.statements = tuple(statements)
        for name, module in modules.items():
            self.add_module(name, module)
        if unread == "head":
            self.head = nn.Linear(4, 2)
        elif unread == "parameter":
            self.scale = nn.Parameter(torch.ones(3))
        elif unread == "buffer":
            self.register_buffer("steps", torch.zeros(2))
        elif unread == "passing buffer":
            self.register_buffer("passing", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for name, places, option in self.statements:
            values.append(getattr(self, f"_{name}")(values, places, option))
        return values[-1]

    # ------------------------------------------------------------------------------------------------- statements

    def _call(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        return self.get_submodule(option)(values[places[0]])

    def _ignored(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        self.get_submodule(option)(values[places[0]])
        return values[places[0]]

    def _function(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        x = values[places[0]]
        if option == "dropout":
            return F.dropout(x, 0.3, self.training)
        return FUNCTIONS[option](x)

    def _write(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        WRITES[option](values[places[0]])
        return values[places[0]]

    def _join(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        return JOINS[option](values[places[0]], values[places[1]])

    def _write_join(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        x, y = values[places[0]], values[places[1]]
        if option == "add_":
            x.add_(y)
        elif option == "mul_":
            x.mul_(y)
        elif option == "-=":
            x -= y
        else:
            x += y
        return values[places[0]]

    def _piece(self, values: list[Tensor], places: tuple[int, ...], option: int) -> Tensor:
        return values[places[0]].chunk(2, 1)[option]

    def _slice(self, values: list[Tensor], places: tuple[int, ...], option: tuple[int, int]) -> Tensor:
        return values[places[0]][:, option[0] : option[1]]

    def _parts(self, values: list[Tensor], places: tuple[int, ...], option: Any) -> Tensor:
        """The pieces in some order, each through a layer of its own or as it is."""
        sizes, layers = option
        pieces = torch.split(values[places[0]], list(sizes), dim=1)
        return torch.cat([self.get_submodule(layer)(pieces[p]) if layer else pieces[p] for p, layer in layers], 1)

    def _swap(self, values: list[Tensor], places: tuple[int, ...], option: None) -> Tensor:
        left, right = torch.split(values[places[0]], values[places[0]].shape[1] // 2, dim=1)
        return torch.cat([right, left], 1)

    def _shuffle(self, values: list[Tensor], places: tuple[int, ...], option: int) -> Tensor:
        batch, width, height, length = values[places[0]].shape
        parts = values[places[0]].view(batch, option, width // option, height, length)
        return parts.transpose(1, 2).contiguous().view(batch, width, height, length)

    def _flat(self, values: list[Tensor], places: tuple[int, ...], option: str) -> Tensor:
        return FLAT[option](values[places[0]])


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "swish": lambda x: x * torch.sigmoid(x),
    "hard swish": lambda x: x * F.relu6(x + 3.0, inplace=True) / 6.0,
    "mish": lambda x: torch.tanh(F.softplus(x)).mul_(x),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "softsign": lambda x: x / (1 + x.abs()),
    "shifted": lambda x: torch.sigmoid(x - 1) - x.exp(),
    "product with itself": lambda x: x * torch.relu(x),
    "double": lambda x: 2 * x,
    "shift": lambda x: x + 1,
    "lower": lambda x: x - 0.5,
    "from one": lambda x: 1 - x,
    "square": lambda x: x**2,
    "border": lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect")[..., 1:-1],
    "resize": lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]),
    "centred": lambda x: x - x.mean((2, 3), keepdim=True),
    "minus": lambda x: -x,
    "pad": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
    "constant": lambda x: x * torch.full((1,), 0.5),
    "same": lambda x: x.view(x.shape),
}
WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu_": lambda x: x.relu_(),
    "F.relu_": F.relu_,
    "inplace": lambda x: F.relu(x, inplace=True),
    "positional": lambda x: F.leaky_relu(x, 0.1, True),
    "mul_": lambda x: x.mul_(0.5),
    "view": lambda x: x.flatten(1).relu_(),
    "data": lambda x: x.detach().relu_(),
}
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "minus": lambda x, y: x - y,
    "multiply": torch.mul,
    "sum": lambda x, y: sum([y], x),
    "concatenate": lambda x, y: torch.cat([x, y], 1),
}
FLAT: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3)),
    "pool": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "view": lambda x: F.adaptive_max_pool2d(x, 2).view(x.size(0), -1),
    "flatten": lambda x: torch.flatten(x, 1),
}


class Excite(nn.Module):
    """Squeeze and excitation in one of the ways in which people write it."""

    def __init__(self, width: int, form: str) -> None:
        super().__init__()
        layer: Callable[..., nn.Module] = nn.Linear if form in ("view", "shape") else partial(nn.Conv2d, kernel_size=1)
        self.down, self.up, self.form = layer(width, 3), layer(3, width), form

    def forward(self, x: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        squeezed = x.mean((2, 3), keepdim=self.form not in ("view", "shape"))
        return GATES[self.form](x, self.up(F.relu(self.down(squeezed))), batch, width)


GATES: dict[str, Callable[[Tensor, Tensor, int, int], Tensor]] = {
    "plain": lambda x, y, b, c: x * torch.sigmoid(y),
    "view": lambda x, y, b, c: x * y.sigmoid().view(b, c, 1, 1),
    "shape": lambda x, y, b, c: torch.sigmoid(y).reshape(*y.shape, 1, 1) * x,
    "by hand": lambda x, y, b, c: x * (F.relu6(y + 3) / 6),
    "expanded": lambda x, y, b, c: x * torch.sigmoid(y).expand_as(x),
    "from one": lambda x, y, b, c: x * (1 + F.hardsigmoid(y)),
    "in place": lambda x, y, b, c: x.mul_(torch.sigmoid(y)),
}


class _Drawer:
    """Draws statements; ``shapes`` are (channels, size) of each tensor so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.statements: list[Statement] = []
        self.modules: dict[str, nn.Module] = {}
        self.shapes: list[tuple[int, int]] = [(3, SIZE)]

    def put(self, name: str, places: tuple[int, ...], option: Any, shape: tuple[int, int]) -> int:
        self.statements.append((name, places, option))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def call(self, place: int, module: nn.Module, shape: tuple[int, int], *, name: str = "call") -> int:
        path = f"{type(module).__name__.lower()}{len(self.modules)}"
        self.modules[path] = module
        return self.put(name, (place,), path, shape)

    def pick(self) -> int:
        """A tensor, mostly a late one, never the input."""
        last = len(self.shapes) - 1
        return last if self.rng.random() < 0.7 or last < 2 else self.rng.randint(1, last)

    def conv(self, place: int, width: int | None = None, *, stride: int = 1) -> int:
        num_in, size = self.shapes[place]
        width = width or self.rng.choice(WIDTHS)
        groups = 2 if num_in % 2 == 0 and width % 2 == 0 and self.rng.random() < 0.2 else 1
        kernel = self.rng.choice((1, 3))
        layer = nn.Conv2d(num_in, width, kernel, stride, kernel // 2, groups=groups, bias=self.rng.random() < 0.5)
        return self.call(place, layer, (width, -(-size // stride)))

    def step(self) -> None:
        kinds = ["conv"] * 4 + ["depthwise", "norm", "norm", "activation", "function", "function", "write", "write"]
        kinds += ["join"] * 4 + ["write_join", "write_join", "pool", "ignored", "dropout"]
        kinds += ["split", "slice", "parts", "parts", "shuffle", "gate", "gate", "transposed"]
        getattr(self, f"draw_{self.rng.choice(kinds)}")(self.pick())

    def draw_conv(self, place: int) -> None:
        self.conv(place, stride=self.rng.choice((1, 1, 1, 2)) if self.shapes[place][1] > 4 else 1)

    def draw_depthwise(self, place: int) -> None:
        width, size = self.shapes[place]
        times = self.rng.choice((1, 1, 2))
        self.call(place, nn.Conv2d(width, width * times, 3, 1, 1, groups=width), (width * times, size))

    def draw_transposed(self, place: int) -> None:
        (num_in, size), width = self.shapes[place], self.rng.choice(WIDTHS)
        shape = (2, 2, 0) if size <= 4 and self.rng.random() < 0.5 else (3, 1, 1)
        layer = nn.ConvTranspose2d(num_in, width, *shape, bias=self.rng.random() < 0.5)
        self.call(place, layer, (width, size * shape[1]))

    def draw_norm(self, place: int) -> None:
        width, _ = self.shapes[place]
        norms = [nn.BatchNorm2d(width)] * 4 + [nn.InstanceNorm2d(width, affine=True), nn.GroupNorm(1, width)]
        norms += [nn.BatchNorm2d(width, affine=False), Frozen(width), Affine(1, width, 1, 1), Bias(width)]
        self.call(place, self.rng.choice(norms), self.shapes[place])

    def draw_activation(self, place: int) -> None:
        width, _ = self.shapes[place]
        kinds = [nn.ReLU(), nn.ReLU(inplace=True), nn.Hardswish(), nn.PReLU(width), nn.PReLU(), nn.Sigmoid(), nn.SiLU()]
        kinds.append(nn.ReLU6(inplace=True))
        self.call(place, self.rng.choice(kinds), self.shapes[place])

    def draw_gate(self, place: int) -> None:
        width, _ = self.shapes[place]
        self.call(place, Excite(width, self.rng.choice(list(GATES))), self.shapes[place])

    def draw_function(self, place: int) -> None:
        name, (width, size) = self.rng.choice(list(FUNCTIONS)), self.shapes[place]
        self.put("function", (place,), name, (width + 2 * (name == "pad"), size))

    def draw_dropout(self, place: int) -> None:
        if self.rng.random() < 0.5:
            self.put("function", (place,), "dropout", self.shapes[place])
        else:
            self.call(place, nn.Dropout(0.3), self.shapes[place])

    def draw_write(self, place: int) -> None:
        if self.rng.random() < 0.3:
            self.call(place, nn.ReLU(inplace=True), self.shapes[place], name="ignored")
        else:
            self.put("write", (place,), self.rng.choice(list(WRITES)), self.shapes[place])

    def draw_ignored(self, place: int) -> None:
        layer = nn.Conv2d(self.shapes[place][0], 3, 1)
        self.call(place, layer, self.shapes[place], name="ignored")

    def partner(self, place: int) -> int:
        """Another tensor of the same shape, drawn or made."""
        others = [p for p, shape in enumerate(self.shapes) if shape == self.shapes[place] and p > 0]
        if self.rng.random() < 0.5:
            return self.rng.choice(others)
        width, size = self.shapes[place]
        sources = [p for p, shape in enumerate(self.shapes) if shape[1] == size]
        return self.conv(self.rng.choice(sources), width)

    def draw_join(self, place: int) -> None:
        kind, other = self.rng.choice([*JOINS, "add"]), self.partner(place)
        width, size = self.shapes[place]
        if kind == "concatenate" and width > 12:
            kind = "add"
        self.put("join", (place, other), kind, (width * (1 + (kind == "concatenate")), size))

    def draw_write_join(self, place: int) -> None:
        other = self.partner(place)
        self.put("write_join", (place, other), self.rng.choice(("add_", "mul_", "+=", "-=")), self.shapes[place])

    def draw_split(self, place: int) -> None:
        width, size = self.shapes[place]
        if width % 2 == 0 and self.rng.random() < 0.5:
            self.put("piece", (place,), self.rng.randint(0, 1), (width // 2, size))
        elif width % 2 == 0:
            self.put("swap", (place,), None, (width, size))

    def draw_shuffle(self, place: int) -> None:
        width, _ = self.shapes[place]
        groups = [number for number in (2, 3) if width % number == 0 and width > number]
        if groups:
            self.put("shuffle", (place,), self.rng.choice(groups), self.shapes[place])

    def draw_slice(self, place: int) -> None:
        width, size = self.shapes[place]
        start = self.rng.randint(0, width - 1)
        stop = self.rng.randint(start + 1, width)
        self.put("slice", (place,), (start, stop), (stop - start, size))

    def draw_parts(self, place: int) -> None:
        width, size = self.shapes[place]
        if width < 2:
            return
        ends = sorted(self.rng.sample(range(1, width), min(width - 1, self.rng.choice((1, 1, 2)))))
        sizes = [stop - start for start, stop in zip([0, *ends], [*ends, width], strict=True)]
        layers, total = [], 0
        for piece in self.rng.sample(range(len(sizes)), self.rng.randint(1, len(sizes))):
            path, num_out = "", sizes[piece]
            if self.rng.random() < 0.6:
                path, num_out = f"part{len(self.modules)}", self.rng.choice(WIDTHS)
                self.modules[path] = nn.Conv2d(sizes[piece], num_out, 3, 1, 1)
            layers.append((piece, path))
            total += num_out
        self.put("parts", (place,), (tuple(sizes), tuple(layers)), (total, size))

    def draw_pool(self, place: int) -> None:
        width, size = self.shapes[place]
        if size > 2:
            self.call(place, self.rng.choice((nn.MaxPool2d(2), nn.AvgPool2d(2))), (width, size // 2))

    def end(self) -> None:
        place, how = len(self.shapes) - 1, self.rng.choice(list(FLAT))
        width, size = self.shapes[place]
        features = width * {"view": 4, "flatten": size * size}.get(how, 1)
        place = self.put("flat", (place,), how, (features, 1))
        if self.rng.random() < 0.5:
            place = self.call(place, nn.Linear(features, 6), (6, 1))
            place = self.call(place, nn.BatchNorm1d(6), (6, 1)) if self.rng.random() < 0.5 else place
            place, features = self.call(place, nn.ReLU(inplace=True), (6, 1)), 6
        self.call(place, nn.Linear(features, 5), (5, 1))


def random_net(seed: int) -> RandomNet:
    """A net that follows from ``seed``, weights included, in evaluation mode."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    drawer = _Drawer(rng)
    drawer.conv(0)
    for _ in range(rng.randint(2, 10)):
        drawer.step()
    drawer.end()
    unread = rng.choice(("", "", "head", "parameter", "buffer", "passing buffer"))
    net = RandomNet(drawer.statements, drawer.modules, unread=unread)
    randomise(net)
    return net.eval()
