from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.nets.weights import read_into, to_bytes


class Odd(nn.Module):
    """Two slices of one memory, a transposed and an empty tensor, and three types of buffers."""

    def __init__(self) -> None:
        super().__init__()
        memory = torch.arange(12.0)
        self.low, self.high = nn.Parameter(memory[:5]), nn.Parameter(memory[5:])
        self.turned = nn.Parameter(torch.randn(3, 4).T)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("kept", torch.tensor([True, False]))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("short", torch.randn(3).bfloat16())


def test_every_tensor_comes_back(tmp_path: Path) -> None:
    net = Odd()
    (tmp_path / "w").write_bytes(to_bytes(net))
    again = copy.deepcopy(net)
    for tensor in again.state_dict().values():
        tensor.zero_()
    read_into(again, tmp_path / "w")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in again.state_dict().items())


def test_equal_nets_have_equal_bytes() -> None:
    net = Odd()
    assert to_bytes(net) == to_bytes(copy.deepcopy(net))


def test_tensors_of_another_net_are_refused_and_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(to_bytes(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))))
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    before = copy.deepcopy(net.state_dict())
    message = r"2 tensors differ, the first is '1.bias' with shape \[2\] in the file and \[5\] in the net"
    with pytest.raises(UserError, match=message):
        read_into(net, tmp_path / "w")
    with pytest.raises(UserError, match=r"'1.bias' with shape \[2\] in the file and none in the net"):
        read_into(net[:1], tmp_path / "w")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("running_var", -1.0, "running_var holds negative variances"),
        ("running_var", float("nan"), "running_var holds values that are not finite"),
        ("weight", float("inf"), "weight holds values that are not finite"),
    ],
)
def test_impossible_numbers_of_a_file_without_checksum_are_refused(
    tmp_path: Path, name: str, value: float, message: str
) -> None:
    net = nn.BatchNorm2d(2)
    before = copy.deepcopy(net.state_dict())
    (tmp_path / "w").write_bytes(safetensors.torch.save({**before, name: torch.tensor([1.0, value])}))
    with pytest.raises(UserError, match=message):
        read_into(net, tmp_path / "w")
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
