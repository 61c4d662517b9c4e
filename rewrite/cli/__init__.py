"""The command line: trace, draw, test, refine, sweep, demo."""

from rewrite.cli.app import app
from rewrite.cli.refine import refine

app.command()(refine)

__all__ = ["app"]
