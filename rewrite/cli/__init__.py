"""The command line: trace, draw, test, sweep, demo."""

from rewrite.cli.app import app

__all__ = ["app"]
