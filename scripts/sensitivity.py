"""What each width of each layer is worth and costs, one layer cut at a time.

    python scripts/sensitivity.py method=l1norm model=resnet20 dataset=cifar10 model.pretrained=akamaster
    python scripts/sensitivity.py ... --engine torch --batch 1 --output folder

Takes what python -m prunebench takes: a net with trained weights (model.pretrained), a method that ranks channels, a
data set. Accuracy and loss are those of the validation split (dataset.validation), times are predicted from the times
of the layers on this machine. Writes a table (CSV, JSON) and a picture (PNG, PDF), and prints what each layer loses at
half of its channels; the page of scripts/report.py shows it too. method.value=sensitivity lets method.target_latency
choose widths by such curves.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "prunebench").is_dir():  # a checkout, which need not be installed
    sys.path.insert(0, str(ROOT))

from prunebench.errors import Parser, UserError, here, program, refused  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=here(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for python -m prunebench")
    parser.add_argument("--engine", choices=("onnxruntime", "torch"), default="onnxruntime", help="what times are of")
    parser.add_argument("--batch", type=int, default=64, help="pictures in a batch (default: 64)")
    parser.add_argument("--output", type=Path, help="folder (default: outputs/sensitivity/<method>-<model>-<dataset>)")
    given = parser.parse_args(arguments)
    if given.batch < 1:
        parser.error(f"--batch must be at least 1, got {given.batch}")
    try:
        return show(given)
    except UserError as error:
        refused(error)
        return 1


def show(given: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from prunebench.cli.composition import composed
    from prunebench.cli.main import identified
    from prunebench.cli.resolve import resolve
    from prunebench.config import whole

    config, _ = resolve(composed(["schedule=oneshot", *given.settings]), given.settings)
    whole.check(config)
    if not config["model"].get("pretrained"):
        raise UserError("sensitivity looks at a trained net; give one with model.pretrained=<checkpoint or run folder>")
    config = identified(config)

    from prunebench.run import assemble, sensitivity, threads

    name = "-".join(config[group]["name"] for group in ("method", "model", "dataset"))
    folder = given.output or Path(config["paths"]["outputs"]) / "sensitivity" / name
    job, net = assemble.build(config, folder)
    threads.settle(job)
    with Progress(
        TextColumn("widths"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
    ) as bar:
        task = bar.add_task("widths", total=None)
        widths = sensitivity.measure(
            job,
            net,
            engine=given.engine,
            batch=given.batch,
            advance=lambda done, total: bar.update(task, completed=done, total=total),
        )
    title = f"{name}: one layer cut at a time; {given.engine}, batch {given.batch}"
    paths = sensitivity.write(widths, folder, title=title)
    dense = max(width.accuracy for width in widths if width.kept == width.channels)
    print(f"{'layer':32} {'channels':>8} {'kept':>5} {'accuracy lost, points':>22} {'time saved %':>13}")
    for layer in dict.fromkeys(width.layer for width in widths):
        own = [width for width in widths if width.layer == layer]
        half = min(own, key=lambda width: abs(width.kept / width.channels - 0.5))
        lost, saved = 100 * (dense - half.accuracy), 100 * (1 - half.time)
        print(f"{layer:32} {half.channels:8} {half.kept:5} {lost:22.2f} {saved:13.2f}")
    print(f"dense: validation accuracy {100 * dense:.2f} %; {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    program(main)
