"""The group of subcommands, and how each of them fails: in one sentence, with exit status 2.

Status 1 says that the work was done and that something is wrong with what was looked at, and 130
that it was interrupted.
"""

import signal
from typing import Any

import click

from recurrent_attention._version import __version__
from recurrent_attention.cli import demo, models, pictures, training
from recurrent_attention.cli.failures import sentence_of
from recurrent_attention.cli.interrupts import kept_interrupts


class Failed(click.ClickException):
    """That the work could not be done; 1 is the status of work that found something wrong."""

    exit_code = 2


class OneSentence(click.Group):
    """A group whose subcommands end in a sentence where the package raises one, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the subcommands in the order in which they are needed, not by letter."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            with kept_interrupts():
                return super().invoke(ctx)
        except BrokenPipeError:  # of `| head`, which click ends without a word
            raise
        except (OSError, ValueError, ImportError, FloatingPointError) as error:
            raise Failed(sentence_of(error)) from error
        except (RuntimeError, TypeError) as error:
            if not str(error).startswith("Expected "):  # not ours: where it came from is wanted
                raise
            raise Failed(sentence_of(error)) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted: whatever file is there is whole.", err=True)
            raise click.exceptions.Exit(128 + signal.SIGINT) from None


@click.group(cls=OneSentence, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recurrent-attention")
def main() -> None:
    """Classify pictures whose classes differ by a detail, and show where the model looked.

    The exit status is 0 if all is well, 1 if something is wrong with what was looked at, 2 if the
    work could not be done, and 130 after Ctrl-C.
    """


for command in (
    pictures.check,
    training.train,
    pictures.predict,
    pictures.explain,
    demo.demo,
    training.evaluate,
    models.export,
    models.backbone,
    pictures.boxes,
    training.ablate,
):
    main.add_command(command)
