"""Arguments and options that several subcommands have."""

import click

at_least_one = click.IntRange(1)
model_argument = click.argument("model", metavar="MODEL")
num_workers_option = click.option(
    "--num-workers",
    type=click.IntRange(0),
    default=0,
    help="Processes that read.",
    show_default=True,
)
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress bar.")
