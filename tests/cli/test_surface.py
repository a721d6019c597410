"""The commands and options people rely on; changing one is a decision, not an accident."""

import re
import subprocess
import sys

import pytest
import typer.main

from autoseg.cli.main import app, main
from autoseg.cli.options import parse_budget, parse_duration
from autoseg.errors import UsageError
from autoseg.planning.presets import PRESETS

COMMANDS = {
    "demo", "run", "benchmark", "verify", "fingerprint", "plan", "preprocess", "plan_and_preprocess", "phantoms",
    "train", "select", "postprocess", "predict", "evaluate", "report", "compare-fp", "status", "info", "doctor",
    "audit", "raters", "pack", "serve", "import", "export",
}  # fmt: skip


def test_the_commands() -> None:
    assert set(typer.main.get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_help_names_every_preset() -> None:
    command = typer.main.get_command(app).commands["plan"]  # type: ignore[attr-defined]
    (text,) = (parameter.help for parameter in command.params if "--preset" in parameter.opts)
    assert set(re.findall(r"[a-z_]+", text.partition(":")[2])) == {"auto", *PRESETS}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), (None, None)]
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["15", "", "m", "-3m", "0s", "soon"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_duration(text)


def test_errors_are_messages_with_exit_codes(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert main(["plan", "--from-fingerprint", "nowhere.json"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --from-fingerprint needs --dataset-json")
    assert "Traceback" not in message
    assert main(["train"]) == 2
    assert main(["no_such_command"]) == 2


def test_help_imports_nothing_that_takes_long() -> None:
    """Half a second of CPU is the limit; a test on time would fail on a busy machine, and this is where time goes."""
    code = (
        "import sys; from autoseg.cli.main import main; main(['--help']); "
        "sys.exit(', '.join({'torch', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("text", "until_plateau", "seconds"),
    [("auto", True, None), ("AUTO:2h", True, 7200), ("15m", False, 900), (None, False, None)],
)
def test_budgets_until_the_plateau(text: str | None, until_plateau: bool, seconds: float | None) -> None:
    assert parse_budget(text) == (until_plateau, seconds)


@pytest.mark.parametrize("text", ["auto:soon", "automatic", "2h:auto", ""])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_budget(text)


def test_a_wrong_bound_of_auto_is_named_as_it_was_typed() -> None:
    with pytest.raises(UsageError, match=r"--budget auto:3: .*auto:2h"):
        parse_budget("auto:3")
    with pytest.raises(UsageError, match=r"--budget soon: .*also auto"):
        parse_budget("soon")
