"""Held-out cases of all configurations in, the temperatures of their folds out; files are read, nothing is written."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from autoseg import console
from autoseg.inference.model import weights_digest
from autoseg.inference.store import read_meta, read_probabilities
from autoseg.records.base import read_record
from autoseg.records.calibration import Calibration, ConfigurationCalibration
from autoseg.records.dataset import Dataset
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan
from autoseg.selection.calibration import Sample, fit_fold, reliability, sample_case, sample_size
from autoseg.selection.held_out import HeldOut, in_box, reference_of

Samples = dict[str, Sample]


def calibrate(plan: Plan, held_out: Mapping[str, HeldOut], dataset: Dataset) -> Calibration:
    """Fit the temperature of every fold of every configuration.

    Args:
        plan: of the configurations.
        held_out: configuration -> its folds and the cases they held out.
        dataset: with the references.

    Raises:
        DataError: a reference or a stored file cannot be read.
    """
    samples = _draw(held_out, dataset, plan.labels)
    fitted = {name: _fit(held, samples[name], plan.labels) for name, held in held_out.items()}
    return Calibration(plan=plan.name, configurations=fitted)


def _draw(held_out: Mapping[str, HeldOut], dataset: Dataset, labels: LabelScheme) -> dict[str, Samples]:
    """Configuration -> case -> sample; every reference is read once."""
    samples: dict[str, Samples] = {name: {} for name in held_out}
    sizes = {name: sample_size(len(held.folders), labels.num_heads) for name, held in held_out.items()}
    cases = sorted({case for held in held_out.values() for case in held.folders})
    for case in console.track(cases, len(cases), "calibrating"):
        own = {name: held for name, held in held_out.items() if case in held.folders}
        folder = next(iter(own.values())).folders[case]
        box = in_box(case, own, reference_of(dataset, case, read_meta(folder, case).geometry), labels)
        for name, held in own.items():
            read = partial(read_probabilities, held.folders[case], case)
            drawn = sample_case(case, read, box.shape, box.reference, labels, sizes[name])
            if drawn is not None:
                samples[name][case] = drawn
    return samples


def _fit(held: HeldOut, samples: Samples, labels: LabelScheme) -> ConfigurationCalibration:
    folds = {}
    scored: list[tuple[Sample, float]] = []
    for fold, folder in _fold_folders(held).items():
        own = {case: samples[case] for case in samples if held.folders[case].parent == folder}
        folds[fold] = fit_fold(own, labels, weights_digest(folder))
        if len(own) > 1:
            scored += [(sample, folds[fold].held_out[case]) for case, sample in own.items()]
    return ConfigurationCalibration(
        folds=folds,
        before=reliability([(sample, 1.0) for sample, _ in scored], labels),
        after=reliability(scored, labels),
        num_cases=len(scored),
    )


def _fold_folders(held: HeldOut) -> dict[str, Path]:
    """Fold -> its folder."""
    folders = {folder.parent for folder in held.folders.values()}
    return {folder.name.removeprefix("fold_"): folder for folder in sorted(folders)}


def stored_temperatures(calibration: Path, plan: str, configuration: str, folders: Sequence[Path]) -> list[float]:
    """What divides the logits of fold folders' networks: 1 for weights that were not calibrated, or trained anew."""
    if not calibration.is_file():
        return [1.0] * len(folders)
    known = read_record(calibration, Calibration)
    of_configuration = known.configurations.get(configuration) if known.plan == plan else None
    fitted = of_configuration.folds if of_configuration is not None else {}
    temperatures = [1.0] * len(folders)
    for position, folder in enumerate(folders):
        own = fitted.get(folder.name.removeprefix("fold_"))
        if own is not None and own.weights_sha256 == weights_digest(folder):
            temperatures[position] = own.temperature
    return temperatures
