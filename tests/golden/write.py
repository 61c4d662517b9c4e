"""Write the golden text again: python -m tests.golden.write, then read what changed."""

from rewrite.ir.text import to_text
from tests.ir.test_text import GOLDEN, block

if __name__ == "__main__":
    (GOLDEN / "block.txt").write_text(to_text(block()) + "\n")
