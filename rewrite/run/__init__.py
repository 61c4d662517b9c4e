"""Stage five: run expansions over data and measure them."""

from rewrite.run.evaluate import evaluate
from rewrite.run.sweep import Sweep, sweep
from rewrite.run.tokens import token_effects

__all__ = ["Sweep", "evaluate", "sweep", "token_effects"]
