"""What the pages tell people to type: each command and each of its options is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from autoseg.cli.main import app
from tests.conftest import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {
    name: {"--help", "-h", *(text for parameter in command.params for text in parameter.opts)}
    for name, command in COMMANDS.items()
}
FOREIGN = {"--filepath"}
"""Options of other programs that a page names alone."""
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_OPTION = re.compile(r"--?[a-z][a-z-]*")


def typed_in(text: str) -> list[list[str]]:
    """Words of each call of autoseg: lines of code blocks, and spans such as `train --budget 15m`."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    calls = [call for line in lines for call in re.split(r"&&|\|", line.split(" #")[0]) if "autoseg " in call]
    calls = [call[call.index("autoseg ") :] for call in calls]
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in _SPAN.findall(rest)]
    calls += [span for span in spans if span.startswith("autoseg ")]
    calls += [f"autoseg {span}" for span in spans if span.split()[0] in COMMANDS and " -" in span]
    return [shlex.split(call) for call in calls]


def faults_of(words: list[str]) -> list[str]:
    """What is wrong with a call: `words` begin with autoseg."""
    name = words[1]
    if name not in COMMANDS:
        return [] if name in ("COMMAND", "--help", "--version") else [f"autoseg {name}: no such command"]
    options = (word.split("=")[0].rstrip(".,;:)") for word in words[2:] if _OPTION.match(word))
    return [f"autoseg {name} {option}: no such option" for option in options if option not in OPTIONS[name]]


def test_a_wrong_page_is_found() -> None:
    block = "```bash\nautoseg trian X   # comment\nautoseg train X --bugdet 5m | tee log\n```\n"
    text = block + "or `predict --fats` and `train`"
    faults = [fault for words in typed_in(text) for fault in faults_of(words)]
    assert [fault.split(":")[0] for fault in faults] == [
        "autoseg trian",
        "autoseg train --bugdet",
        "autoseg predict --fats",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_names_commands_and_options_that_there_are(page: Path) -> None:
    faults = [fault for words in typed_in(page.read_text("utf-8")) for fault in faults_of(words)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_an_option_named_alone_is_one_of_some_command(page: Path) -> None:
    if page.name == "experiments.md":
        return  # names options of the benchmarks too
    spans = [span.split()[0] for span in _SPAN.findall(page.read_text("utf-8")) if span.startswith("--")]
    assert not {span.split("=")[0] for span in spans} - set().union(*OPTIONS.values()) - FOREIGN


def test_every_command_is_on_some_page() -> None:
    named = {words[1] for page in PAGES for words in typed_in(page.read_text("utf-8"))}
    assert not set(COMMANDS) - named


def test_the_index_of_experiments_names_every_section_once() -> None:
    text = (PROJECT / "docs" / "experiments.md").read_text("utf-8")
    anchors = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in re.findall("^## (.+)$", text, re.M)]
    assert re.findall(r"^\| \[[^\]]+\]\(#([^)]+)\)", text, re.M) == anchors, "one row a section, in their order"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_links_to_files_that_there_are(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_names_files_and_modules_that_there_are(page: Path) -> None:
    """`inference/blending.py` or `tests/cli`, and `inference.blending`: names of the code that a rename would leave."""
    text = page.read_text("utf-8")
    spans = [span.split("::")[0] for span in _SPAN.findall(text)]
    files = [span for span in spans if re.fullmatch(r"[a-z_]+(/[a-z_0-9]+)+\.(py|jsonl)", span)]
    files += re.findall(r"python (benchmarks/\S+\.py)", text)
    missing = [file for file in files if not any((root / file).exists() for root in (PROJECT, PROJECT / "autoseg"))]
    for span in spans:
        names = span.split(".") if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) else []
        if not names or names[-1] in ("json", "md") or not (PROJECT / "autoseg" / names[0]).is_dir():
            continue
        if not (PROJECT / "autoseg" / names[0] / f"{names[1]}.py").exists():
            missing.append(span)
    assert not missing
