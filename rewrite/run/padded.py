"""Positions of paths where examples are padded: a column counts from the padding, a token not."""

from __future__ import annotations

import torch

from rewrite.errors import DataError
from rewrite.expand import Expansion
from rewrite.expand.positions import ends_of, input_of
from rewrite.expand.product import Mixed
from rewrite.ir.layout import Layout
from rewrite.measure import Batch


def check_positions(expansion: Expansion, layout: Layout, batch: Batch) -> None:
    """Raise `DataError` where a position of the paths means another token than without padding.

    `@[-1]` is the last column: padding, in an example that is padded on the right.  Columns of
    padding beside the right tokens do no harm, for nobody reads them.
    """
    padded = {length: mask.cpu() for length, mask in layout.real(
        batch.inputs[batch.reference]).items() if not bool(mask.all())}
    if not padded:
        return
    parts = expansion.parts
    lengths = {spec.name: name for spec in parts.graph.inputs for name in layout.lengths
               if spec.shape[1:2] and spec.shape[1] in (name, layout.fixed.get(name))}
    spots = {(copy.test.place, input_of(parts, name))
             for name, copies in expansion.product.copies.items() for copy in copies
             if isinstance(copy, Mixed) and copy.test.place}
    for place, sequence in sorted(spots):
        mask = padded.get(lengths.get(sequence, ""))
        if mask is None:
            continue
        for number, row in zip(batch.index.tolist(), mask, strict=True):
            tokens = row.nonzero().flatten().tolist()
            if place.startswith("["):
                _check_slice(place, number, tokens, len(row))
            elif place in batch.positions:
                _check_named(place, number, tokens, len(row), batch)


def _check_slice(place: str, number: int, tokens: list[int], size: int) -> None:
    low, high = ends_of(place)
    wanted, columns = tokens[low:high], range(size)[low:high]
    if wanted != [column for column in tokens if column in columns]:
        raise DataError(
            f"@{place} counts columns, and of the {size} columns of example {number} only {tokens} "
            f"are tokens, the others padding: name the position, "
            f"positions={{'HERE': [...]}} with the pairs, here {wanted}, and write @HERE")


def _check_named(place: str, number: int, tokens: list[int], size: int, batch: Batch) -> None:
    given = batch.positions[place][batch.index.tolist().index(number)].cpu()
    if given.dtype == torch.bool:
        return  # a mask
    missed = [at for at in given.reshape(-1).tolist() if at % size not in tokens]
    if missed:
        raise DataError(f"@{place} is column {missed[0]} in example {number}, which is padding: "
                        f"its tokens are columns {tokens}")
