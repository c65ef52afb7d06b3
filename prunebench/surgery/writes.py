"""Operations that write into a tensor: whoever reads it afterwards is made to read the writer."""

from __future__ import annotations

from torch import fx

from prunebench.surgery.places import describe, owner
from prunebench.surgery.recorder import Recording
from prunebench.surgery.tracer import CannotFollow


class Memory:
    """Which memory each node of a graph uses, and who writes into it.

    Args:
        graph: after :func:`settle`.
        record: of the same graph.
    """

    def __init__(self, graph: fx.Graph, record: Recording) -> None:
        self._order = {node: number for number, node in enumerate(graph.nodes)}
        self._used = {node: {memory for memory, _ in record.places[node]} for node in graph.nodes}
        self._writers = [(node, record.writes[node]) for node in graph.nodes if record.writes[node]]

    def is_written(self, node: fx.Node, *others: fx.Node) -> bool:
        """Whether an operation after ``node`` writes into what it, or one of the ``others``, returned."""
        used = self._used[node].union(*(self._used[other] for other in others))
        return any(self._order[writer] > self._order[node] and used & written for writer, written in self._writers)


def settle(graph: fx.Graph, record: Recording) -> None:
    """Let who reads a tensor after an operation has written into it read that operation's result.

    Afterwards no value changes while it is in use, so that what nobody reads can be left out, and live channels can be
    followed from writer to reader.

    Raises:
        CannotFollow: another view of it is read afterwards, or it is a parameter or buffer; names file and line.
    """
    nodes = list(graph.nodes)
    order = {node: number for number, node in enumerate(nodes)}
    for writer in nodes:
        for memory in record.writes[writer]:
            if memory in record.state:
                raise _lost(writer, "a parameter, buffer or constant of the net")
            for node in nodes[: order[writer]]:
                if any(place[0] == memory for place in record.places[node]):
                    _read_instead(writer, node, record, {user for user in node.users if order[user] > order[writer]})


def _read_instead(writer: fx.Node, node: fx.Node, record: Recording, users: set[fx.Node]) -> None:
    if not users:
        return
    if len(record.places[node]) != 1 or record.places[node] != record.places[writer]:
        raise _lost(writer, "a tensor of which another view is read afterwards")
    node.replace_all_uses_with(writer, delete_user_cb=lambda user: user in users)


def _lost(writer: fx.Node, what: str) -> CannotFollow:
    module = writer.graph.owning_module
    assert module is not None
    text = f"{describe(writer, module)} writes into {what}"
    return CannotFollow(text, owner(writer), advice="write it without the in-place operation")
