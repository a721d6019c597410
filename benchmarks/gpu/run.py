"""A bundle from `prepare.py` in, checks and measurements of this device out, in calls of a time that is given.

    python3 benchmarks/gpu/run.py BUNDLE [--call NAME | --parts data checks ...] [--seconds S]
                                  [--out OUT] [--results FOLDER] [--device cuda] [--smoke]

`--call` names one of `CALLS`; `--parts` takes parts by name. Every part is a process with a time limit of its own: the
one in `PARTS`, longer in the proportion in which more time is left than the parts still to come need. A part that
fails, is not done in time or finds its time gone is reported in a line with `failed`, and the others go on. Results are
JSON lines: `name`, `ours`, `peer`, `unit`, `ratio` (peer over ours for times, ours over peer for Dice) and what is told
beside. FOLDER (default: OUT) gets three files: `found.jsonl` with each line as soon as it is found, so that a call that
is ended loses none; `log.txt`; and `results.jsonl`, both sides joined below a line with machine, date and versions.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
OPENKBP = ("--dataset", "Task14_OpenKBP")
FOUND, LOG = "found.jsonl", "log.txt"


class Part(NamedTuple):
    """A program of this folder and its time limit in a call without a second to spare."""

    program: str
    seconds: float
    arguments: tuple[str, ...] = ()
    is_peers: bool = False


PARTS = {
    "data": Part("data", 30),
    "checks": Part("checks", 45),
    "speed": Part("speed", 30),
    "peer": Part("peer", 75, is_peers=True),
    "fold_2min": Part("train_fold", 150, ("--budgets", "120")),
    "fold_budgets": Part("train_fold", 255, ("--budgets", "30", "60", "120")),
    "compiled": Part("speed", 75, ("--compiled",)),
    "hippocampus": Part("folds", 160),
    "peer_50": Part("peer_train", 200, ("--epochs", "50"), True),
    "peer_100": Part("peer_train", 400, ("--epochs", "100"), True),
    "data_openkbp": Part("data", 50, OPENKBP),
    "openkbp": Part("folds", 100, (*OPENKBP, "--folds", "0")),
    "peer_openkbp": Part("peer_train", 100, OPENKBP, True),
    "score": Part("score", 30),
}
"""Name -> what is run. `folds` and `peer_train` use all the time they are given."""
CALLS: dict[str, tuple[float, tuple[str, ...]]] = {
    "first": (360, ("data", "checks", "speed", "peer", "fold_2min")),
    "second": (300, ("data", "compiled", "hippocampus")),
    "second_peer": (300, ("data", "peer_50", "score")),
    "device": (580, ("data", "checks", "speed", "peer", "fold_budgets")),
    "compiled": (580, ("data", "compiled")),
    "hippocampus": (580, ("data", "hippocampus")),
    "peer_50": (580, ("data", "peer_50", "score")),
    "peer_100": (580, ("data", "peer_100", "score")),
    "openkbp": (580, ("data_openkbp", "openkbp", "peer_openkbp", "score")),
}
"""Name -> seconds, unless others are given, and parts, the most valuable first; `peer_*` pair with what `hippocampus`
left in the same OUT."""
START_SECONDS = 30.0
"""Of a call, for installing the wheels and asking for versions on a machine that has loaded nothing yet."""
NEEDS = ("pydantic", "blosc2", "nibabel", "cc3d", "acvl_utils", "safetensors", "scipy", "sklearn")
PEER_NEEDS = ("nnunetv2", "batchgeneratorsv2", "dynamic_network_architectures")
_GRACE_SECONDS = 8.0
"""Of its limit, for a part to say the last and end by itself."""
_SMOKE_PATIENCE = 10  # a smoke run is for a small CPU that others use as well

Line = dict[str, Any]


def main() -> int:
    """Run the parts, join the lines of both sides, print and write them."""
    started, asked = time.monotonic(), parse()
    for folder in (asked.out, asked.results):
        folder.mkdir(parents=True, exist_ok=True)
    for name in (FOUND, LOG):
        (asked.results / name).write_text("")
    environment = make_environment(asked)
    header, text = about(asked, environment), ""
    lines: list[Line] = []
    for number, part in enumerate(asked.parts):
        left = asked.seconds - (time.monotonic() - started)
        limit = limit_of(asked.parts[number:], left)
        if limit is None:
            lines.append(failure(part, f"not begun: it needs {PARTS[part].seconds:.0f} s, {left:.0f} are left"))
        elif PARTS[part].is_peers and not can_import(PEER_NEEDS, environment, peer_python()):
            lines.append(failure(part, f"nnU-Net is not there: {', '.join(PEER_NEEDS)} are needed"))
        else:
            lines += run_part(part, asked, environment, limit)
        text = "\n".join(json.dumps(line) for line in (header, *joined(lines)))
        (asked.results / "results.jsonl").write_text(text + "\n")
    print(text)
    return 1 if any("failed" in line or line.get("passed") is False for line in lines) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder made by prepare.py")
    parser.add_argument("--out", type=Path, default=None, help="folder for results; default: a temporary one")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="everything in small, to see that it runs")
    parser.add_argument("--results", type=Path, default=None, help="folder for lines and the log; default: OUT")
    parser.add_argument("--call", choices=list(CALLS), default="first")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=None, help="instead of a call's")
    parser.add_argument("--seconds", type=float, default=None, help="time of the whole call; default: the call's")
    asked = parser.parse_args()
    asked.bundle = asked.bundle.resolve()
    asked.out = Path(tempfile.mkdtemp(prefix="autoseg-gpu-")) if asked.out is None else asked.out.resolve()
    asked.results = asked.out if asked.results is None else asked.results.resolve()
    seconds, parts = CALLS[asked.call]
    if asked.parts is None:
        asked.parts = list(parts)
    else:
        seconds = needed_seconds(asked.parts)
    asked.seconds = (_SMOKE_PATIENCE if asked.smoke else 1) * seconds if asked.seconds is None else asked.seconds
    if needed_seconds(asked.parts) > asked.seconds:
        limits = ", ".join(f"{part} {PARTS[part].seconds:.0f}" for part in asked.parts)
        parser.error(
            f"--seconds {asked.seconds:.0f} is less than the {needed_seconds(asked.parts):.0f} s that the parts may "
            f"take ({limits}, and {START_SECONDS:.0f} to begin). Leave parts out with --parts."
        )
    return asked


def needed_seconds(parts: Sequence[str]) -> float:
    """Limits of the parts together, and what a call takes to begin."""
    return START_SECONDS + sum(PARTS[part].seconds for part in parts)


def limit_of(parts: Sequence[str], seconds_left: float) -> float | None:
    """Seconds that the first of the parts still to come may take; None where its own are not there."""
    seconds = PARTS[parts[0]].seconds
    needed = sum(PARTS[part].seconds for part in parts)
    return None if seconds > seconds_left else seconds * max(1.0, seconds_left / needed)


def make_environment(asked: argparse.Namespace) -> dict[str, str]:
    """Variables for the parts; installs the bundle's wheels beside the results where packages are missing."""
    site = asked.out / "site"  # an earlier call may have filled it
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, PROJECT, site)))}
    wheels = sorted(map(str, (asked.bundle / "wheels").glob("*.whl")))
    is_complete = can_import(NEEDS, environment, sys.executable) and can_import(PEER_NEEDS, environment, peer_python())
    if wheels and not is_complete:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        command += ["--no-cache-dir", "--upgrade", "--target", str(site), *wheels]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            print("The bundle's wheels do not fit this Python; what is installed here is used.", file=sys.stderr)
    if not can_import(NEEDS, environment, sys.executable):
        sys.exit(f"{', '.join(NEEDS)} must be installed, or their wheels be in the bundle for this Python.")
    return environment


