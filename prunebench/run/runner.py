"""From a resolved configuration to its result: build, run the method, measure, write ``result.json``."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prunebench.config import named
from prunebench.config.groups import FROM_DATA
from prunebench.core import asked
from prunebench.core.method import Method
from prunebench.core.result import is_complete, write_result
from prunebench.disk.artifacts import load_correct
from prunebench.disk.atomic import sweep, write_bytes, write_rows, write_text
from prunebench.disk.lock import FolderLock
from prunebench.disk.seal import text_sha256
from prunebench.disk.stopwatch import Stopwatch
from prunebench.disk.tensors import tensors_sha256
from prunebench.errors import UserError, in_words
from prunebench.measure import guarantee
from prunebench.measure.stages import STAGES
from prunebench.nets import package
from prunebench.nets.weights import file_bytes
from prunebench.run import assemble, card, quantized, replaced, speed, suits, threads
from prunebench.run.job import Job
from prunebench.run.logs import FOR_THE_FILE, log_file
from prunebench.run.provenance import head, now
from prunebench.run.stays_whole import stays_whole
from prunebench.run.sweep_record import recorded

log = logging.getLogger("prunebench")


def execute(config: Mapping[str, Any], config_text: str, folder: Path) -> dict[str, Any]:
    """Carry out one run.

    Args:
        config: the resolved configuration; ``config_text`` is the same as YAML.
        folder: of the run.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: refused before anything is trained, or locked by another run; nothing is written then, but in a
            job of a sweep a result that says so (see :mod:`prunebench.run.sweep_record`).
        Exception: whatever went wrong later; ``result.json`` then says ``failed`` and names the error.
    """
    with recorded(config, config_text, folder) as said:
        job, net = assemble.build(config, folder)
        num_threads = threads.settle(job)
        job.method.check(net, job)
        job.check_teacher()
        slower = suits.check_precision(job.settings)
        quantized.check(job)
    if replaced.forced() and is_complete(folder):
        log.info("the run that is made again lies in %s", replaced.set_aside(folder, Path(config["paths"]["outputs"])))
    with FolderLock(folder), log_file(folder, said), contextlib.ExitStack() as session:
        sweep(folder)
        write_text(folder / "config.yaml", config_text)
        threads.keep(job, num_threads)
        clock = session.enter_context(Stopwatch(folder / "stored" / "times.json"))
        log.info("%s", describe(job))
        job.warn(slower)
        known = head(config, folder)
        if job.listens_to is None:
            known.pop("teacher", None)
        try:
            compact, points = _run(job, net)
            result = {**known, **_measurements(job, compact, points, config)}
        except (KeyboardInterrupt, SystemExit) as error:  # no result: the run is simply resumed
            _log_end(job, None)
            log.error("interrupted%s", f": {error}" if str(error) else "", extra=FOR_THE_FILE)
            raise
        except Exception as error:  # must be visible in a table
            _log_end(job, None)
            log.error("failed: %s", in_words(error), extra=FOR_THE_FILE)
            known["run"] |= {"finished": now(), **clock.read()}
            detail = "".join(traceback.format_exception(error))
            with contextlib.suppress(UserError):  # a full disk; the error itself is raised all the same
                write_result(folder, {**known, "status": "failed", "error": in_words(error), "traceback": detail})
            raise
        result["run"] |= {"finished": now(), **clock.read()}
        if job.pretrained_from is not None:
            result["model"]["pretrained"] = job.pretrained_from
        write_text(folder / card.NAME, card.model_card(result, package.read_spec(folder)))
        written = write_result(folder, result, files=_files(folder))
        _log_end(job, written)
        return written


def _log_end(job: Job, result: Mapping[str, Any] | None) -> None:
    """Tell the run's logger its result, or that there is none."""
    if job.logger["name"] == "csv":
        return
    from prunebench.training import loggers  # takes seconds; most runs need none

    if result is None:
        loggers.abandon(job.logger)
    else:
        loggers.conclude(job.logger, folder=job.folder, run=job.name, result=result, history=job.history)


def describe(job: Job) -> str:
    """The dense net in one line: size, blocks (for example basic ones or bottlenecks) and options."""
    settings, net = job.dense.settings, job.dense.template
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    inner = [m for m in net.modules() if m is not net and next(m.children(), None) and not isinstance(m, containers)]
    blocks = [f"{count} {name}" for name, count in Counter(type(module).__name__ for module in inner).items()]
    given = named.arguments("model", settings)
    options = [f"{key} {value}" for key, value in given.items() if key not in FROM_DATA["model"]]
    parts = [f"{job.dense.cost.macs:,} MACs per {job.data.sample}, {job.dense.cost.params:,} parameters"]
    parts += [", ".join(words) for words in (blocks, options) if words]
    return f"{settings.get('name', type(net).__name__)}: {'; '.join(parts)}"


def _run(job: Job, net: nn.Module) -> tuple[nn.Module, list[dict[str, Any]]]:
    """All phases, the extraction and the measurement of the final net.

    Returns:
        The compact net, and its further operating points.
    """
    trained = job.method.run(net, job)
    compact = job.extract(trained)
    after_cut = [phase.epochs for phase in job.phases[_last_cut(job) :]]
    if _last_cut(job) < len(job.phases) and not any(after_cut) and (job.trained or job.pretrained):
        # nothing was trained since the cut: the final net is the pruned net
        if "pruned" not in job.metrics:
            job.measure("pruned", compact)
        metrics = job.repeat("final", of="pruned")
    else:
        metrics = job.measure("final", compact)
    if metrics.get("num_predictions", 1) > 1:
        # an average over several predictions; the net that is saved makes one, without the method
        job.measure_under(Method(), "saved_net", compact)
    job.measure_best(trained)
    return compact, job.measure_points(trained)


