"""Trained folds without training: a network that knows class k by intensity 100 k, in a real fold folder."""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from autoseg.networks.build import NETWORKS
from autoseg.records.base import write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.spatial.orientation import Turn, turn
from autoseg.storage import tensors

LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 3, 700), num_entries=3)
SPEC = NetworkSpec(
    architecture="by_intensity",
    features_per_stage=(1,),
    strides=((1, 1, 1),),
    kernel_sizes=((1, 1, 1),),
    blocks_per_stage=(1,),
    decoder_blocks_per_stage=(),
)


class ByIntensity(nn.Module):
    """Logits -(x - 100 k)^2 without their common part: the class whose intensity is nearest wins."""

    def __init__(self, num_input_channels: int, num_heads: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(num_input_channels, num_heads, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(x),)


def by_intensity(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    return ByIntensity(num_input_channels, num_heads)


def weights(num_input_channels: int = 1, offset: float = 0.0) -> dict[str, Tensor]:
    """Weights of `ByIntensity`; with `offset` the intensities of the classes are 100 k + offset."""
    intensity = torch.tensor([100.0 * k + offset * (k > 0) for k in range(LABELS.num_heads)])
    conv = torch.zeros(LABELS.num_heads, num_input_channels, 1, 1, 1)
    conv[:, 0, 0, 0, 0] = 2 * intensity / 1000
    return {"conv.weight": conv, "conv.bias": -(intensity**2) / 1000}


def make_plan(
    spacing_mm=(2.0, 1.5, 1.0),
    patch=(4, 6, 4),
    num_channels: int = 1,
    orientation="canonical",
    names=("3d_fullres",),
    name: str = "plan",
) -> Plan:
    NETWORKS["by_intensity"] = by_intensity
    settings = Configuration(
        spacing_mm=spacing_mm,
        patch_size=patch,
        batch_size=2,
        median_shape=(10, 10, 10),
        normalization=("none",) * num_channels,
        use_mask_for_norm=(False,) * num_channels,
        batch_dice=False,
        network=SPEC,
        recipe=Recipe(mirroring=Mirroring()),
    )
    coarse = {"3d_lowres": settings.model_copy(update={"spacing_mm": tuple(2 * s for s in spacing_mm)})}
    cascade = {"3d_cascade_fullres": settings.model_copy(update={"previous_stage": "3d_lowres"})}
    configurations = {"3d_fullres": settings, **coarse, **cascade}
    return Plan(
        name=name,
        preset="default",
        dataset="Fake",
        channel_names=("MRI",) * num_channels,
        labels=LABELS,
        orientation=orientation,
        transpose=(0, 1, 2),
        intensities={},
        original_median_spacing_mm=(2.0, 1.5, 1.0),
        configurations={key: configurations[key] for key in names},
    )


def write_fold(
    folder: Path,
    plan: Plan,
    configuration: str = "3d_fullres",
    fold: str = "0",
    offset: float = 0.0,
    validation=(),
    mean_dice: float | None = 0.5,
) -> Path:
    """A finished fold as training leaves it."""
    num_channels = len(plan.channel_names) + (2 if plan.configurations[configuration].previous_stage else 0)
    tensors.save(folder / "weights", {"weights": weights(num_channels, offset)}, {})
    write_record(folder / "plan.json", plan)
    record = TrainedFold(
        plan=plan.name,
        configuration=configuration,
        fold=fold,
        train_cases=("x",),
        validation_cases=tuple(validation),
        epochs=1,
        iterations_per_epoch=1,
        seconds=1.0,
        num_parameters=6,
        device="cpu",
        mean_dice=mean_dice,
    )
    write_record(folder / "fold.json", record)
    return folder


def make_workspace(folder: Path, cases: tuple[Case, ...] = ()) -> Paths:
    """Workspace folder of a dataset whose files lie in `folder / data`."""
    paths = Paths(folder=folder / "work")
    dataset = Dataset(
        name="Fake",
        root=str(folder / "data"),
        layout="decathlon",
        channel_names=("MRI",),
        labels=LABELS,
        file_ending=".nii.gz",
        training=cases,
    )
    write_record(paths.dataset, dataset)
    return paths


def blobs(shape=(9, 12, 10), seed: int = 0) -> np.ndarray:
    """Classes `Z Y X`: two boxes without any symmetry."""
    rng = np.random.default_rng(seed)
    classes = np.zeros(shape, np.int16)
    z, y, x = rng.integers(1, 3, 3)
    classes[z : z + 4, y : y + 3, x : x + 5] = 1
    classes[z + 3 : z + 5, y + 4 : y + 8, x + 1 : x + 4] = 2
    return classes


def image_of(classes: np.ndarray) -> np.ndarray:
    """The image `C Z Y X` in which class k has intensity 100 k, background 1 (0 would be cropped)."""
    return np.maximum(classes * 100.0, 1.0).astype(np.float32)[None]


def oblique_grid(shape, spacing_mm=(2.0, 1.5, 1.0), degrees=(20.0, -12.0, 31.0)) -> Geometry:
    """A grid in S, A, R order, rotated about all three axes, off the origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zyx", degrees, degrees=True).as_matrix()[:, ::-1] * spacing_mm
    matrix[:3, 3] = (31.0, -12.0, 7.0)
    return Geometry(shape=shape, spacing_mm=spacing_mm, affine=affine_rows(matrix))


def stored_as(array: np.ndarray, grid: Geometry, how: Turn) -> tuple[np.ndarray, Geometry]:
    """The same voxels at the same place in the patient, stored with other axes."""
    matrix, start = np.eye(4), np.zeros(4)
    start[3] = 1
    for axis, (source, flip) in enumerate(zip(how.axes, how.flips, strict=True)):
        matrix[:, axis] = grid.matrix[:, source] * (-1 if flip else 1)
        start[source] = grid.shape[source] - 1 if flip else 0
    matrix[:, 3] = grid.matrix @ start
    turned = np.ascontiguousarray(turn(array, how))
    spacing = tuple(grid.spacing_mm[axis] for axis in how.axes)
    return turned, Geometry(shape=turned.shape[-3:], spacing_mm=spacing, affine=affine_rows(matrix))
