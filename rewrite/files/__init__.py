"""Hypotheses, results and graphs as files that a person can read and edit."""

from rewrite.files.experiment import Experiment, read_experiment
from rewrite.files.exported import load_trusted
from rewrite.files.load import load
from rewrite.files.save import save

__all__ = ["Experiment", "load", "load_trusted", "read_experiment", "save"]
