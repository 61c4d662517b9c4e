"""Which stack of layers a region belongs to: encoder, decoder, the tower of one input."""

from __future__ import annotations

from functools import cached_property

from torch import fx

from rewrite.parts.regions import Cut, Region

SOURCE_NAMES = {"input_ids": "tokens"}


def source_name(node: fx.Node) -> str:
    """`tokens` for `input_ids`, else the input's own name."""
    name = str(node.target)
    short = SOURCE_NAMES.get(name, name)
    inputs = {str(other.target) for other in node.graph.find_nodes(op="placeholder")}
    return name if short in inputs else short


class Stacks:
    """The residual streams of a model and what joins them.

    Values belong to one stream if a chain of residual sums (and norms on the stream) links
    them.  Cross attention reads its queries from one stream and its keys and values from
    another one: the model is then an encoder-decoder.  A value that is on no stream (keys that
    several layers share) is of the streams that it is computed from.
    """

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._parent: dict[fx.Node, fx.Node] = {}
        self._regions = {region.output: region for region in cut.regions}
        self._homes: dict[fx.Node, set[fx.Node]] = {}
        for node, terms in cut.sums.items():
            for term in terms:
                self._join(node, term)
        for region in cut.regions:
            products = any(cut.flow.contracts(node) for node in region.nodes)
            passed = [node for _, node in region.slots if node not in cut.inner]
            if not products and region.layer is None and (
                    len(passed) == 1 or len(passed) < len(region.slots)):
                for node in passed:  # a norm on the stream, or what scales and mixes it
                    self._join(region.output, node)

    def crosses(self, region: Region) -> bool:
        """Whether a layer reads keys and values of a stream that asks nobody itself."""
        return region in self._crossing

    def prefix(self, region: Region) -> str:
        """`enc` or `dec` where there is cross attention, the input's name where there are several.

        Empty for what depends on several inputs, and for models with one stack.
        """
        if self._crossing:
            return "enc" if self._told(region.output) else "dec"
        if len(self.cut.flow.sources) < 2:
            return ""
        behind = [s for s in self.cut.flow.sources if self.cut.flow.is_before(s, region.output)]
        return source_name(behind[0]) if len(behind) == 1 else ""

    @cached_property
    def _crossing(self) -> list[Region]:
        found = [r for r in self.cut.regions if r.layer is not None and self._elsewhere(r)]
        asking = {self._stream(region.output) for region in found}
        return [r for r in found if asking.isdisjoint(self._streams(r, "kv"))]

    def _elsewhere(self, region: Region) -> bool:
        """Whether queries come from another stream than keys and values."""
        asks, told = self._streams(region, "q"), self._streams(region, "kv")
        return bool(asks and told) and asks.isdisjoint(told)

    def _streams(self, region: Region, ports: str) -> set[fx.Node]:
        found = (self._home(node) for port, node in region.slots if port and port in ports)
        return set().union(*found)

    def _home(self, value: fx.Node) -> set[fx.Node]:
        """The stream of a value, or of all that it is computed from where it is on none."""
        if value not in self._homes:
            region = self._regions.get(value)
            inner = region is not None and value in self.cut.inner
            homes = [self._home(node) for _, node in region.slots] if region and inner else []
            self._homes[value] = set().union(*homes) or {self._stream(value)}
        return self._homes[value]

    def _told(self, value: fx.Node) -> bool:
        """Whether keys or values of cross attention depend on a value."""
        return any(
            node is value or self.cut.flow.is_before(value, node)
            for region in self._crossing for port, node in region.slots if port in ("k", "v")
        )

    def _stream(self, node: fx.Node) -> fx.Node:
        while (above := self._parent.get(node, node)) is not node:
            node = above
        return node

    def _join(self, a: fx.Node, b: fx.Node) -> None:
        self._parent[self._stream(b)] = self._stream(a)
