"""Stage five: run expansions over data and measure them."""

from rewrite.run.evaluate import evaluate
from rewrite.run.sweep import Sweep, sweep

__all__ = ["Sweep", "evaluate", "sweep"]
