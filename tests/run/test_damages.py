"""Whatever happens to a file on the disk: no traceback, and no other number."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.errors import UserError
from prunebench.training.lit import Lit
from tests.run.kit import PowerCut, go_on, numbers, same

OFTEN = 5
"""Places at which a bit is flipped in each file."""


# ------------------------------------------------------------------------------------------------------------- damages
def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(max(1, len(content)))]


def flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(max(1, len(content)))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def other_number(content: bytes, draw: random.Random) -> bytes:
    """Another digit in a text, four other bytes in a file of numbers."""
    digits = [match.start() for match in re.finditer(rb"\d", content[:4096])]
    if digits and content[:1] in b"{[m":
        place = draw.choice(digits)
        return content[:place] + (b"7" if content[place : place + 1] != b"7" else b"3") + content[place + 1 :]
    return content[: len(content) // 2] + b"\x01\x02\x03\x04" + content[len(content) // 2 + 4 :]


def not_a_number(content: bytes, draw: random.Random) -> bytes:
    """NaN for a number in JSON, the bytes of a float32 NaN elsewhere."""
    if content[:1] == b"{":
        return re.sub(rb": -?\d[\d.e+-]*", b": NaN", content, count=1 + draw.randrange(3))
    return content[: len(content) // 2] + b"\x00\x00\xc0\x7f" + content[len(content) // 2 + 4 :]


def other_names(content: bytes, draw: random.Random) -> bytes:
    """The first names in a text or a header, one letter changed."""
    return re.sub(rb"\"?[a-z]{3}", lambda found: found[0][:-1] + b"Z", content, count=1 + draw.randrange(5))


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "truncated": truncate,
    "empty": lambda content, draw: b"",
    "null": lambda content, draw: b"null",
    "list": lambda content, draw: b"[]",
    "zeros": lambda content, draw: bytes(len(content)),
    "longer": lambda content, draw: content + b"0",
    "nan": not_a_number,
    "number": other_number,
    "names": other_names,
    "missing": lambda content, draw: None,
    **{f"bit_{number}": flip for number in range(OFTEN)},
}
QUICK = ("truncated", "names", "bit_0")
"""Of these one after the other is done to each file by default."""

STARTED = (
    "dense/phase.json", "dense/weights.safetensors", "dense/best.safetensors", "dense/.lock",
    "run/config.yaml", "run/log.txt", "run/.lock", "run/phases/finetune/last.ckpt", "run/phases/finetune/best.ckpt",
    "run/phases/finetune/times.json", "run/stored/times.json",
    "run/stored/choice-finetune.json", "run/stored/metrics-dense.json", "run/stored/metrics-pruned.json",
    "run/stored/predictions-dense.npz", "run/stored/predictions-pruned.npz",
)  # fmt: skip
ENDED = (
    "run/result.json", "run/config.yaml", "run/metrics.csv", "run/predictions.npz",
    "run/model/net.yaml", "run/model/plan.json", "run/model/weights.safetensors", "run/model/README.md",
)  # fmt: skip
ALSO = ("run/phases/finetune/phase.json", "run/phases/finetune/weights.safetensors", "run/stored/metrics-final.json")
"""Files of an ended run that are read again only where its result is damaged too."""


# ---------------------------------------------------------------------------------------------------------------- runs
def cut_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next training of phase ``finetune`` ends in its second epoch."""
    original = Lit.training_step

    def step(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == "finetune" and self.current_epoch == 1 and batch_idx == 3:
            raise PowerCut
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    outputs = tmp_path_factory.mktemp("whole")
    return outputs, numbers(*go_on(outputs))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        cut_power(patch)
        with pytest.raises(PowerCut):
            go_on(outputs)
    return outputs


def named(outputs: Path, name: str) -> Path:
    """``run/...`` or ``dense/...`` below the one run's or dense net's folder."""
    part, _, rest = name.partition("/")
    (folder,) = (outputs / {"run": "runs"}.get(part, part)).glob("*/*/seed_3")
    return folder / rest


def damage(path: Path, kind: str) -> bool:
    """Whether anything was changed."""
    before = path.read_bytes()
    after = DAMAGES[kind](before, random.Random(f"{path.name} {kind}")) if before else b"x"
    if after is None:
        path.unlink()
    else:
        path.write_bytes(after)
    return after != before


def cases(files: tuple[str, ...]) -> Iterator[Any]:
    for place, file in enumerate(files):
        for kind in DAMAGES:
            quick = kind == QUICK[place % len(QUICK)]
            yield pytest.param(file, kind, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("file", "kind"), list(cases(STARTED)))
def test_an_interrupted_run_ends_with_the_same_numbers(
    file: str, kind: str, half: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(half, tmp_path / "o")
    damage(named(tmp_path / "o", file), kind)
    same(numbers(*go_on(tmp_path / "o")), whole[1])


@pytest.mark.parametrize(("file", "kind"), list(cases(ENDED)))
def test_an_ended_run_has_the_same_numbers(
    file: str, kind: str, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole[0], tmp_path / "o")
    damage(named(tmp_path / "o", file), kind)
    monkeypatch.setattr(Lit, "training_step", None)  # nothing has to be trained again
    same(numbers(*go_on(tmp_path / "o")), whole[1])


@pytest.mark.parametrize(("file", "kind"), list(cases(ALSO)))
def test_a_step_that_is_damaged_like_the_result_is_done_again(
    file: str, kind: str, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "o")
    damage(named(tmp_path / "o", file), kind)
    damage(named(tmp_path / "o", "run/result.json"), "bit_1")
    same(numbers(*go_on(tmp_path / "o")), whole[1])


def test_the_list_of_files_is_that_of_a_run(half: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    """Nothing of a run is left out here."""

    def below(outputs: Path, part: str) -> set[str]:
        root = named(outputs, f"{part}/")
        return {f"{part}/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file()}

    # the error of the interrupted run, which the next start replaces
    assert below(half, "run") | below(half, "dense") == {*STARTED, "run/result.json"}
    again = {name for name in STARTED if not name.startswith("run/phases/") and not name.startswith("dense/")}
    more = {"run/phases/finetune/best.safetensors", "run/stored/metrics-test_best_val.json"}
    more |= {"run/stored/predictions-final.npz", "run/stored/predictions-test_best_val.npz"}
    assert below(whole[0], "run") == again | {*ENDED, *ALSO} | more


def test_left_over_temporaries_go_and_nobody_s_files_do(half: Path, tmp_path: Path) -> None:
    shutil.copytree(half, tmp_path / "o")
    left = [
        named(tmp_path / "o", "run/stored/.metrics-dense.json.abcd1234.tmp"),
        named(tmp_path / "o", "dense/.weights.safetensors.abcd1234.tmp"),
        named(tmp_path / "o", "run/.model.abcd1234.tmp/net.yaml"),
    ]
    mine = named(tmp_path / "o", "run/notes.tmp")
    for path in (*left, mine):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    go_on(tmp_path / "o")
    assert not any(path.exists() for path in left) and mine.exists()
    assert not list((tmp_path / "o").rglob(".*.tmp"))


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free space"):
        go_on(tmp_path)
