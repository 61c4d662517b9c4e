"""Write the golden texts again: python -m tests.golden.write, then read what changed."""

from rewrite.ir.text import to_text
from tests.ir.test_text import GOLDEN, golden

if __name__ == "__main__":
    for stage in ("traced", "components"):
        (GOLDEN / f"{stage}.txt").write_text(to_text(golden(stage)) + "\n")
