"""Distillation as a formula, and as an object around a method."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.distilled import Distilled, Listening, Teacher, distillation, trains_dense
from prunebench.core.method import NET, Method, Minimise
from prunebench.core.task import Batch, Classification, Task
from prunebench.errors import UserError
from prunebench.training.lit import Lit

TASK = Classification(num_classes=3)
STUDENT, TEACHER = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, -2.0]])
BATCH = (torch.zeros(1, 2), torch.tensor([0]))


class Says(nn.Module):
    """Answers the same logits to everything, and counts how often."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.logits.expand(len(x), -1)


class Counts(Method):
    """Has a buffer, a parameter, an update of its own and a term of its own."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        # two passes over one batch, as methods with sampled weights make them
        both = [task.losses(net, batch), task.losses(net, batch)]
        mean = {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}
        return {**mean, "own": self.scale**2}

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        self.steps += 1
        return super().update(net, batches, task, minimise, clock)


class Deaf(Method):
    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        return {"ce": nn.functional.cross_entropy(net(batch[0]), batch[1])}


def distilled(inner: Method, teacher: nn.Module | None = None) -> Distilled:
    teacher = Says(TEACHER) if teacher is None else teacher
    return Distilled(inner, teacher.requires_grad_(False), weight=0.9, temperature=4.0)


def test_the_numbers_of_the_specification() -> None:
    assert float(distillation(STUDENT, TEACHER, 4.0)) == pytest.approx(16 * 0.0288971, rel=1e-5)
    terms = distilled(Method()).losses(Says(STUDENT), BATCH, TASK)
    assert float(terms["ce"].detach()) == pytest.approx(0.1 * 0.169846, rel=1e-5)
    assert float(terms["distillation"].detach()) == pytest.approx(0.9 * 16 * 0.0288971, rel=1e-5)
    assert float(sum(term.detach() for term in terms.values())) == pytest.approx(0.433103, abs=1e-6)


def test_it_is_the_mean_over_the_batch_and_no_gradient_reaches_the_teacher() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    p, q = (torch.softmax(logits.double() / 3, 1) for logits in (teacher, student))
    expected = 9 * (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(distillation(student, teacher, 3.0).double(), expected, rtol=1e-4, atol=1e-6)
    net, said = Says(STUDENT), Says(TEACHER).requires_grad_(False)
    batch = (torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))
    listening = Listening(TASK, said, weight=0.3, temperature=2.0)
    terms = listening.losses(net, batch)
    torch.testing.assert_close(torch.stack([*terms.values()]).sum(), listening.each_loss(net, batch).mean())
    torch.stack([*terms.values()]).sum().backward()
    assert net.logits.grad is not None and said.logits.grad is None


def test_label_smoothing_and_everything_else_are_the_tasks() -> None:
    smooth = TASK.smoothed(0.2)
    terms = Listening(smooth, Says(TEACHER), weight=0.5, temperature=1.0).losses(Says(STUDENT), BATCH)
    torch.testing.assert_close(terms["ce"], 0.5 * smooth.losses(Says(STUDENT), BATCH)["ce"])
    listening = Listening(TASK, Says(TEACHER), weight=0.5, temperature=1.0)
    assert listening.monitor == TASK.monitor
    torch.testing.assert_close(listening.probabilities(Says(STUDENT), BATCH), torch.softmax(STUDENT, 1))
    copy.deepcopy(listening)  # workers get copies


def test_the_teacher_answers_once_to_a_batch() -> None:
    teacher, net = Says(TEACHER), Says(STUDENT)
    method = distilled(Counts(), teacher)
    method.losses(net, BATCH, TASK)
    assert (teacher.asked, net.asked) == (1, 2)
    method.losses(net, (BATCH[0].clone(), BATCH[1]), TASK)
    assert teacher.asked == 2


def test_a_method_that_asks_no_task_is_refused() -> None:
    with pytest.raises(UserError, match="computes its loss from the net's output itself, so that no teacher is heard"):
        distilled(Deaf()).losses(Says(STUDENT), BATCH, TASK)


def test_every_hook_is_the_methods_own() -> None:
    """Whatever is called with, it arrives at the method, and its answer comes back."""

    class Records(Method):
        pass

    hooks = [name for name, value in vars(Method).items() if callable(value) and not name.startswith("_")]
    assert {"check", "run", "attach", "prune", "extract", "streams", "optimizers", "points", "conclude"} <= set(hooks)
    own = {"losses", "update"}
    for name in set(hooks) - own:
        seen: list[tuple[object, ...]] = []
        setattr(Records, name, lambda self, *args, seen=seen, name=name: seen.append(args) or name)
        given = tuple(object() for _ in list(inspect.signature(vars(Method)[name]).parameters)[1:])
        assert getattr(distilled(Records()), name)(*given) == name
        assert seen == [given]
    for name, value in {
        "schedules": frozenset({"x"}),
        "narrows": True,
        "sizes_given": False,
        "objective": "elbo",
    }.items():
        setattr(Records, name, value)
        assert getattr(distilled(Records()), name) == value
    assert not distilled(Method()).alternates and distilled(Counts()).alternates


def test_an_update_of_the_method_hears_the_teacher_too() -> None:
    inner, found = Counts(), []
    method, clock = distilled(inner), Clock.first(num_epochs=1, steps_per_epoch=1, lr=0.1)
    terms = method.update(Says(STUDENT), {NET: BATCH}, TASK, lambda terms, optimizer=NET: found.append(terms), clock)
    assert terms.keys() == {"ce", "distillation", "own"} and found == [terms] and int(inner.steps) == 1


def test_checkpoints_have_the_names_of_the_method_and_nothing_of_the_teacher() -> None:
    inner, net, phase = Counts(), Says(STUDENT), Phase(name="p", epochs=1, lr=0.1)
    plain = Lit(net, inner, TASK, phase, None, seed=0).state_dict()  # type: ignore[arg-type]
    lit = Lit(net, distilled(inner), TASK, phase, None, seed=0)  # type: ignore[arg-type]
    state = lit.state_dict()
    assert state.keys() == plain.keys() == {"net.logits", "method.scale", "method.steps"}
    assert not lit.automatic_optimization
    lit.load_state_dict({**state, "method.steps": torch.tensor(7), "method.scale": torch.tensor(3.0)})
    assert int(inner.steps) == 7 and float(inner.scale.detach()) == 3.0
    assert len(list(lit.method.parameters())) == 1
    lit.eval()
    assert not inner.training
    with pytest.raises(RuntimeError, match="Missing key"):
        lit.load_state_dict({name: value for name, value in state.items() if name != "method.steps"})


def phase(name: str, *, pretrain: bool = False, active: bool = False, epochs: int = 1) -> Phase:
    return Phase(name=name, epochs=epochs, lr=0.1, pretrain=pretrain, active=active)


@pytest.mark.parametrize(
    ("phases", "pretrained", "expected"),
    [
        ((phase("a", pretrain=True), phase("b", active=True)), False, True),
        ((phase("a", pretrain=True, active=True), phase("b", active=True)), False, False),
        ((phase("a", pretrain=True, active=True), phase("b", active=True)), True, True),
        ((phase("b", active=True),), False, False),
        ((phase("b", active=True),), True, True),
        ((phase("a", pretrain=True, epochs=0), phase("b")), False, False),
        ((phase("a", pretrain=True),), True, False),
    ],
)
def test_where_a_dense_net_is_trained(phases: tuple[Phase, ...], pretrained: bool, expected: bool) -> None:
    assert trains_dense(phases, pretrained=pretrained) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, r"weight must be a number in \(0, 1\], got 0.0"),
        ({"temperature": 0.0}, "temperature must be a number above 0, got 0.0"),
        ({"missing": "skip"}, "missing must be one of refuse, alone, got 'skip'"),
    ],
)
def test_options_outside_their_values(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Teacher(**{"weight": 0.9, "temperature": 4.0, **options})  # type: ignore[arg-type]
