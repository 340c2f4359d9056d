"""Subcommand for a page in the browser: demo."""

import errno
import os
import signal
import socket
import sys
import threading
from tempfile import TemporaryDirectory

import click

from recurrent_attention._errors import first_line
from recurrent_attention.cli.options import device_option, load_on, model_argument
from recurrent_attention.inference.demo import build_demo

FIRST_PORT, PORTS = 7860, 100  # where Gradio itself begins, and how many it tries


@click.command()
@model_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve at; 0.0.0.0 lets other machines see the page.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to serve at.  [default: the first free one from 7860]",
)
@click.option("--open/--no-open", "browser", default=False, help="Open the page in a browser.")
@device_option
def demo(model: str, host: str, port: int | None, browser: bool, device: str) -> None:
    """Serve a page where MODEL explains pictures.

    Drop pictures on it: it shows names with probabilities, boxes, and look by look what speaks for
    a class. Ctrl-C ends it.
    """
    try:
        free = free_port(host, port)
        loaded = load_on(device, model)
        # Gradio leaves files of uploads behind; in a folder of their own they end with it.
        with TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            page = build_demo(loaded)
            page.launch(
                server_name=host, server_port=free, inbrowser=browser, share=False, quiet=True,
                prevent_thread_lock=True,
            )  # fmt: skip
            before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
            try:
                click.echo(f"{page.local_url} (Ctrl-C ends it)")
                threading.Event().wait()
            finally:
                page.close(verbose=False)
                signal.signal(signal.SIGTERM, before)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def free_port(host: str, port: int | None) -> int:
    """Return a port that nobody listens at.

    Args:
        host: a name or an address of this machine.
        port: the only one to try, or None for the first free one of a hundred from 7860.

    Returns:
        A port in [1, 65535].

    Raises:
        OSError: if none is free, or this machine has no such address.
    """
    tried = [port] if port is not None else list(range(FIRST_PORT, FIRST_PORT + PORTS))
    for candidate in tried:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                if sys.platform != "win32":  # there it would let two listen
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return candidate
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise OSError(
                f"Expected to serve at {host}, port {candidate}, but got: {first_line(error)}. "
                "Give an address of this machine as --host, and a port above 1023 as --port."
            ) from None
    ports = f"port {port}" if port is not None else f"a free port from {tried[0]} to {tried[-1]}"
    raise OSError(
        f"Expected {ports} at {host} to be free, but it is in use. Give another one as --port."
    )
