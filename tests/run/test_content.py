"""What counts is what files say, not what they are called: data, foreign code, test pictures."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from prunebench.config.identity import dense_folder, run_folder
from prunebench.config.phase import build_phases
from prunebench.config.source import source_sha256
from prunebench.errors import UserError
from prunebench.run import assemble
from prunebench.run.reevaluate import reevaluate
from tests.kit import SHORT, configure, run

TEXT = ("dataset=bytes", "model=transformer_xl", "method=none", "dataset.batch_size=2", "dataset.window=8")
NET = """
import torch
from mine.layers import activation

def net(num_classes):
    layers = torch.nn.Linear(64, 8), activation(), torch.nn.Linear(8, num_classes)
    return torch.nn.Sequential(torch.nn.Flatten(), *layers)
"""


def folders(outputs: Path, *overrides: str) -> tuple[Path, Path]:
    """Of the run and of its shared dense net, as the files are now."""
    config, _ = configure(outputs, *overrides)
    config = assemble.identified(config)
    phase = next(phase for phase in build_phases(config["schedule"]["phases"]) if phase.shared)
    return run_folder(config), dense_folder(config, vars(phase))


def differ(one: tuple[Path, Path], other: tuple[Path, Path]) -> bool:
    assert (one[0] == other[0]) == (one[1] == other[1])
    return one != other


@pytest.fixture
def text(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """``text(content, folder)``: where a run on ``t.txt`` of that content lies."""

    def place(content: bytes, folder: str = "data") -> tuple[Path, Path]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "t.txt").write_bytes(content)
        return folders(tmp_path, *TEXT, "dataset.files=[t.txt]", f"paths.data={tmp_path / folder}")

    return place


@pytest.mark.parametrize("place", [0, 2_600, 2_900], ids=["training text", "validation text", "test text"])
def test_a_text_that_was_rewritten_is_another_run(place: int, text: Callable[..., tuple[Path, Path]]) -> None:
    content = bytes(range(97, 123)) * 120
    first = text(content)
    other = content[: place + 100] + b"!" + content[place + 101 :]
    assert differ(first, text(other))
    assert differ(first, text(other, "elsewhere"))
    # the same text somewhere else, and again at its old place, is the same run
    assert text(content, "elsewhere") == first == text(content)


def test_another_standard_library_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (*TEXT, "dataset.max_bytes=20000")
    first = folders(tmp_path, *small)
    library = tmp_path / "lib"
    library.mkdir()
    (library / "this.py").write_bytes(b"import antigravity\n" * 2000)
    monkeypatch.setattr("prunebench.data.byte_files.sysconfig.get_path", lambda kind: str(library))
    assert differ(first, folders(tmp_path, *small))


def test_pictures_of_a_data_set_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folders(tmp_path, "method=none")
    bunch = load_digits()
    for change in ("images", "target"):
        values = getattr(bunch, change).copy()
        values[7] = 9 - values[7]
        with monkeypatch.context() as patch:
            patch.setattr("sklearn.datasets.load_digits", functools.partial(Bunch, **{**bunch, change: values}))
            assert differ(first, folders(tmp_path, "method=none")), change
    assert folders(tmp_path, "method=none") == first
    assert "data" in assemble.identified(configure(tmp_path)[0])


def test_a_checkpoint_counts_by_content_however_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "with space.pt"

    def place(content: bytes, source: str) -> Path:
        file.write_bytes(content)
        config, _ = configure(tmp_path, "method=none", f"model.pretrained='{source}'")
        return run_folder(config)

    first = place(b"a", str(file))
    assert place(b"a", file.as_uri()) == first
    assert place(b"b", file.as_uri()) == place(b"b", str(file)) != first


def test_foreign_pictures_count_for_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunebench.data.noise import Noise

    first = folders(tmp_path, "ood=noise")
    monkeypatch.setattr(Noise, "_inputs_sha256", lambda self, part: "other")
    other = folders(tmp_path, "ood=noise")
    assert first[0] != other[0] and first[1] == other[1]


# -------------------------------------------------------------------------------------------------------- foreign code
@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``mine`` with a net, whose activation is in another module."""
    folder = tmp_path / "code" / "mine"
    folder.mkdir(parents=True)
    for name, source in {
        "__init__": "",
        "nets": NET,
        "layers": "from torch.nn import ReLU as activation\n",
        "unread": "",
    }.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "source", "counts"),
    [
        ("nets", NET.replace("8)", "9)").replace("(8,", "(9,"), True),
        ("layers", "from torch.nn import Tanh as activation\n", True),
        ("__init__", "import torch\n", True),
        ("unread", "import torch\n", False),
    ],
)
def test_an_own_net_counts_by_its_source(file: str, source: str, counts: bool, package: Path, tmp_path: Path) -> None:
    own = ("model=custom", "model._target_=mine.nets.net", "~model.in_channels", "method=none")
    first = folders(tmp_path, *own)
    (package / f"{file}.py").write_text(source)
    assert differ(first, folders(tmp_path, *own)) == counts


