"""Neural-network pruning: methods, their papers' rows as data, and one bench for all.

``prunebench.load(folder)`` gives the net of a finished run, ``prunebench.results(folder)`` all runs as a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunebench.nets.package import load as load
    from prunebench.report.flat import results as results

    __version__: str

__all__ = ["__version__", "load", "results"]


def __getattr__(name: str) -> Any:
    # lazily, so that `import prunebench` and the command line's --help do not wait for torch
    if name == "load":
        from prunebench.nets.package import load

        return load
    if name == "results":
        from prunebench.report.flat import results

        return results
    if name == "__version__":
        from importlib.metadata import version

        return version("prunebench")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
