"""Stand-ins for the tensors of a forward pass while it is written down."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from prunebench.surgery.sizes_seen import Seen


class Notes(fx.Tracer):
    """A tracer that knows the sizes of what it has noted.

    Attributes:
        seen: answers questions about sizes.
    """

    seen: Seen


class Proxy(fx.Proxy):
    """``x += y`` writes into ``x``, which torch's own proxies take for ``x = x + y``; some know their length."""

    tracer: Notes

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        return _Attribute(self, k)

    def __len__(self) -> int:
        return _length(self)

    def dim(self) -> Any:
        """The number of dimensions, which is the net's and not the data's."""
        number = self.tracer.seen.num_dims(self.node)
        return self.tracer.create_proxy("call_method", "dim", (self,), {}) if number is None else number

    @property
    def ndim(self) -> Any:
        """The same."""
        return self.dim()


class _Attribute(fx.proxy.Attribute):
    """``x.shape``, of which ``len`` is asked."""

    tracer: Notes

    def __len__(self) -> int:
        return _length(self)


def _length(proxy: Proxy | _Attribute) -> int:
    number = proxy.tracer.seen.length(proxy.node)
    return fx.Proxy.__len__(proxy) if number is None else number


def _written(name: str) -> Callable[[Any, Any], Any]:
    function = getattr(operator, name)
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(Proxy, f"__{_name}__", _written(_name))