@pytest.mark.parametrize(
    "line", ["from . import layers", "from .layers import activation", "import mine.layers", "from mine import layers"]
)
def test_what_a_net_imports_anywhere_counts(line: str, package: Path) -> None:
    (package / "nets.py").write_text(f"def net():\n    {line}\n    return layers\n")
    first = source_sha256("mine.nets.net")
    (package / "layers.py").write_text("changed = True\n")
    assert first is not None and source_sha256("mine.nets.net") != first


@pytest.mark.parametrize(
    "line",
    [
        "importlib.import_module('mine.layers')",
        "importlib.import_module('.layers', __package__)",
        "importlib.import_module(f'mine.{kind}s')",
        "getattr(__import__('mine.layers'), 'layers')",
        "pydoc.locate('mine.layers.activation')",
    ],
)
def test_what_a_net_imports_by_name_counts(line: str, package: Path) -> None:
    (package / "nets.py").write_text(f"import importlib\ndef net(kind='layer'):\n    return {line}\n")
    first = source_sha256("mine.nets.net")
    (package / "layers.py").write_text("changed = True\n")
    assert first is not None and source_sha256("mine.nets.net") != first


@pytest.mark.parametrize("place", ["__init__.py", "inner/__init__.py", "inner/nets.py"])
def test_the_packages_around_a_net_count(place: str, package: Path) -> None:
    (package / "inner").mkdir()
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "nets.py").write_text("def net():\n    return None\n")
    first = source_sha256("mine.inner.nets.net")
    (package / place).write_text("WIDTH = 16\n")
    assert first is not None and source_sha256("mine.inner.nets.net") != first


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("(Path(__file__).parent / 'widths.json').read_text()", "mine/widths.json"),
        ("(Path(__file__).parent / 'nets' / 'widths.json').read_text()", "mine/nets/widths.json"),
        ("open('widths.txt').read()", "widths.txt"),
        ("torch.load('weights/start.pt')", "weights/start.pt"),
        ("Path(__file__).with_suffix('.json').read_text()", "mine/nets.json"),
        ("(Path(__file__).parent / f'w_{8}.json').read_text()", "mine/w_8.json"),
        ("(Path(__file__).parent / ('q' + '.json')).read_text()", "mine/q.json"),
        ("open(Path(__file__).parent / 'w_%d.json' % 8).read()", "mine/w_8.json"),
        ("next(Path(__file__).parent.glob('*.gj')).read_text()", "mine/any.gj"),
        ("[file.read_text() for file in (Path(__file__).parent / 'all').iterdir()]", "mine/all/one.txt"),
        ("(Path(__file__).parent / 'a' / 'b' / 'c.json').read_text()", "mine/a/b/c.json"),
        ("(Path(__file__).parents[1] / 'x.json').read_text()", "x.json"),
    ],
)
def test_files_that_a_net_reads_count(
    line: str, place: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package.parent)
    file = package.parent / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[8, 8]")
    (package / "nets.py").write_text(f"from pathlib import Path\ndef net():\n    return {line}\n")
    first = source_sha256("mine.nets.net")
    again = source_sha256("mine.nets.net")
    file.write_text("[8, 9]")
    assert first is not None
    assert again == first, "the same files are the same code"
    assert source_sha256("mine.nets.net") != first


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of itself in /proc")
@pytest.mark.parametrize("line", ["open('/proc/stat').read()", "(Path('/proc') / 'stat').read_text()"])
def test_what_the_system_tells_of_itself_is_no_file_of_the_net(line: str, package: Path) -> None:
    (package / "nets.py").write_text(f"from pathlib import Path\ndef net():\n    return {line}\n")
    first = source_sha256("mine.nets.net")
    stood = Path("/proc/stat").read_bytes()
    while Path("/proc/stat").read_bytes() == stood:
        pass
    assert first is not None
    assert source_sha256("mine.nets.net") == first


