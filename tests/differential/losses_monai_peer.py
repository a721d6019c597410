"""Run by an interpreter that has MONAI: logits and one-hot truths in, its losses and their gradients out (both npz)."""

import sys

import numpy as np
import torch
from monai import losses


def make_losses(regions, batch):
    """Its losses, set so that they mean what ours do; minus 1 where ours is minus an overlap."""
    heads = {"sigmoid": True} if regions else {"softmax": True}
    own = {**heads, "include_background": regions}
    smooth = {**own, "smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": batch}
    # In voxels of the rarest class ours, so that only none at all is the same.
    unsmoothed = {**heads, "smooth_nr": 0, "smooth_dr": 0, "batch": batch}
    # It counts the union twice, as it does the intersection.
    doubled = {**smooth, "smooth_nr": 2e-5, "smooth_dr": 2e-5}
    overlaps = {
        "soft_dice": losses.DiceLoss(**smooth),
        "jaccard": losses.DiceLoss(jaccard=True, **doubled),
        "generalised_dice": losses.GeneralizedDiceLoss(**unsmoothed),
        "tversky": losses.TverskyLoss(alpha=0.3, beta=0.7, **smooth),
    }
    others = {
        "focal": losses.FocalLoss(gamma=2.0, use_softmax=not regions),
        "hausdorff": losses.HausdorffDTLoss(**own),
        "boundary": losses.BoundaryLoss(**own),
        "cl_dice": mean_cl_dice,
    }
    return overlaps, others


def mean_cl_dice(logits, truth):
    """One head at a time, since it adds all up before it divides."""
    loss = losses.SoftclDiceLoss(iter_=2, smooth_nr=1, smooth_dr=1, smooth=1e-12)
    if truth.shape[1] == 2:
        probabilities, heads = logits.sigmoid(), range(2)
    else:
        probabilities, heads = logits.softmax(1), range(1, truth.shape[1])
    return torch.stack([loss(probabilities[:, [h]], truth[:, [h]]) - 1 for h in heads]).mean()


def main(source, target):
    given = dict(np.load(source))
    results = {}
    for heads in ("classes", "regions"):
        for batch in (False, True):
            overlaps, others = make_losses(heads == "regions", batch)
            for name, loss in {**overlaps, **others}.items():
                logits = torch.from_numpy(given[f"{heads}_logits"]).requires_grad_()
                truth = torch.from_numpy(given[f"{heads}_truth"])
                value = loss(logits, truth) - (1 if name in overlaps else 0)
                if name == "focal" and heads == "classes":
                    value = value * truth.shape[1]  # it divides by the number of classes
                (gradient,) = torch.autograd.grad(value, logits)
                key = f"{heads}_{batch}_{name}"
                results[key], results[f"{key}_gradient"] = value.detach().numpy(), gradient.numpy()
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
