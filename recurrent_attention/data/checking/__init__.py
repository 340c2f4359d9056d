"""Checking a data set before it is trained on: `check_pictures`, and a command.

python -m recurrent_attention.data.checking FOLDER
"""

from recurrent_attention.data.checking.problems import check_pictures
from recurrent_attention.data.checking.report import CheckReport, Problem

__all__ = ["CheckReport", "Problem", "check_pictures"]
