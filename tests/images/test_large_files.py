"""Files of every format that holds volumes are read by a process that may not have their voxels in its memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.images.making import write_meta, write_nifti, write_nrrd

MIB = 1 << 20
SHAPE = (128, 256, 256)  # 16 MiB
READ = f"""
import resource, sys
from pathlib import Path
import nibabel, numpy as np, SimpleITK, tifffile
from autoseg.images import contents
from autoseg.images.reading import read_image
from autoseg.storage import large_arrays
contents._READ_BYTES = 0  # as if the files were large
large_arrays.available_memory_bytes = lambda: 0
small, large = (sorted(Path(name).iterdir()) for name in sys.argv[1:])
for path in small:  # what readers keep for themselves
    read_image([path])
line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
limit = int(line.split()[1]) * 1024 + 6 * {MIB}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for paths in (*([path] for path in large), large[:2]):
    try:
        found = read_image(paths).array
    except (MemoryError, RuntimeError) as error:
        print(paths[0].name, "does not fit:", error)
        continue
    print(paths[0].name, found.shape, sum(int(plane.sum(dtype=np.int64)) for channel in found for plane in channel))
"""


def write_all(folder: Path, values: np.ndarray) -> None:
    """`values` of one channel, Z Y X, in all formats; the first two files can be channels of one image."""
    import tifffile

    folder.mkdir()
    swapped, two = values.astype(">i2"), np.stack([values, values], axis=-1)
    write_nrrd(folder / "0.nrrd", values)
    write_nrrd(folder / "1.nrrd", values, packed=True)
    write_nrrd(folder / "swapped.nrrd", swapped)
    write_nrrd(folder / "channels.nrrd", two, "vector domain domain domain")
    write_meta(folder / "a.mha", values)
    write_meta(folder / "packed.mha", values, packed=True)
    write_meta(folder / "swapped.mha", swapped, packed=True)
    write_meta(folder / "channels.mha", two, 2)
    write_nifti(folder / "a.nii", values)
    write_nifti(folder / "a.nii.gz", values)
    write_nifti(folder / "swapped.nii", swapped)
    for name, options in {"a": {}, "packed": {"compression": "zlib"}, "swapped": {"byteorder": ">"}}.items():
        tifffile.imwrite(folder / f"{name}.tif", values, photometric="minisblack", **options)
    for name, axis, kind in (("channels", -1, "contig"), ("planes", 1, "separate")):
        colours = np.stack([values] * 3, axis=axis)
        tifffile.imwrite(folder / f"{name}.tif", colours, photometric="rgb", planarconfig=kind)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the limit is Linux's")
def test_no_format_needs_its_voxels_in_memory(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 50, SHAPE).astype(np.int16)
    write_all(tmp_path / "small", values[:4, :5, :6])
    write_all(tmp_path / "large", values)
    command = [sys.executable, "-c", READ, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "large").iterdir())
    channels = {"channels.nrrd": 2, "channels.mha": 2, "channels.tif": 3, "planes.tif": 3}
    counts = [*(channels.get(name, 1) for name in names), 2]
    total = int(values.sum(dtype=np.int64))
    assert done.stdout.splitlines() == [
        f"{name} {(count, *SHAPE)} {count * total}" for name, count in zip([*names, names[0]], counts, strict=True)
    ]
