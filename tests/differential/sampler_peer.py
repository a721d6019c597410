"""Run by an interpreter that has nnU-Net: label volumes in, where its loader puts patches and which it forces (npz)."""

import json
import sys
from types import SimpleNamespace

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


def _loader(batch_size, patch, fraction, labels, has_ignore=False, cases=("a",), probabilistic=False):
    manager = SimpleNamespace(all_labels=labels, has_ignore_label=has_ignore)
    data = SimpleNamespace(identifiers=list(cases))
    return nnUNetDataLoader(data, batch_size, patch, patch, manager, fraction, probabilistic_oversampling=probabilistic)


def main(source, target):
    given = dict(np.load(source))
    settings = json.loads(str(given["settings"]))
    np.random.seed(1)  # noqa: NPY002 - what nnU-Net draws from
    results = {}
    for name, scene in settings["scenes"].items():
        volume, labels = given[f"volume {name}"], list(range(scene["num_classes"]))
        wanted = scene["regions"] or labels[1:]
        if scene["has_ignore"]:  # as in DefaultPreprocessor.run_case_npy
            wanted = [*wanted, [-1, *labels]]
        places = DefaultPreprocessor._sample_foreground_locations(volume[None], wanted)
        loader = _loader(2, scene["patch"], 0.33, labels, scene["has_ignore"])
        drawn = [loader.get_bbox(volume.shape, scene["forced"], places)[0] for _ in range(settings["count"])]
        results[name] = np.array(drawn)
    results["forced"] = np.array(
        [
            [_loader(size, (8, 8, 8), fraction, [0, 1]).get_do_oversample(number) for number in range(size)]
            + [False] * (max(settings["sizes"]) - size)
            for size in settings["sizes"]
            for fraction in settings["fractions"]
        ]
    )
    loader = _loader(2, (8, 8, 8), 0.3, [0, 1], cases=settings["cases"], probabilistic=True)
    results["share"] = np.array([loader.get_do_oversample(0) for _ in range(settings["count"])])
    results["cases"] = np.array([loader.get_indices() for _ in range(settings["count"])])
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
