"""A bundle from `prepare.py` in, checks and measurements of this device out, in calls under ten minutes.

    python3 benchmarks/gpu/run.py BUNDLE [--out OUT] [--results FOLDER] [--device cuda] [--smoke]
                                  [--call NAME] [--parts data checks ...]

`--call` names one of `CALLS`, parts whose limits add up to less than ten minutes; `--parts` takes parts by name.
Every part is a process with a time limit of its own; one that fails, or is not done in time, is reported in a line with
`failed`, and the others go on. Results are JSON lines: `name`, `ours`, `peer`, `unit`, `ratio` (peer over ours for
times, ours over peer for Dice) and what is told beside. A part's lines are in FOLDER (default: OUT) as
`<part>.jsonl` as soon as they are found, so a call that is ended loses none; all are printed and written to
results.jsonl there, below a line with machine, date and versions.
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
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
OPENKBP = ("--dataset", "Task14_OpenKBP")


class Part(NamedTuple):
    """A program of this folder and its time limit."""

    program: str
    seconds: float
    arguments: tuple[str, ...] = ()
    is_peers: bool = False


PARTS = {
    "data": Part("data", 60),
    "checks": Part("checks", 90),
    "speed": Part("speed", 60),
    "compiled": Part("speed", 450, ("--compiled",)),
    "train_fold": Part("train_fold", 250),
    "peer": Part("peer", 120, is_peers=True),
    "hippocampus": Part("folds", 510),
    "peer_50": Part("peer_train", 470, ("--epochs", "50"), True),
    "peer_100": Part("peer_train", 470, ("--epochs", "100"), True),
    "data_openkbp": Part("data", 60, OPENKBP),
    "openkbp": Part("folds", 225, (*OPENKBP, "--folds", "0")),
    "peer_openkbp": Part("peer_train", 225, OPENKBP, True),
    "score": Part("score", 45),
}
"""Name -> what is run. `folds` and `peer_train` use their whole time."""
CALLS = {
    "device": ("data", "checks", "speed", "train_fold", "peer"),
    "compiled": ("data", "compiled"),
    "hippocampus": ("data", "hippocampus"),
    "peer_50": ("data", "peer_50", "score"),
    "peer_100": ("data", "peer_100", "score"),
    "openkbp": ("data_openkbp", "openkbp", "peer_openkbp", "score"),
}
"""Calls of less than ten minutes; `peer_*` pair with what `hippocampus` left in the same OUT."""
NEEDS = ("pydantic", "blosc2", "nibabel", "cc3d", "acvl_utils", "safetensors", "scipy", "sklearn")
PEER_NEEDS = ("nnunetv2", "batchgeneratorsv2", "dynamic_network_architectures")
_GRACE_SECONDS = 10.0
_SMOKE_PATIENCE = 4  # a smoke run is for a small CPU that others use as well

Line = dict[str, Any]


def main() -> int:
    """Run the parts, join the lines of both sides, print and write them."""
    asked = parse()
    for folder in (asked.out, asked.results):
        folder.mkdir(parents=True, exist_ok=True)
    environment = make_environment(asked)
    header, text = about(asked, environment), ""
    lines: list[Line] = []
    for part in asked.parts:
        if PARTS[part].is_peers and not can_import(PEER_NEEDS, environment, peer_python()):
            print(f"NO PEER: {', '.join(PEER_NEEDS)} are not all there; nnU-Net is not measured.", file=sys.stderr)
            lines.append({"name": f"part {part}", "failed": "nnU-Net is not installed and not in the bundle's wheels"})
        else:
            lines += run_part(part, asked, environment)
        text = "\n".join(json.dumps(line) for line in (header, *joined(lines)))
        (asked.results / "results.jsonl").write_text(text + "\n")  # after each part: a call that is ended keeps it
    print(text)
    return 1 if any("failed" in line or line.get("passed") is False for line in lines) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder made by prepare.py")
    parser.add_argument("--out", type=Path, default=None, help="folder for results; default: a temporary one")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="everything in small, to see that it runs")
    parser.add_argument("--results", type=Path, default=None, help="folder for lines and logs; default: OUT")
    parser.add_argument("--call", choices=list(CALLS), default="device")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=None, help="instead of a call's")
    asked = parser.parse_args()
    asked.bundle = asked.bundle.resolve()
    asked.out = Path(tempfile.mkdtemp(prefix="autoseg-gpu-")) if asked.out is None else asked.out.resolve()
    asked.results = asked.out if asked.results is None else asked.results.resolve()
    asked.parts = list(CALLS[asked.call]) if asked.parts is None else asked.parts
    return asked


def make_environment(asked: argparse.Namespace) -> dict[str, str]:
    """Variables for the parts; installs the bundle's wheels beside the results where packages are missing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(PROJECT)])}
    wheels = sorted(map(str, (asked.bundle / "wheels").glob("*.whl")))
    is_complete = can_import(NEEDS, environment, sys.executable) and can_import(PEER_NEEDS, environment, peer_python())
    if wheels and not is_complete:
        site = asked.out / "site"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        command += ["--no-cache-dir", "--upgrade", "--target", str(site), *wheels]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            print("The bundle's wheels do not fit this Python; what is installed here is used.", file=sys.stderr)
        environment["PYTHONPATH"] += os.pathsep + str(site)
    if not can_import(NEEDS, environment, sys.executable):
        sys.exit(f"{', '.join(NEEDS)} must be installed, or their wheels be in the bundle for this Python.")
    return environment


def can_import(names: tuple[str, ...], environment: dict[str, str], python: str) -> bool:
    program = f"import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in {names!r}))"
    return subprocess.run([python, "-c", program], env=environment, check=False).returncode == 0


def peer_python() -> str:
    """The peer may live in another environment, as for the other benchmarks."""
    return os.environ.get("AUTOSEG_PEER_PYTHON", sys.executable)


def run_part(part: str, asked: argparse.Namespace, environment: dict[str, str]) -> list[Line]:
    """The part's lines; its failure is one more line."""
    program, seconds, arguments, is_peers = PARTS[part]
    python = peer_python() if is_peers else sys.executable
    command = [
        python,
        str(HERE / f"{program}.py"),
        str(asked.bundle),
        "--out",
        str(asked.out),
        "--device",
        asked.device,
    ]
    command += ["--seconds", str(seconds - _GRACE_SECONDS), *arguments, *(["--smoke"] if asked.smoke else [])]
    started, limit = time.monotonic(), seconds * (_SMOKE_PATIENCE if asked.smoke else 1)
    log, found_lines = asked.results / f"{part}.log", asked.results / f"{part}.jsonl"
    failed = None
    with log.open("w") as errors, found_lines.open("w") as found:
        process = subprocess.Popen(command, env=environment, stdout=found, stderr=errors, start_new_session=True)
        try:
            code = process.wait(limit)
            failed = None if code == 0 else f"exit code {code}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            failed = f"not done in {limit:.0f} s; last said: {last_line(log)}"
            os.killpg(process.pid, 9)  # its own group: workers that it left go with it
            process.wait()
    lines = [json.loads(line) for line in found_lines.read_text().splitlines() if line.startswith('{"name"')]
    if failed:
        print(f"part {part} failed: {failed}", file=sys.stderr)
        lines.append({"name": f"part {part}", "failed": failed})
    lines.append({"name": f"part {part}, seconds", "ours": round(time.monotonic() - started, 1), "unit": "s"})
    return lines


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "nothing"


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
        "command": "python benchmarks/gpu/run.py " + ("--smoke " if asked.smoke else "") + f"--device {asked.device}",
    }


if __name__ == "__main__":
    sys.exit(main())
