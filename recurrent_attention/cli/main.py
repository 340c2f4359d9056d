"""The group of subcommands, and how each of them fails: in one sentence, with exit status 1."""

from typing import Any

import click

from recurrent_attention._errors import printable
from recurrent_attention._version import __version__
from recurrent_attention.cli import demo, models, pictures, training


class OneSentence(click.Group):
    """A group whose subcommands end in a sentence where the package raises one, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            return super().invoke(ctx)
        except (OSError, ValueError, TypeError, ImportError, FloatingPointError) as error:
            raise click.ClickException(printable(error)) from error


@click.group(cls=OneSentence, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recurrent-attention")
def main() -> None:
    """Classify pictures whose classes differ by a detail, and show where the model looked."""


for command in (
    training.train,
    training.evaluate,
    pictures.predict,
    pictures.explain,
    pictures.boxes,
    pictures.check,
    demo.demo,
    models.backbone,
    models.export,
):
    main.add_command(command)
