"""A dataset and its published per-case values in, one folder with all that a bare GPU machine needs out.

    python benchmarks/gpu/prepare.py Task04_Hippocampus Dataset004_Hippocampus.json BUNDLE [--openkbp Task14_OpenKBP]
                                        [--python 3.12] [--no-wheels]

Datasets travel as they were downloaded (15 and 13 MiB; their preprocessed voxels would be more) and are prepared there
by the project's own command, which is timed as well. Wheels are packed for packages that an image with torch, numpy,
scipy, scikit-learn, scikit-image, matplotlib, rich, typer and safetensors lacks: ours, and nnU-Net for the
comparison. The folder must stay below 58 MiB; what it holds and how large it is is printed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

BINARY = ("pydantic-core", "blosc2", "ndindex", "numexpr", "msgpack", "connected-components-3d")
"""Wheels with machine code, for the other machine's Python."""
PURE = (
    "pydantic",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "nibabel",
    "batchgenerators",
    "acvl-utils",
    *("httpx", "httpcore", "h11", "anyio", "certifi", "idna"),  # blosc2 imports httpx
)
PEER = (
    "nnunetv2==2.8.1",
    "dynamic-network-architectures==0.4.4",
    "batchgeneratorsv2==0.3.6",
    "fft-conv-pytorch",
    "threadpoolctl",
)
"""Pure Python; nnU-Net's SimpleITK (50 MiB) is left out, see peer.py."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST_MIB = 58
"""A machine that takes 64 MiB has to take the project as well, which has 5."""


def main() -> int:
    """Fill the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("reference", type=Path, help='JSON {"source": ..., "dice": {method: {case: [Dice a class]}}}')
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--openkbp", type=Path, default=None, help="dataset of the parts data_openkbp, openkbp, ...")
    parser.add_argument("--python", default="3.12", help="version on the other machine")
    parser.add_argument("--no-wheels", action="store_true")
    asked = parser.parse_args()
    asked.bundle.mkdir(parents=True, exist_ok=True)
    pack_dataset(asked.dataset, asked.bundle / "Task04_Hippocampus")
    if asked.openkbp is not None:
        pack_dataset(asked.openkbp, asked.bundle / "Task14_OpenKBP")
    shutil.copy(asked.reference, asked.bundle / "reference.json")
    if not asked.no_wheels:
        pack_wheels(asked.bundle / "wheels", asked.python)
    sizes = {path.name: mib(path) for path in sorted(asked.bundle.iterdir())}
    total = sum(sizes.values())
    print(json.dumps({"mib": {**{name: round(size, 1) for name, size in sizes.items()}, "total": round(total, 1)}}))
    if total > MOST_MIB:
        print(f"{asked.bundle} has {total:.0f} MiB, more than the {MOST_MIB} that travel.", file=sys.stderr)
    return 1 if total > MOST_MIB else 0


def pack_dataset(source: Path, target: Path) -> None:
    """Training images and labels that dataset.json lists, and itself without test cases."""
    content = json.loads((source / "dataset.json").read_text())
    for pair in content["training"]:
        for file in (pair["image"], pair["label"]):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, target / file)
    (target / "dataset.json").write_text(json.dumps({**content, "test": [], "numTest": 0}))


def pack_wheels(folder: Path, python: str) -> None:
    """Download or build the wheels; versions of ours are those installed here."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    binary = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    subprocess.run([*pip, "download", "-q", "--no-deps", *binary, "-d", str(folder), *pinned(BINARY)], check=True)
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), *pinned(PURE), *PEER], check=True)


def pinned(names: tuple[str, ...]) -> list[str]:
    """The versions that are installed here: pydantic and pydantic-core fit one another."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in names]


def mib(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


if __name__ == "__main__":
    sys.exit(main())
