from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.measure import latency


class Clock:
    """A clock that only moves when a net runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.factor = 1.0  # slowness of the machine
        self.drift = 1.0  # what each call multiplies it with
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2  # as if another process had taken half of the time


class Sleeper(nn.Module):
    def __init__(self, clock: Clock, name: str, seconds: float) -> None:
        super().__init__()
        self.clock, self.name, self.seconds = clock, name, seconds

    def __deepcopy__(self, memo: object) -> Sleeper:
        return Sleeper(self.clock, self.name, self.seconds)

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert not self.training
        self.clock.now += self.seconds * len(x) * self.clock.factor
        self.clock.factor *= self.clock.drift
        self.clock.calls.append(self.name)
        return x


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(
        latency, "time", SimpleNamespace(perf_counter=fake.perf_counter, process_time=fake.process_time)
    )
    return fake


def test_medians_and_speedup(clock: Clock) -> None:
    nets = {"dense": Sleeper(clock, "d", 0.004), "final": Sleeper(clock, "f", 0.001)}
    result = latency.compare(nets, torch.zeros(1, 2), batches=(1, 8), min_seconds=0.1)
    assert result["dense"]["batch_1_ms"] == pytest.approx(4.0)
    assert result["final"]["batch_8_ms"] == pytest.approx(8.0)
    assert result["final"]["batch_1_spread_ms"] == pytest.approx(0.0)
    assert result["speedup"] == {"batch_1": pytest.approx(4.0), "batch_8": pytest.approx(4.0)}
    # the faster net decides: 0.1 s in steps of 1 ms, then of 8 ms
    assert result["dense"]["batch_1_repetitions"] == result["final"]["batch_1_repetitions"] in (100, 101)
    assert result["final"]["batch_8_repetitions"] == 13
    assert json.loads(json.dumps(result)) == result


def test_nets_run_in_turn_in_alternating_order(clock: Clock) -> None:
    nets = {"dense": Sleeper(clock, "d", 0.3), "final": Sleeper(clock, "f", 0.3)}
    result = latency.compare(nets, torch.zeros(1, 2), batches=(1,), min_seconds=0.1)
    assert result["dense"]["batch_1_repetitions"] == 9
    assert "".join(clock.calls) == "dd" + "ff" + "dffd" * 4 + "df"


def test_drift_of_the_machine_does_not_look_like_a_speedup(clock: Clock) -> None:
    clock.drift = 1.01
    nets = {"dense": Sleeper(clock, "d", 0.01), "final": Sleeper(clock, "f", 0.01)}
    result = latency.compare(nets, torch.zeros(1, 2), batches=(1,), min_seconds=0.3)
    assert result["speedup"]["batch_1"] == pytest.approx(1.0, abs=0.011)
    assert result["dense"]["batch_1_spread_ms"] > 0.5


def test_short_calls_are_repeated_a_limited_number_of_times(clock: Clock) -> None:
    result = latency.compare({"net": Sleeper(clock, "n", 1e-9)}, torch.zeros(1, 2), batches=(1,))
    assert result["net"]["batch_1_repetitions"] == latency.MAX_REPETITIONS
    assert result["speedup"] == {"batch_1": 1.0}


def test_real_nets_are_left_as_they_were() -> None:
    small, large = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3))
    example = torch.zeros(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    result = latency.compare({"dense": large, "final": small}, example, batches=(1, 4), min_seconds=0.01)
    assert result["speedup"]["batch_4"] > 1
    assert result["dense"]["batch_1_ms"] > 0
    assert (result["device"], result["threads"], result["dtype"]) == ("cpu", torch.get_num_threads(), "float32")
    assert result["device_name"]
    assert result["memory_format"] == "channels_last"
    assert large.training
    assert int(large.get_buffer("1.num_batches_tracked")) == 0


@pytest.mark.parametrize(
    ("nets", "shape", "batches"),
    [({}, (1, 3), (1,)), ({"net": nn.ReLU()}, (0, 3), (1,)), ({"net": nn.ReLU()}, (1, 3), (0,))],
)
def test_misuse_is_refused(nets: dict[str, nn.Module], shape: tuple[int, ...], batches: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="latency: needs nets"):
        latency.compare(nets, torch.zeros(shape), batches=batches)


class ByContent(Sleeper):
    """Takes as long as its sample says."""

    def __deepcopy__(self, memo: object) -> ByContent:
        return ByContent(self.clock, self.name, self.seconds)

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 1
        self.clock.now += self.seconds * float(x)
        self.clock.calls.append(self.name)
        return x


def test_single_samples_have_times_of_their_own(clock: Clock) -> None:
    nets = {"dense": Sleeper(clock, "d", 0.004), "dynamic": ByContent(clock, "y", 0.001)}
    result = latency.compare_samples(nets, torch.tensor([1.0, 2.0, 3.0, 4.0, 8.0])[:, None])
    assert result["num_samples"] == 5
    assert result["dense"] == {
        "median_ms": pytest.approx(4.0),
        "spread_ms": pytest.approx(0.0),
        "cpu_median_ms": pytest.approx(2.0),
        "speedup": pytest.approx(1.0),
        "cpu_speedup": pytest.approx(1.0),
    }
    dynamic = result["dynamic"]
    assert dynamic["median_ms"] == pytest.approx(3.0)
    assert dynamic["spread_ms"] == pytest.approx(2.0)  # quartiles 2 and 4
    assert dynamic["speedup"] == dynamic["cpu_speedup"] == pytest.approx(4 / 3)
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(UserError, match="at least two samples"):
        latency.compare_samples(nets, torch.ones(1, 1))
