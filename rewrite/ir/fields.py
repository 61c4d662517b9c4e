"""What of a value travels: its fields, and nothing that it has worked out from them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


class Fields:
    """A dataclass that is pickled and copied as its fields; `cached_property` is asked again.

    >>> import copy
    >>> from dataclasses import dataclass
    >>> from functools import cached_property
    >>> @dataclass(frozen=True)
    ... class Square(Fields):
    ...     side: int
    ...     @cached_property
    ...     def area(self): return self.side ** 2
    >>> square = Square(3)
    >>> square.area, vars(copy.copy(square))
    (9, {'side': 3})
    """

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # pyright: ignore
