"""Stand-ins for the tensors of a forward pass while it is written down."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

from torch import Tensor, fx

from prunebench.surgery.places import is_ours
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


@contextmanager
def known_as_tensors() -> Iterator[None]:
    """The net's own code finds that stand-ins of tensors are tensors: ``isinstance(x, Tensor)``.

    The builtin is what it asks; a class that claims to be a tensor would be taken for one by torch's C code.
    """
    plain = builtins.isinstance

    def isinstance(obj: Any, kinds: Any, /) -> bool:
        if plain(obj, kinds) or type(obj) is not Proxy or is_ours(sys._getframe(1).f_code.co_filename):
            return plain(obj, kinds)
        return _has(Tensor, kinds) and obj.tracer.seen.num_dims(obj.node) is not None

    builtins.isinstance = isinstance
    try:
        yield
    finally:
        builtins.isinstance = plain


def _has(kind: type, kinds: Any) -> bool:
    """Whether ``kind`` is the second argument of ``isinstance``, or in it."""
    several = kinds if type(kinds) is tuple else get_args(kinds)
    return kinds is kind or any(_has(kind, other) for other in several)


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
