"""The text of ``--help``: read from the first comment line of each config file, without importing Hydra or torch."""

from __future__ import annotations

import re

from prunebench.config.groups import GROUPS, conf_folder, options
from prunebench.errors import INSTALLED, here

NOTES = {
    "ood": "    foreign pictures of the same shape: AUROC of telling them apart; off unless it is given",
    "quantize": "    the exported nets in integers, measured as ONNX Runtime executes them; off unless it is given",
    "attack": "    test pictures changed on purpose: accuracy and vulnerability under attack; off unless it is given",
    "teacher": "    knowledge distillation, with any method; off unless given or brought by a method (~teacher: none)",
}

EXAMPLES = (
    ("python -m prunebench", "train, prune and fine-tune ResNet-20 on handwritten digits, about a minute"),
    (
        "python -m prunebench method=fpgm model=resnet56 dataset=cifar10",
        "the same on CIFAR-10, at the paper's length",
    ),
    (
        "python -m prunebench model=resnet56 dataset=cifar10 model.pretrained=akamaster schedule=oneshot",
        "prune a trained checkpoint and measure it, no training",
    ),
    (
        "python -m prunebench method=l1norm method.target_macs=0.5 model=vgg16 dataset=cifar10 method.round_to=8",
        "cut to half of the multiply-accumulates, widths in multiples of 8",
    ),
    (
        "python -m prunebench dataset=mnist model=lenet5 ood=fashion_mnist",
        "also measure how well the nets' uncertainty tells foreign pictures from MNIST's",
    ),
    (
        "python -m prunebench model=resnet56 dataset=cifar10 model.pretrained=akamaster schedule=oneshot quantize=int8",
        "also measure both nets in 8-bit integers: accuracy, file, time",
    ),
    ("python -m prunebench attack=pgd attack.num_samples=200", "also measure the accuracy on attacked test pictures"),
    (
        "python -m prunebench method=l1norm model=resnet56 dataset=cifar10 teacher=dense",
        "fine-tune the cut net with the probabilities of the dense one",
    ),
    (
        "python -m prunebench model=custom model._target_=my_package.my_net dataset=folder dataset.folder=pictures "
        "dataset.num_classes=5 method.target_macs=0.5",
        "your own net on your own pictures, <folder>/<class>/*",
    ),
    ("python -m prunebench experiment=fpgm-t1_resnet56_only40", "a row of a paper, with the paper's settings"),
    (
        "python -m prunebench -m method=random,l1norm,fpgm seed=0,1,2",
        "a sweep; run it again to go on where it stopped",
    ),
)


def whole_run() -> dict[str, tuple[str, str]]:
    """The keys of no group -> ``key=default``, and their comments."""
    text = (conf_folder() / "config.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^(\w+): (\S+) +# (.+)$", text, re.MULTILINE)
    return {key: (f"{key}={value}", comment) for key, value, comment in found}


def help_text() -> str:
    """Groups, their options and example commands."""
    of_run = whole_run().values()
    longest = max(len(pair) for pair, _ in of_run)
    lines = [
        "prunebench: one run = a model, a data set, a pruning method and a schedule.",
        "",
        "  python -m prunebench [group=option ...] [key.path=value ...]        one run",
        "  python -m prunebench -m key=a,b,c ...                               a sweep over all combinations",
        "  python -m prunebench ... --cfg job --resolve                        print the configuration, run nothing",
        "  python -m prunebench ... --force                                    a complete run again, the old one aside",
        "  python -m prunebench --help method=fpgm                             one option in full: keys, paper, rows",
        "  python -m prunebench --help schedule method.layers                  a group, or a single key",
        "",
    ]
    for group in GROUPS:
        found = options(group)
        if not found:
            continue
        lines.append(f"{group}={NOTES.get(group, '')}")
        width = max(len(name) for name in found)
        lines += [f"  {name:<{width}}  {description}" for name, description in found.items()]
        lines.append("")
    lines += [
        "Of the whole run:",
        *(f"  {pair:<{longest}}  {comment}" for pair, comment in of_run),
        "",
        "Often set (--help method.target_macs explains one):",
        "  method.prune_ratio method.coupling method.round_to method.target_macs method.target_params",
        "  method.target_latency method.layers model.pretrained model.shortcut dataset.batch_size dataset.mean",
        "  dataset.std schedule.phases.<name>.epochs trainer.precision trainer.num_threads paths.data paths.outputs",
        "",
        "Examples:",
    ]
    for command, meaning in EXAMPLES:
        lines += [f"  {command}", f"      {meaning}"]
    lines += [
        "",
        "A finished run is never repeated: the same command prints its row. An interrupted one goes on.",
        "Other commands:",
        "  python scripts/rows.py list [paper]                      the papers' rows; check: are they right",
        "  python scripts/reproduce.py paper=fpgm table=1 [seeds=3] [budget=quick|full] [launcher=joblib]",
        "                                                          run a table's missing rows, ours beside the paper's",
        "  python scripts/report.py                                 tables and one page over all runs",
        "  python scripts/compare.py <run folder> <run folder>      paired tests of two runs, what they share",
        "  python scripts/evaluate.py <run folder>                  measure a saved net again, compare with its result",
        "  python scripts/publish.py <run folder> ...               measure them again, keep them in outputs/published",
        "  python scripts/data.py check | get <name>                the data sets",
        "  python scripts/sensitivity.py model.pretrained=... ...   what each width of each layer costs and loses",
        "  python scripts/export.py <run folder> --to onnx          also torch_export, state_dict",
        "  python scripts/bench.py                                  speed",
    ]
    if INSTALLED:  # the wheel leaves the measurements of speed behind
        lines = [line for line in lines if "scripts/bench.py" not in line]
    return here("\n".join(lines))
