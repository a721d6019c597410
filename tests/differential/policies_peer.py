"""Run by an interpreter that has nnU-Net: patches in, all numbers of its augmentation out (JSON in an npz)."""

import json
import sys
from types import SimpleNamespace

import numpy as np
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

TRAINERS = {"nnunet": nnUNetTrainer, "da5": nnUNetTrainerDA5}


def _plain(value):
    """The value for JSON; of what cannot be written its name."""
    if isinstance(value, BGContrast):
        return _plain(value.contrast_range)
    if isinstance(value, tuple | list | np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, np.number):
        return value.item()
    return value if isinstance(value, bool | int | float | str | None) else type(value).__name__


def _row(transform):
    """Class, odds and every public attribute of a transform; of a choice the rows of its members."""
    odds = 1.0
    if isinstance(transform, RandomTransform):
        odds, transform = transform.apply_probability, transform.transform
    if isinstance(transform, OneOfTransform):
        return [_row(one) for one in transform.list_of_transforms]
    settings = {key: _plain(value) for key, value in vars(transform).items() if key[0] != "_"}
    return {"name": type(transform).__name__, "odds": odds, **settings}


def main(source, target):
    patches = json.loads(str(np.load(source)["patches"]))
    found = []
    for name, trainer in TRAINERS.items():
        for patch in patches:
            fake = SimpleNamespace(
                configuration_manager=SimpleNamespace(patch_size=patch), print_to_log_file=lambda *_, **__: None
            )
            rotation, in_plane, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(fake)
            chain = trainer.get_training_transforms(
                patch, rotation, None, axes, in_plane, [False, True], is_cascaded=True, foreground_labels=[1, 2]
            )
            found.append({"policy": name, "patch": patch, "rows": [_row(one) for one in chain.transforms]})
    np.savez(target, found=np.array(json.dumps(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