@pytest.mark.parametrize("edited", ["one", "two"])
def test_files_of_one_name_beside_two_modules_both_count(edited: str, package: Path) -> None:
    read = "from pathlib import Path\nWIDTHS = (Path(__file__).parent / 'widths.json').read_text()\n"
    for part in ("one", "two"):
        (package / part).mkdir()
        (package / part / "__init__.py").write_text(read)
        (package / part / "widths.json").write_text("[8]")
    (package / "nets.py").write_text("from mine import one, two\ndef net():\n    return one.WIDTHS, two.WIDTHS\n")
    first = source_sha256("mine.nets.net")
    (package / edited / "widths.json").write_text("[9]")
    assert first is not None
    assert source_sha256("mine.nets.net") != first


def test_a_net_in_another_place_is_the_same_code(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "widths.json").write_text("[8]")
    (package / "nets.py").write_text("from pathlib import Path\ndef net():\n    return open('widths.json')\n")
    first = source_sha256("mine.nets.net")
    shutil.copytree(package.parent, tmp_path / "elsewhere")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert source_sha256("mine.nets.net") == first
    (tmp_path / "elsewhere" / "mine" / "widths.json").write_text("[9]")
    assert source_sha256("mine.nets.net") != first, "it is the copy that was read"


def test_texts_that_no_file_can_be_called_are_passed_over(package: Path) -> None:
    texts = "'', '.', '..', '/', 'a' * 3, '\\0', '" + "n/" * 120 + "'"
    (package / "nets.py").write_text(f"def net():\n    return {texts}\n")
    first = source_sha256("mine.nets.net")
    (package / "nets.py").write_text(f"def net():\n    return {texts}, 1\n")
    assert source_sha256("mine.nets.net") != first


def test_source_of_others_and_of_nobody() -> None:
    assert source_sha256("torch.nn.Linear") == source_sha256("torch.nn.Linear") is not None
    assert source_sha256("no.such.net") is None
    assert source_sha256("math.sqrt") is None
    assert source_sha256("net") is None


@pytest.mark.slow
def test_the_command_sees_an_edited_net(package: Path, tmp_path: Path) -> None:
    """In processes of their own, as a user does it: the row of the old net is not the new one's."""
    command = [sys.executable, "-m", "prunebench", *SHORT, "model=custom", "model._target_=mine.nets.net"]
    command += ["~model.in_channels", "method=none", "dataset.epochs.train=1", f"paths.outputs={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), *sys.path])}

    def output() -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    output()
    assert "already complete" in output()
    (package / "layers.py").write_text("from torch.nn import Tanh as activation\n")
    assert "already complete" not in output()
    assert len(list(tmp_path.glob("runs/*/*"))) == len(list(tmp_path.glob("dense/*/*"))) == 2


# ------------------------------------------------------------------------------------------------------- test pictures
def test_other_test_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunebench.data.digits import Digits

    _, folder = run(tmp_path, *SHORT, "model=lenet300_100", "schedule=oneshot", "dataset.epochs.train=1")
    read = Digits.read

    def replaced(self: Digits, root: Path) -> Any:
        raw = read(self, root)
        return type(raw)(raw.train_images, raw.train_labels, 255 - raw.test_images, raw.test_labels)

    monkeypatch.setattr(Digits, "read", replaced)
    with pytest.raises(UserError, match="the data are not those of the run: test_inputs_sha256 is"):
        reevaluate(folder)
