"""Run by an interpreter that has nnU-Net: what its trainer is given by `benchmarks/gpu`, and what its own preprocessing
makes of the same case (both npz)."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "gpu"))
import peer


def main(source, target):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    given, folder = dict(np.load(source)), Path(source).parent
    content = json.loads(str(given["content"]))
    (folder / "input").mkdir()
    np.savez(folder / "input" / "x.npz", image=given["image"], labels=given["labels"])
    dataset = peer.write_folder(folder / "input", folder / "prepared", content)
    (cases,) = (path for path in (folder / "prepared").iterdir() if path.is_dir())
    image, labels, _, properties = nnUNetDatasetBlosc2(str(cases)).load_case("x")

    plans = PlansManager(peer.nnunet_plans(content))
    own = DefaultPreprocessor(verbose=False).run_case_npy(
        given["raw_image"],
        given["raw_labels"][None],
        {"spacing": given["spacing_mm"].tolist()},
        plans,
        plans.get_configuration("3d_fullres"),
        dataset,
    )
    locations = {f"locations_{key}": value for key, value in properties["class_locations"].items()}
    own_locations = {f"own_locations_{key}": value for key, value in own[2]["class_locations"].items()}
    found = {"image": image[:], "labels": labels[:], **locations}
    np.savez(target, **found, own_image=own[0], own_labels=own[1], **own_locations)


if __name__ == "__main__":
    peer.stand_in_for_simpleitk()
    main(*sys.argv[1:])