def can_import(names: tuple[str, ...], environment: dict[str, str], python: str) -> bool:
    program = f"import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in {names!r}))"
    return subprocess.run([python, "-c", program], env=environment, check=False).returncode == 0


def peer_python() -> str:
    """The peer may live in another environment, as for the other benchmarks."""
    return os.environ.get("AUTOSEG_PEER_PYTHON", sys.executable)


def run_part(part: str, asked: argparse.Namespace, environment: dict[str, str], limit: float) -> list[Line]:
    """The part's lines; its failure is one more line."""
    program, _, arguments, is_peers = PARTS[part]
    started = time.monotonic()
    command = [peer_python() if is_peers else sys.executable, str(HERE / f"{program}.py"), str(asked.bundle)]
    command += ["--out", str(asked.out), "--device", asked.device, "--ends", str(started + limit - _GRACE_SECONDS)]
    command += [*arguments, *(["--smoke"] if asked.smoke else [])]
    found_lines, log = asked.results / FOUND, asked.results / LOG
    lines_before, log_before = found_lines.stat().st_size, log.stat().st_size
    with log.open("a") as errors, found_lines.open("a") as found:
        # A group of its own, so that workers it leaves end with it; of this session, so that they end with the call.
        process = subprocess.Popen(command, env=environment, stdout=found, stderr=errors, process_group=0)
        try:
            code = process.wait(limit)
            failed = None if code == 0 else f"exit code {code}: {last_line(log, log_before)}"
        except subprocess.TimeoutExpired:
            failed = f"not done in {limit:.0f} s; last said: {last_line(log, log_before)}"
            os.killpg(process.pid, 9)
            process.wait()
    told = said_since(found_lines, lines_before)
    lines = [json.loads(line) for line in told if line.startswith('{"name"') and line.endswith("}")]
    if failed:
        lines.append(failure(part, failed))
    lines.append({"name": f"part {part}, seconds", "ours": round(time.monotonic() - started, 1), "unit": "s"})
    return lines


