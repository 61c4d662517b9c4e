"""Which input's positions a value has: along its axis 1, behind the batch.

Where the length varies, sizes tell.  Where it was fixed when the model was traced, a size may be
that of something else (classes, features), and dataflow tells: rows are pushed from what a part
writes to what it reads, and whatever is added to a sum has the positions of that sum.
"""

from __future__ import annotations

import sympy
from torch import fx

from rewrite.ir.flow import is_float, shape
from rewrite.parts.component import Components
from rewrite.parts.rowwise import rows_from
from rewrite.rules.addends import MOVED


def sequence_of(parts: Components, value: fx.Node) -> str | None:
    """The name of the input whose positions are counted by axis 1 of a value; None if unknown.

    >>> from rewrite.parts.sequences import sequence_of
    >>> sequence_of(parts, next(iter(parts.cut.sums)))
    'input_ids'
    """
    size = shape(value)[1:2]
    if size and not sympy.sympify(size[0]).is_Integer:
        found = (source for source in parts.cut.flow.sources if shape(source)[1:2] == size)
        return next((str(source.target) for source in found), None)
    if "sequences" not in parts.kept:
        parts.kept["sequences"] = _by_dataflow(parts)
    return parts.kept["sequences"].get(value)


def _by_dataflow(parts: Components) -> dict[fx.Node, str]:
    cut, flow = parts.cut, parts.cut.flow
    known = {source: str(source.target) for source in flow.sources
             if len(shape(source)) == 2 and not is_float(source)}
    regions = {region.output: region for region in cut.regions}
    rows = {value: rows_from(flow, value, cut.written) for value in regions
            if len(shape(value)) > 1}
    for value, leaves in rows.items():  # features of each position, if weights multiply them
        if any(flow.contracts(node) for node in regions[value].nodes):
            known |= {leaf: str(leaf.target) for leaf in leaves
                      if leaf in flow.sources and is_float(leaf) and len(shape(leaf)) > 2}
    order, before = flow.order.__getitem__, -1
    while len(known) > before:
        before = len(known)
        for value in sorted((*rows, *cut.sums), key=order):
            terms = () if value.target in MOVED else cut.sums.get(value, ())
            alike = [term for term in terms if flow.flows(term) and shape(term) == shape(value)]
            near = (value, *sorted(rows.get(value, ()), key=order), *alike)
            some = next((known[each] for each in near if each in known), None)
            if some is not None:
                known |= {each: known.get(each, some) for each in (value, *alike)}
    return known
