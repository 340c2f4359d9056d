"""Checking a data set before it is trained on: `check_pictures`, and what it reports."""

from recurrent_attention.data.checking.problems import check_pictures
from recurrent_attention.data.checking.report import CheckReport, Problem

__all__ = ["CheckReport", "Problem", "check_pictures"]