def failure(part: str, reason: str) -> Line:
    """The line of a part that was not done, told at once as well."""
    print(f"part {part} failed: {reason}", file=sys.stderr)
    return {"name": f"part {part}", "failed": reason}


def last_line(log: Path, before: int) -> str:
    """What a part said last, for people."""
    lines = [line for line in said_since(log, before) if line.strip()]
    return lines[-1][:500] if lines else "nothing"


def said_since(path: Path, before: int) -> list[str]:
    """Lines of a file after its first `before` bytes."""
    return path.read_bytes()[before:].decode(errors="replace").splitlines()


def joined(lines: list[Line]) -> list[Line]:
    """Lines of one name together; times get their ratio, above 1 where we are faster."""
    together: dict[str, Line] = {}
    for line in lines:
        together.setdefault(line["name"], {}).update(line)
    for line in together.values():
        if line.get("unit") in ("ms", "s") and line.get("ours") and line.get("peer"):
            line["ratio"] = round(line["peer"] / line["ours"], 4)
    return list(together.values())


def about(asked: argparse.Namespace, environment: dict[str, str]) -> Line:
    """Machine, date and versions, as the other result files begin."""
    program = (
        "import importlib.metadata as m, json, torch;"
        "v = lambda n: next((m.version(n) for _ in [0] if n in {d.metadata['Name'] for d in m.distributions()}), None);"
        f"d = torch.device({asked.device!r});"
        "print(json.dumps({'device': torch.cuda.get_device_name(d) if d.type == 'cuda' else 'cpu',"
        "'torch': torch.__version__, 'cuda': torch.version.cuda, 'numpy': v('numpy'), 'nnunetv2': v('nnunetv2')}))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    facts = json.loads(done.stdout) if done.returncode == 0 else {"device": f"unknown: {done.stderr.strip()[-200:]}"}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{facts.pop('device')}, {os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **facts},
        "command": f"python benchmarks/gpu/run.py --device {asked.device} --seconds {asked.seconds:.0f} --parts "
        + " ".join(asked.parts)
        + (" --smoke" if asked.smoke else ""),
    }


if __name__ == "__main__":
    sys.exit(main())
