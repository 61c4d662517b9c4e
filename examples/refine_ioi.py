"""One session of refining: from no path to those that carry indirect objects in SmolLM2-135M.

    python examples/refine_ioi.py refined      # writes log.json, log.md, log.png there

Called again, also with more steps (the second argument), it goes on from the log.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoTokenizer

import rewrite as rw
from rewrite.demo import ioi_pairs
from rewrite.demo.study import keep_right, sample
from rewrite.trace.packaged import folder


def main(out: Path, steps: int) -> None:
    """Nine pairs to choose on and nine held out, of those that the model gets right."""
    parts = rw.trace("smollm2-135m").components()
    pairs = sample(ioi_pairs(AutoTokenizer.from_pretrained(folder("smollm2-135m"))), 24)
    pairs = keep_right(parts, pairs, rw.logit_diff(), 32, lambda done, total: None)
    pairs = pairs.subset(slice(0, 18))
    nothing = rw.Hypothesis(parts, {"clean": "~(...)"})
    log = rw.refine(nothing, pairs, rw.logit_diff(), steps=steps, tolerance=0.02,
                    file=out / "log.json")
    print(log)
    print(rw.minimality(log.hypothesis, pairs, rw.logit_diff(), tolerance=0.02))
    print(rw.completeness(log.hypothesis, pairs, rw.logit_diff()))
    (out / "log.md").write_text(log.markdown(), encoding="utf-8")
    log.draw(out / "log.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "refined"),
         int(sys.argv[2]) if len(sys.argv) > 2 else 4)
