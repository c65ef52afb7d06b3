"""Operations that write into a tensor: whoever reads it afterwards is made to read the writer."""

from __future__ import annotations

from torch import fx

from prunebench.surgery.record import Record
from prunebench.surgery.tracer import CannotFollow, describe, owner


class Memory:
    """Which memory each node of a graph uses, and who writes into it.

    Args:
        graph: after :func:`settle`.
        record: of the same graph.
    """

    def __init__(self, graph: fx.Graph, record: Record) -> None:
        self._places = {node: place for place, node in enumerate(graph.nodes)}
        self._used = {node: {layout[0] for layout in record.layouts[node]} for node in graph.nodes}
        self._writers = [(node, record.writes[node]) for node in graph.nodes if record.writes[node]]

    def is_written(self, node: fx.Node, *others: fx.Node) -> bool:
        """Whether an operation after ``node`` writes into what it, or one of the ``others``, returned."""
        used = self._used[node].union(*(self._used[other] for other in others))
        return any(self._places[writer] > self._places[node] and used & written for writer, written in self._writers)


def settle(graph: fx.Graph, record: Record) -> None:
    """Let who reads a tensor after an operation has written into it read that operation's result.

    Afterwards no value changes while it is in use, so that what nobody reads can be left out, and live channels can be
    followed from writer to reader.

    Raises:
        CannotFollow: it is read under another shape, or it is a parameter or buffer of the net; names file and line.
    """
    nodes = list(graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    for writer in nodes:
        for memory in record.writes[writer]:
            if memory in record.state:
                raise _lost(writer, "a parameter, buffer or constant of the net")
            for node in nodes[: places[writer]]:
                if any(layout[0] == memory for layout in record.layouts[node]):
                    _read_instead(writer, node, record, {user for user in node.users if places[user] > places[writer]})


def _read_instead(writer: fx.Node, node: fx.Node, record: Record, users: set[fx.Node]) -> None:
    if not users:
        return
    if len(record.layouts[node]) != 1 or record.layouts[node] != record.layouts[writer]:
        raise _lost(writer, "a tensor that is read afterwards under another shape")
    node.replace_all_uses_with(writer, delete_user_cb=lambda user: user in users)


def _lost(writer: fx.Node, what: str) -> CannotFollow:
    module = writer.graph.owning_module
    assert module is not None
    text = f"{describe(writer, module)} writes into {what}; write it without the in-place operation"
    return CannotFollow(text, owner(writer))
