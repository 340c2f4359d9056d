"""Checking a data set before it is trained on: `check` in Python, this package's name as a command.

    python -m recurrent_attention.data.checking FOLDER

`recurrent_attention.data.checking` is the function: the package above gives its name to it. This
package can still be imported from, and run.
"""

from recurrent_attention.data.checking.problems import check
from recurrent_attention.data.checking.report import CheckReport, Problem

__all__ = ["CheckReport", "Problem", "check"]
