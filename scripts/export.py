"""Write the net of a finished run as ONNX (in integers too), torch.export program or safetensors, checked.

python scripts/export.py outputs/runs/.../seed_0 --to onnx
"""

from __future__ import annotations

from pathlib import Path

from prunebench.core.result import read_result
from prunebench.errors import Parser, UserError, program, refused
from prunebench.nets import package
from prunebench.nets.export import FORMATS, INTEGERS, Exported, export, export_measured
from prunebench.run import card, quantized


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="run folder, or its model/ folder")
    parser.add_argument("--to", required=True, choices=[*FORMATS, INTEGERS, "all"], help="format; all = all but int8")
    parser.add_argument("--output", type=Path, help="file to write (default: export/<net> in the folder)")
    parser.add_argument("--batch", default="dynamic", help="batch size of the graph: dynamic (default) or a number")
    parser.add_argument("--trust", action="store_true", help="call whatever the folder names: it can run any program")
    given = parser.parse_args(argv)
    if given.batch != "dynamic" and not given.batch.isdecimal():
        parser.error(f"--batch must be 'dynamic' or a number, got {given.batch!r}")
    if given.to == "all" and given.output:
        parser.error("--output names one file; leave it out with --to all")
    if given.to == INTEGERS and given.batch != "dynamic":
        parser.error("--to int8 writes the file that the run has measured; leave --batch out")
    batch = None if given.batch == "dynamic" else int(given.batch)
    failed = False
    for form in FORMATS if given.to == "all" else (given.to,):
        try:
            if form == INTEGERS:
                done = _integers(given.folder, given.output)
            else:
                facts = card.facts(given.folder) if form == "onnx" else None
                done = export(given.folder, form, output=given.output, batch=batch, facts=facts, trust=given.trust)
        except UserError as error:
            refused(error)
            failed = True
        else:
            compared = done.max_abs_diff is not None
            said = f"max abs difference {done.max_abs_diff:.1e}" if compared else "the file that was measured"
            print(f"{done.path}  {done.num_bytes:,} bytes  {said}")
    return int(failed)


def _integers(folder: Path, output: Path | None) -> Exported:
    """The run's net in integers, as measured, with its facts."""
    run, spec = package.model_folder(folder).parent, package.read_spec(folder)
    source = quantized.measured_file(run, "quantized", read_result(run).get("files", {}))
    path = output or source.with_name(f"{spec.name}_int8.onnx")
    return export_measured(source, path, card.facts(folder, "quantized"))


if __name__ == "__main__":
    program(main)
