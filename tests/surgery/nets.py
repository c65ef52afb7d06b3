"""Small nets, one for each structure that surgery has to know."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(num_in: int, num_out: int, kernel: int = 3, stride: int = 1, *, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out))


class Chain(nn.Module):
    """Biases, padded max pooling, a flatten over 4x4 pixels, a hidden linear layer with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.hidden = nn.Linear(8 * 4 * 4, 12)
        self.norm = nn.BatchNorm1d(12)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.leaky_relu(self.norm1(self.conv1(x)), 0.1))
        x = torch.tanh(self.conv2(x))
        x = x.view(x.size(0), -1)
        x = F.dropout(F.relu6(self.norm(self.hidden(x))), 0.3, self.training)
        return self.out(x)


class OptionA(nn.Module):
    """Shortcut without parameters; ``how`` names four ways of writing it."""

    def __init__(self, num_in: int, num_out: int, how: str) -> None:
        super().__init__()
        self.extra = num_out - num_in
        self.how = how
        self.pool = nn.AvgPool2d(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "both ends":
            return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        if self.how == "behind":
            return F.pad(self.pool(x), [0, 0, 0, 0, 0, self.extra], "constant", 0)
        x = self.pool(x)
        if self.how == "product":
            return torch.cat((x, x.mul(0)), 1)
        return torch.cat([x, x.new_zeros(x.size(0), self.extra, x.shape[2], x.shape[3])], dim=1)


class Basic(nn.Module):
    def __init__(self, num_in: int, num_out: int, stride: int, how: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False), nn.BatchNorm2d(num_out)
        self.conv2, self.bn2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False), nn.BatchNorm2d(num_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Sequential()
        if stride > 1:
            self.shortcut = conv_norm(num_in, num_out, 1, stride) if how == "B" else OptionA(num_in, num_out, how)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, how: str = "both ends") -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(
            Basic(8, 8, 1, how), Basic(8, 8, 1, how), Basic(8, 16, 2, how), Basic(16, 16, 1, how)
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self, num_in: int, num_mid: int, num_out: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_norm(num_in, num_mid, 1)
        self.conv2 = conv_norm(num_mid, num_mid, 3, stride, groups=groups)
        self.conv3 = conv_norm(num_mid, num_out, 1)
        self.down = conv_norm(num_in, num_out, 1, stride) if stride > 1 or num_in != num_out else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (x if self.down is None else self.down(x)))


class Bottlenecks(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 1, 1))
        self.layer1 = nn.Sequential(Bottleneck(8, 6, 16, 1, groups), Bottleneck(16, 6, 16, 1, groups))
        self.layer2 = nn.Sequential(Bottleneck(16, 8, 20, 2, groups), Bottleneck(20, 8, 20, 1, groups))
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layer2(self.layer1(self.stem(x)))), 1))


class PreActivation(nn.Module):
    """The norm reads the sum itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=True)
        self.bn, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        x = x + self.conv3(F.relu(self.bn3(x)))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))


class Dense(nn.Module):
    """Concatenations with pre-activation, a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in (6, 10, 14, 8, 12)])
        self.convs = nn.ModuleList([nn.Conv2d(width, 4, 3, padding=1, bias=False) for width in (6, 10)])
        self.transition = nn.Conv2d(14, 8, 1, bias=False)
        self.last = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(self.transition(F.relu(self.norms[2](x))), 2)
        x = torch.cat([x, self.last(F.relu(self.norms[3](x)))], dim=-3)
        return self.fc(F.relu(self.norms[4](x)).mean(-1).mean(-1))


class Mobile(nn.Module):
    """Inverted residuals with depthwise convolutions, one with two outputs a channel and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 6, 3, 1), nn.ReLU6())
        self.expand1, self.depth1 = conv_norm(6, 12, 1), conv_norm(12, 12, 3, groups=12)
        self.project1 = conv_norm(12, 6, 1)
        self.depth2 = nn.Conv2d(6, 12, 3, 2, 1, groups=6)
        self.norm2, self.project2 = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 1)
        self.act = nn.Hardswish(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project1(F.relu6(self.depth1(F.relu6(self.expand1(x)))))
        x = self.act(self.project2(self.act(self.norm2(self.depth2(x)))))
        return self.fc(x.mean([2, 3]))


class Squeeze(nn.Module):
    """Squeeze and excitation: a product with a gate of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)
        self.conv2, self.fc = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.rand(1, 6, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        b, c, _, _ = x.size()
        gate = self.up(F.relu(self.down(x.mean((2, 3)).view(b, c))))
        x = x * torch.sigmoid(gate).view(b, c, 1, 1)
        x = self.scale * F.silu(self.conv2(x)) / 2
        return self.fc(x.mean((2, 3)))


class Branches(nn.Module):
    """Parallel convolutions of different widths, concatenated and flattened over 4 pixels; a hidden sum."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(12, affine=False)
        self.act = nn.PReLU(12)
        self.flat = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(48))
        self.one, self.two = nn.Linear(48, 9), nn.Linear(48, 9)
        self.fc = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(self.act(self.norm(torch.cat([self.left(x), self.right(x)], 1))))
        return self.fc(torch.relu(self.one(x) + self.two(x)))


NETS: dict[str, Callable[[], nn.Module]] = {
    "chain": Chain,
    "option A, both ends": lambda: ResNet("both ends"),
    "option A, behind": lambda: ResNet("behind"),
    "option A, product with 0": lambda: ResNet("product"),
    "option A, zeros": lambda: ResNet("zeros"),
    "option B": lambda: ResNet("B"),
    "bottlenecks": Bottlenecks,
    "grouped": lambda: Bottlenecks(groups=2),
    "preactivation": PreActivation,
    "dense": Dense,
    "mobile": Mobile,
    "squeeze": Squeeze,
    "branches": Branches,
}


def build(name: str, *, seed: int = 0) -> nn.Module:
    """The net with random norms, so that an error of one channel is seen."""
    torch.manual_seed(seed)
    net = NETS[name]()
    randomise(net)
    return net.eval()


def randomise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, 0.0, 0.3)


class Frozen(nn.Module):
    """A batch norm of buffers only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias - self.running_mean * scale.flatten()).reshape(1, -1, 1, 1)


class Affine(nn.Module):
    """A learned scale and shift; ``shape`` says where the channels are."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Bias(nn.Module):
    """One number a channel, which a method adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.add(self.bias.view(1, -1, 1, 1)))
