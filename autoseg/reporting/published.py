"""A Decathlon dataset's name in, published cross-validation Dice out.

Values are means over the held-out cases of nnU-Net v2's 5-fold cross-validation on the full training sets, read out of
the logs that accompany Auto-nnU-Net (arXiv 2505.16561; github.com/automl/AutoNNUnet at 7c9d676): 3d_fullres, 1000
epochs, no post-processing, both-empty cases left out. Its folds were validated with the checkpoint that was best on
the same fold, which flatters them slightly. The prostate's transition zone is low because two cases
carry wrong label values (MIC-DKFZ/nnUNet issue 638).
"""

from autoseg.metrics.tolerances import decathlon_task

SOURCE = (
    "nnU-Net v2 3d_fullres, 5-fold cross-validation, 1000 epochs: logs of Auto-nnU-Net (arXiv 2505.16561), "
    "github.com/automl/AutoNNUnet at 7c9d676"
)

# Dataset -> method -> Dice of each class, in the order of the classes in dataset.json.
_DICE: dict[str, dict[str, tuple[float, ...]]] = {
    "braintumour": {
        "nnU-Net v2": (0.8113, 0.6198, 0.7883),
        "ResEnc M": (0.8086, 0.6197, 0.7961),
        "ResEnc L": (0.8044, 0.6172, 0.7863),
    },
    "heart": {"nnU-Net v2": (0.9339,), "ResEnc M": (0.9340,), "ResEnc L": (0.9326,)},
    "liver": {"nnU-Net v2": (0.9546, 0.6358), "ResEnc M": (0.9605, 0.6722), "ResEnc L": (0.9634, 0.6693)},
    "hippocampus": {"nnU-Net v2": (0.8985, 0.8823), "ResEnc M": (0.8953, 0.8797), "ResEnc L": (0.8938, 0.8786)},
    "prostate": {"nnU-Net v2": (0.6795, 0.7991), "ResEnc M": (0.6884, 0.7923), "ResEnc L": (0.6744, 0.7928)},
    "lung": {"nnU-Net v2": (0.6822,), "ResEnc M": (0.6788,), "ResEnc L": (0.6846,)},
    "pancreas": {"nnU-Net v2": (0.8161, 0.5051), "ResEnc M": (0.8191, 0.5366), "ResEnc L": (0.8219, 0.5345)},
    "hepaticvessel": {"nnU-Net v2": (0.6479, 0.7185), "ResEnc M": (0.6432, 0.7301), "ResEnc L": (0.6424, 0.7110)},
    "spleen": {"nnU-Net v2": (0.9664,), "ResEnc M": (0.9672,), "ResEnc L": (0.9701,)},
    "colon": {"nnU-Net v2": (0.4596,), "ResEnc M": (0.4402,), "ResEnc L": (0.5045,)},
}


def published_dice(dataset: str, num_targets: int) -> dict[str, tuple[float, ...]]:
    """Method -> published Dice of each target, in label order; empty where nothing is known for such a dataset.

    Only the Decathlon's own folder names count: another task called `Liver` is another dataset.
    """
    methods = _DICE.get(decathlon_task(dataset) or "", {})
    return {method: values for method, values in methods.items() if len(values) == num_targets}
