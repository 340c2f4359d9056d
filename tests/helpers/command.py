"""The command in this process, and in one of its own."""

import signal
import subprocess
import sys

from click.testing import CliRunner
from helpers.models import make

from recurrent_attention.cli import main


def run(*words):
    """Run a subcommand here; whatever it raises is an error of the test."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def start(*words, **options):
    """Start a subcommand in a process of its own, which Ctrl-C ends.

    Whoever runs the tests in the background of a shell has them ignore Ctrl-C, and what they start.
    """
    command = [sys.executable, "-m", "recurrent_attention", *map(str, words)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if sys.platform != "win32":
        given["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, text=True, **(given | options))


def saved_model(tmp_path_factory, names):
    """Save a small model of three classes that proposes two boxes, and return its folder."""
    folder = tmp_path_factory.mktemp("models") / "birds"
    make(num_classes=3, class_names=names, num_patches=2).save_pretrained(folder)
    return folder
