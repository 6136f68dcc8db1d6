"""The command line: the only room that prints and exits. One module a command."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from peprof import __version__
from peprof.cli.compare import compare
from peprof.cli.run import run
from peprof.errors import PeprofError

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="peprof")
def commands() -> None:
    """Memory, latency, energy and accuracy of fine-tuning methods, measured and compared.

    Start with: peprof run quickstart
    """


commands.add_command(run)
commands.add_command(compare)


def main() -> NoReturn:
    """Runs a command; errors become one message and their exit code, never a traceback."""
    try:
        code = commands.main(standalone_mode=False, prog_name="peprof")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PeprofError as error:
        report(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. Finished runs are kept; the same command goes on from there.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def report(error: PeprofError) -> None:
    """Prints an error and what to do about it, on stderr."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {error.message}", err=True)
    if error.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {error.hint}", err=True)
