"""The command `recurrent-attention`: each subcommand is a few lines over a public function."""

from recurrent_attention.cli.main import main

__all__ = ["main"]