def _last_cut(job: Job) -> int:
    cuts = [i for i, phase in enumerate(job.phases) if phase.prune]
    return cuts[-1] if cuts else len(job.phases)


def _measurements(
    job: Job, compact: nn.Module, points: list[dict[str, Any]], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything in the result that is measured, and the files beside it."""
    in_integers = quantized.measure(job, compact, timed=config["latency"])
    metrics = {stage: job.metrics[stage] for stage in STAGES if stage in job.metrics}
    _mark_seen_validation(job, metrics)
    dense_cost, final_cost = job.dense.cost, job.count(compact)
    final = {**final_cost.to_dict(), **(job.method.cost(compact, job) or {})}
    if (num_predictions := metrics["final"].get("num_predictions", 1)) > 1:
        # what the method has said wins: one pass of an ensemble makes all predictions
        final = {"num_predictions": num_predictions, "macs_all_predictions": num_predictions * final["macs"], **final}
    widths = {row["layer"]: row["out_channels"] for row in job.base.cost.per_layer}
    per_layer = [{**row, "dense_out_channels": widths.get(row["layer"])} for row in final.pop("per_layer")]
    dense = {k: v for k, v in dense_cost.to_dict().items() if k != "per_layer"}
    dense["nonzero_params"] = job.dense_nonzero()
    dense["file_bytes"], final["file_bytes"] = file_bytes(job.dense.template), file_bytes(compact)
    costs = {
        "sample": job.data.sample,
        "dense": dense,
        "final": final,
        "macs_removed": 1 - final["macs"] / dense["macs"],
        "params_removed": 1 - final["params"] / dense["params"],
        "speedup_macs": dense["macs"] / max(1, final["macs"]),
        "per_layer": per_layer,
    }
    costs |= in_integers.pop("cost", {})
    if job.base is not job.dense:
        # the net that was pruned is another one than the net it is compared with
        costs["base"] = {"macs": job.base.cost.macs, "params": job.base.cost.params, "model": job.base.settings}
    times = (
        speed.compare({"dense": job.dense.template, "final": compact}, job.example, device=job.device)
        if config["latency"]
        else {}
    )
    for line in speed.remarks(times) if costs["macs_removed"] > 0 else ():
        log.info("%s", line)
    _write_files(job, compact)
    achieved, whole = {**job.achieved, **job.method.conclude(points)}, stays_whole(job, job.method.layers)
    if "latency" in achieved:  # the times that stand in the result decide, not those of the choice
        achieved |= speed.reached(times, achieved["latency"])
    if "channels_kept" in achieved:
        cut = {*job.plan.keep, *job.plan.inputs}
        achieved |= {"layers_cut": len(cut), "layers_whole": len(whole)}
    log.info("%s", "; ".join(asked.beside(achieved)) or "no size was asked for")
    job.warn(asked.shortfalls(achieved))
    return {
        "status": "missed_target" if asked.missed_target(achieved) else "complete",
        "metrics": metrics,
        **({"points": points} if points else {}),
        "cost": costs,
        "latency": times,
        **in_integers,
        "net_sha256": text_sha256(tensors_sha256(compact.state_dict()), job.plan.to_json()),
        "equivalence": {"max_abs_diff": job.difference},
        "budget": achieved,
        "not_pruned": whole,
        "warnings": job.warnings,
        "phases": job.phase_records,
        "guarantee": _guarantee(job, metrics),
        "data": job.data.fingerprint(),
    }


def _mark_seen_validation(job: Job, metrics: dict[str, dict[str, Any]]) -> None:
    """A checkpoint from elsewhere was trained on all training data as a rule, those held out here among them."""
    if not (job.pretrained and job.trained and job.data.num_val):
        return
    job.warn(
        [
            f"the checkpoint may have been trained on the {job.data.num_val} samples that are held out for validation: "
            "val/ metrics can be too good, and test_best_val was chosen by them; dataset.validation=0 holds none out"
        ]
    )
    if "test_best_val" in metrics:
        metrics["test_best_val"] = {**metrics["test_best_val"], "chosen_on_seen_samples": True}


def _guarantee(job: Job, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the accuracy of this one net is worth; how many seeds a row has is known to the report."""
    facts: dict[str, Any] = {
        "accuracy_interval_95": metrics["final"].get("interval"),
        "test_evaluations": len(metrics),
        "selection": "last_epoch",
        "objective": job.method.objective,
        "num_seeds": 1,
    }
    dense, final = (job.predictions(stage) for stage in ("dense", "final"))
    if dense.exists() and final.exists():
        facts["against"] = guarantee.against(load_correct(dense), load_correct(final), name="dense")
    facts["level"], facts["missing"] = guarantee.level(facts, num_seeds=1)
    return facts


def _write_files(job: Job, compact: nn.Module) -> None:
    package.save(
        job.folder,
        compact,
        model_config=job.base.settings,
        plan=job.plan,
        **job.data.input_facts(),
    )
    write_rows(job.folder / "metrics.csv", job.history)
    if job.predictions("final").exists():
        write_bytes(job.folder / "predictions.npz", job.predictions("final").read_bytes())


def _files(folder: Path) -> list[str]:
    """What belongs to the result beside it."""
    net = (*(f"{package.FOLDER}/{name}" for name in package.FILES), card.NAME)
    names = ["config.yaml", "metrics.csv", "predictions.npz", *net, *quantized.FILES]
    return [name for name in names if (folder / name).exists()]
