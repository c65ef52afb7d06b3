"""Command lines as people, scripts and typing errors make them, drawn over the whole configuration."""

from __future__ import annotations

import random
from collections.abc import Iterator

from prunebench.cli.mistakes import known_keys
from prunebench.config.groups import GROUPS, options

VALUES = (
    *("null", "", "true", "False", "0", "1", "-1", "0.5", "1e30", "-1e30", "1e400", "1e-400", "nan", "-inf"),
    *("999999999999", "-999999999999", "9" * 40, "9" * 5000, "0x10", "1_000", "1j", "2020-01-01", "much", "x" * 300),
    *("ä", "'日本語'", "'\x1b[31m'", "'\x00'", "😀", "%", "|", "''", '"a b"', "[]", "{}", "[1,2]", "[null]", "[[1]]"),
    *("{a:1}", "{1:2}", "{a:{b:[1]}}", "[a", "{a", "(a)", "a=b", "a,b", "a:b", "a#b", "@x", "!x", "&x", "*x", "~"),
    *("../../x", "/nowhere/x", "???", "'???'", "${seed}", "${nope}", "${method}", "${.}", "${oc.env:NOPE}", "$x"),
    *("${recipe:train,lr,1}", "${recipe:x}", "${hydra:job.num}", "int(3)", "nofn(1)", "range(0,3)", "choice(1,2)"),
    *("interval(0,1)", "glob(*)", "sort(2,1)", "shuffle(1,2)", "tag(a,1)", "torch.nn.ReLU", "{_target_:os.system}"),
)
PLAUSIBLE = ("0", "1", "2", "0.1", "0.5", "0.9", "1.0", "10", "100", "null", "true", "false", "all", "none")
SWEPT = (
    *("range(0,3)", "range(0,1,0.3)", "range(1,x)", "range(0,1e400)", "glob(*)", "interval(0,1)", "choice(1,2)"),
    *("choice()", "choice(a,null)", "sort(3,1)", "tag(x,choice(1,2))", "0..3", "1,", ",1", "[1],[2]", "{a:1},2"),
)
WHOLE_SWEEPS = (
    *("method=glob(l*)", "method=glob(zz*)", "method=glob([l*,f*],exclude=fp*)", "model=glob(lenet*)", "~method"),
    *("experiment=fpgm-t1_resnet56_only40,nope", "experiment=glob(nope*)", "dataset=digits,digits", "~seed"),
)
HYDRA = (
    *(
        "--cfg job",
        "--cfg hydra",
        "--cfg all",
        "--cfg job --resolve",
        "--cfg job --package method",
        "--cfg job -p nope",
    ),
    *(
        "--cfg x",
        "--resolve",
        "--info",
        "--info all",
        "--info config",
        "--info defaults-tree",
        "--info x",
        "-c job",
        "-i",
    ),
    *("--package method", "-p x", "--config-dir /nowhere", "--config-dir .", "--config-dir", "--config-name config"),
    *("--config-name nope", "--config-name", "-cn method/l1norm", "--config-path /nowhere", "--config-path .", "-cp x"),
    *(
        "--experimental-rerun x",
        "--run",
        "-r",
        "--multirun",
        "-sc query=bash",
        "--hydra-help",
        "--foo",
        "-x",
        "--",
        "-",
    ),
    *(
        "hydra/launcher=basic",
        "hydra/launcher=nope",
        "hydra/launcher=null",
        "hydra/sweeper=basic",
        "hydra/sweeper=nope",
    ),
    *(
        "hydra/job_logging=default",
        "hydra/job_logging=nope",
        "hydra/hydra_logging=nope",
        "hydra/help=x",
        "+hydra/env=x",
    ),
    *("hydra.run.dir=x", "hydra.run.dir=null", "hydra.run.dir=/proc/x", "hydra.sweep.dir=y", "hydra.sweep.subdir=z"),
    *("hydra.job.chdir=true", "hydra.job.name=x", "hydra.job.num=3", "hydra.job.foo=3", "hydra.output_subdir=.hydra"),
    *("hydra.mode=MULTIRUN", "hydra.mode=RUN", "hydra.mode=x", "hydra.verbose=true", "hydra.verbose=x"),
    *(
        "hydra.searchpath=[file:///nowhere]",
        "hydra.searchpath=3",
        "hydra.searchpath=[3]",
        "hydra.searchpath=[pkg://nope]",
    ),
    *("hydra=3", "hydra=null", "~hydra", "~hydra.job", "~hydra.run", "+hydra.foo=1", "++hydra.job.env_set={A:1}"),
    *("hydra.launcher=3", "hydra.launcher._target_=nope", "hydra.sweeper._target_=nope", "hydra.sweeper=null"),
    *("hydra.sweeper.params={seed:1}", "+hydra.callbacks.x._target_=nope", "hydra.job_logging.version=2"),
    *("hydra.job_logging=null", "hydra.overrides.task=[x]", "hydra.runtime.cwd=x", "hydra.run=3"),
    *("experiment=nope", "experiment=", "experiment=null", "experiment=3", "experiment=fpgm-t1_resnet56_only40"),
    *("+experiment=fpgm-t1_resnet56_only40", "~experiment", "experiment=[a]", "recipe=common", "recipe=x", "~recipe"),
    *("row={id:3}", "row=null", "~row", "objective=nope", "objective=[accuracy,macs]", "objective={a:1}", "~objective"),
)
WORDS = ("x", "ä=1", "", " ", "=", "a.b", "seed", "seed==1", "seed=0,1", "--", "paths.outputs=ä", "paths.data=a=b")
BASES = (
    *("model=lenet300_100", "method=l1norm model=lenet300_100", "method=agp model=lenet300_100", "schedule=iterative"),
    *(
        "teacher=dense attack=pgd quantize=int8 ood=noise",
        "method=bbb model=lenet300_100",
        "model=sru_tiny method=none",
    ),
    "dataset=synthetic_radio method=radio_vi",
)


