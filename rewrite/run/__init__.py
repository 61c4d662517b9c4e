"""Stage five: run expansions over data and measure them."""

from rewrite.run.compiled import compiled
from rewrite.run.evaluate import evaluate
from rewrite.run.sweep import Sweep, sweep
from rewrite.run.tokens import token_effects

__all__ = ["Sweep", "compiled", "evaluate", "sweep", "token_effects"]
