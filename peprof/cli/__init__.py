"""The command line: the only room that prints and exits. One module a command."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO

import click

from peprof import __version__
from peprof.cli.compare import compare
from peprof.cli.estimate import estimate
from peprof.cli.export import export
from peprof.cli.fit import fit
from peprof.cli.methods import methods
from peprof.cli.run import run
from peprof.cli.show import show
from peprof.errors import PeprofError, StoreError
from peprof.results.collecting import last_of_the_process

INTERRUPTED = 130
TERMINATED = 143
STOPPED = "Interrupted."
"""Unless a command says of its interruption what there is to say."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="peprof")
def commands() -> None:
    """Memory, latency, energy and accuracy of fine-tuning methods, measured and compared.

    Start with: peprof run quickstart
    """


commands.add_command(run)
commands.add_command(compare)
commands.add_command(export)
commands.add_command(show)
commands.add_command(methods)
commands.add_command(estimate)
commands.add_command(fit)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: everything ends as after Ctrl-C, children and temporary files included."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def main() -> NoReturn:
    """Runs a command; errors become one message and their exit code, never a traceback."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with last_of_the_process():
            _main()
    finally:
        signal.signal(signal.SIGTERM, before)


def _main() -> NoReturn:
    try:
        code = commands.main(standalone_mode=False, prog_name="peprof")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PeprofError as error:
        report(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        stop = error.__cause__ if isinstance(error, click.Abort) else error
        click.echo(str(stop or "") or STOPPED, err=True)
        terminated = isinstance(error, _Terminated) or isinstance(error.__cause__, _Terminated)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    except SystemExit as stop:
        # click and rich end with 1 when the reader of a pipe, such as head, has seen enough; here 1 is a
        # regression.
        sys.exit(0 if stop.code == 1 else stop.code)
    except OSError as error:
        report(StoreError(f"the system refused: {error}"))
        _close_quietly(sys.stdout)
        sys.exit(StoreError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _close_quietly(stream: TextIO) -> None:
    """Gives up what can't be written, or Python would complain of it once more at its end."""
    with suppress(OSError):
        stream.close()


def report(error: PeprofError) -> None:
    """Prints an error and what to do about it, on stderr."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {error.message}", err=True)
    if error.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {error.hint}", err=True)