def generated(number: int, seed: int) -> list[list[str]]:
    """``number`` command lines as lists of words; the same for the same ``seed``."""
    rng = random.Random(seed)
    keys = {base: known_keys(base.split()) for base in BASES}
    return [list(_line(rng, keys)) for _ in range(number)]


def _line(rng: random.Random, keys: dict[str, list[str]]) -> Iterator[str]:
    base = rng.choice(BASES)
    kind = rng.choices(("keys", "two keys", "groups", "hydra", "sweep", "hydra sweep"), (36, 10, 14, 24, 12, 4))[0]
    if "sweep" in kind:
        yield "-m"
    if kind != "hydra sweep":
        yield from base.split()
    if kind == "groups":
        yield from (_group(rng) for _ in range(rng.randint(1, 3)))
    if "hydra" in kind:
        yield from rng.choice(HYDRA).split()
    if "sweep" in kind:
        yield _sweep(rng, keys[base])
    if "key" in kind or (kind != "groups" and rng.random() < 0.3):
        yield from (_key(rng, keys[base]) for _ in range(2 if kind == "two keys" else 1))
    if rng.random() < 0.04:
        yield rng.choice(WORDS)


def _key(rng: random.Random, keys: list[str]) -> str:
    """A word about one key: taken away, given another value, added, or misspelt."""
    key = rng.choice(keys)
    table = key.rpartition(".")[0] or key
    match rng.choice(("delete", "set", "set", "set", "likely", "likely", "table", "add", "misspell")):
        case "delete":
            return f"~{rng.choice((key, table))}{rng.choice(('', '', '=1'))}"
        case "set":
            return f"{key}={rng.choice(VALUES)}"
        case "likely":
            return f"{key}={rng.choice(PLAUSIBLE)}"
        case "table":
            return f"{table}={rng.choice(VALUES)}"
        case "add":
            place = rng.choice(("foo", "a.b.c", key, f"{key}.x", f"{table}.foo"))
            return f"{rng.choice(('+', '++'))}{place}={rng.choice(VALUES + PLAUSIBLE)}"
        case _:
            gone = rng.randrange(len(key))
            return f"{key[:gone]}{key[gone + 1 :]}={rng.choice(PLAUSIBLE)}"


def _group(rng: random.Random) -> str:
    group = rng.choice(GROUPS)
    return f"{group}={rng.choice((*sorted(options(group)) * 3, *rng.sample(VALUES, 8)))}"


def _sweep(rng: random.Random, keys: list[str]) -> str:
    match rng.choice(("values", "options", "functions", "whole")):
        case "values":
            return f"{rng.choice(keys)}={','.join(rng.sample(PLAUSIBLE + VALUES[:30], 2))}"
        case "options":
            group = rng.choice(GROUPS)
            return f"{group}={','.join(rng.sample((*sorted(options(group)), 'nope'), 2))}"
        case "functions":
            return f"{rng.choice(keys)}={rng.choice(SWEPT)}"
        case _:
            return rng.choice(WHOLE_SWEEPS)
