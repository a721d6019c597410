"""The command `autoseg`: all commands, and how errors become messages and exit codes.

Modules that need torch are imported inside the commands, so that `--help` answers at once.
"""

import sys
import traceback

import typer

from autoseg.cli import compare, data, info, interop, labels, models, predictions, serving, sharing, workflows
from autoseg.errors import AutosegError

_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
_CALL_AGAIN = "interrupted; call the same command again to go on (predict: with --continue)"

app = typer.Typer(
    name="autoseg",
    help="A dataset in, the best segmentation model that the data and the time allow out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_NAMES = {"compare_fp": "compare-fp"}
_COMMANDS = (
    *workflows.COMMANDS,
    *data.COMMANDS,
    *models.COMMANDS,
    *predictions.COMMANDS,
    *compare.COMMANDS,
    *labels.COMMANDS,
    *interop.COMMANDS,
    *sharing.COMMANDS,
    *serving.COMMANDS,
    *info.COMMANDS,
)
for command in _COMMANDS:
    app.command(name=_NAMES.get(command.__name__, command.__name__.rstrip("_")))(command)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors made on purpose are a message, not a traceback."""
    try:
        # typer returns the code of an exit or an interruption instead of raising it.
        code = app(arguments, standalone_mode=False)
    except AutosegError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo(_CALL_AGAIN, err=True)
        return _INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # click's own usage errors
            error.show()
            return int(error.exit_code)
        traceback.print_exc()
        typer.echo("error: this is a bug in autoseg; please report the lines above", err=True)
        return 1
    if code == _INTERRUPTED:
        typer.echo(_CALL_AGAIN, err=True)
    return code if isinstance(code, int) else 0


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
