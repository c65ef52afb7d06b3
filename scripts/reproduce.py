"""Run what is missing of a paper's table and print it, ours beside the paper's.

    python scripts/reproduce.py paper=fpgm table=1 seeds=3
    python scripts/reproduce.py paper=fpgm table=all budget=quick trainer.precision=bf16-mixed
    python scripts/reproduce.py paper=l1norm table=1 launcher=joblib      rows in parallel through a Hydra launcher

budget=quick trains at most two epochs a phase, each over a tenth of the training set: it shows that a table runs,
says so in the rows, and is never compared with the paper. rows=<glob> picks rows of the table: rows='*resnet56*'.
Each row is its own process; one that fails is named at the end, the others go on. Run it again to go on; two of them
at once share the work. Every other key=value is passed on to each run, hydra.launcher.<key>=<value> to the launcher.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "prunebench").is_dir():  # a checkout, which need not be installed
    sys.path.insert(0, str(ROOT))

import rich.console  # noqa: E402 - the checkout need not be installed
import rich.table  # noqa: E402
import rich.text  # noqa: E402

from prunebench.cli.composition import composed, launchers  # noqa: E402
from prunebench.cli.extras import EXTRA, needed  # noqa: E402
from prunebench.cli.main import identified  # noqa: E402
from prunebench.cli.mistakes import known_keys  # noqa: E402
from prunebench.cli.resolve import resolve  # noqa: E402
from prunebench.cli.suggest import TOP, meant_key, meant_option  # noqa: E402
from prunebench.config import whole  # noqa: E402
from prunebench.config.groups import options  # noqa: E402
from prunebench.errors import UserError, here, nearest, program, stopped  # noqa: E402
from prunebench.measure.metrics import NOTHING  # noqa: E402
from prunebench.report.collect import collect  # noqa: E402
from prunebench.report.configurations import failures, group  # noqa: E402
from prunebench.report.papers import views  # noqa: E402
from prunebench.report.tables import Table  # noqa: E402
from prunebench.rows import load_papers  # noqa: E402
from prunebench.rows.reproduce import launch, plan, rows_of, work  # noqa: E402

_DATA: dict[str, Any] = {}
BUDGETS = ("quick", "full")
OWN = {"paper": "", "table": "all", "rows": "*", "seeds": "1", "budget": "full", "launcher": ""}


def configure(arguments: Sequence[str]) -> dict[str, Any]:
    config = resolve(composed(arguments), arguments)[0]
    whole.check(config)  # here: else each row would fail for itself
    # rows share their data, which are read once here; each run looks at them itself
    key = repr([config.get(group) for group in ("dataset", "ood", "paths")])
    if key not in _DATA:
        _DATA[key] = identified(config).get("data")
    return {**config, "data": _DATA[key]}


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(here(__doc__ or ""))
        return 0
    given = dict(OWN)
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if "=" not in argument:
            words = {"paper": options("rows"), "budget": BUDGETS}
            near = f"; give it a value, {key}=" if key in OWN else meant_option(key, words) or nearest(key, OWN)
            raise UserError(f"{argument} is no key=value{near}")
        if key in OWN:
            given[key] = value
        else:
            if key.isidentifier() and key not in TOP:  # what is no word of either is told before a row is composed
                near = meant_key(key, known_keys([]), (*OWN, *TOP))
                raise UserError(f"{key} is no word of reproduce.py and no key of a run{near}")
            overrides.append(argument)
    if not given["paper"]:
        raise UserError("paper=... must be given, for example paper=fpgm; python scripts/rows.py list shows all rows")
    if not given["seeds"].isdecimal() or not int(given["seeds"]):
        raise UserError(f"seeds must be a whole number of at least 1, got {given['seeds']}")
    if given["budget"] not in BUDGETS:
        raise UserError(f"budget must be {' or '.join(BUDGETS)}, got {given['budget']}")
    (paper,) = load_papers(papers=[given["paper"]])
    rows = rows_of(paper, given["table"], given["rows"])
    seeds = int(given["seeds"])
    for override in overrides:
        if override.lstrip("+~").partition("=")[0] in ("seed", "experiment"):
            raise UserError(f"{override}: rows=<glob> picks the rows and seeds=<number> their seeds, from 0")
    if given["launcher"] and given["launcher"] not in (known := launchers()):
        raise UserError(
            needed("hydra/launcher", given["launcher"], known, key="launcher")
            or f"launcher={given['launcher']} is unknown; it can be {', '.join(known)}; the extra {EXTRA} brings more"
        )
    of_launcher = [word for word in overrides if word.startswith("hydra.")]
    if of_launcher and not given["launcher"]:
        raise UserError(f"{of_launcher[0]} needs a launcher, for example launcher=submitit_slurm")
    overrides = [word for word in overrides if word not in of_launcher]
    tasks = plan(rows, seeds=seeds, quick=given["budget"] == "quick", overrides=overrides, configure=configure)
    try:
        failed = launch(given["launcher"], tasks, of_launcher) if given["launcher"] else work(tasks)
    except KeyboardInterrupt as error:
        return stopped(error, "; the same command goes on from here")
    outputs = Path(os.environ.get("PRUNEBENCH_OUTPUTS", "outputs"))
    for override in overrides:
        if override.startswith("paths.outputs="):
            outputs = Path(override.split("=", 1)[1])
    names = {row.name for row in rows}
    records = collect(outputs / "runs").records
    for view in views([paper], group(records), failures(records)):
        for table, _ in view.tables:
            show(table, names)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def show(table: Table, names: set[str]) -> None:
    """Print the lines of these rows, without columns that are empty in all of them, and the notes about them."""
    lines = [line for line in table.rows if line[0].below in names]
    if not lines:
        return
    # the name says the model and the data set; the state has a column of its own
    skipped = ("Row", "State", "Model", "Data set")
    used = [i for i, column in enumerate(table.columns) if column.title not in skipped]
    used = [i for i in used if any(line[i].text != NOTHING for line in lines)]
    shown = rich.table.Table(title=table.title, title_justify="left")
    shown.add_column("row", no_wrap=True)
    shown.add_column("state", no_wrap=True)
    for i in used:
        column = table.columns[i]
        shown.add_column(column.full.replace(", ", "\n"), justify="right" if column.numeric else "left")
    for line in lines:
        shown.add_row(
            _in_lines(line[0].below.split("-", 1)[1]),
            rich.text.Text(f"{line[1].text}\n{line[1].below}".strip().replace(", ", "\n")),
            *(rich.text.Text(f"{line[i].text} {line[i].mark}".strip()) for i in used),
        )
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 160  # a file wraps nothing
    console.print(shown)
    console.print(rich.text.Text(", ".join(f"{letter} = {meaning}" for letter, meaning in table.marks)))
    for note in table.notes:
        head = note.split(":")[0]
        if head in names or not head.startswith(f"{table.title.split(':')[0]}-"):
            console.print(rich.text.Text(f"- {note}"))


def _in_lines(name: str, width: int = 26) -> str:
    """A name broken behind its own marks, not within a word."""
    lines = [""]
    for word in re.findall(r"[^-_]+[-_]*|[-_]+", name):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


if __name__ == "__main__":
    program(lambda: main(sys.argv[1:]))
