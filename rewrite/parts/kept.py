"""What is worked out once for a component graph, by question."""

from __future__ import annotations

from typing import Any

SEVERAL = 512  # an expansion of 100 layers needs some 300 of them at a time


class Kept(dict[Any, Any]):
    """Answers, by question.

    There are more sets of heads, and of tokens, than memory has room for: of the bodies made for
    such a set, the latest are kept.

    >>> kept = Kept()
    >>> for last in range(2000):
    ...     kept["a0", (0, last), ()] = kept["a0", (last,), ()] = last
    >>> len(kept), ("a0", (0, 3), ()) in kept, ("a0", (3,), ()) in kept
    (2512, False, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self._several: dict[Any, None] = {}

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if isinstance(key, tuple) and any(map(_is_set, key)):
            self._several[key] = None
            if len(self._several) > SEVERAL:
                oldest = next(iter(self._several))
                del self._several[oldest], self[oldest]


def _is_set(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) > 1 and all(isinstance(i, int) for i in item)
