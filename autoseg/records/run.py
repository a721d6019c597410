"""What a whole run leaves behind, for people and for programs."""

from pathlib import Path
from typing import Any

from autoseg import console
from autoseg.records.base import Record
from autoseg.records.results import Selection


class TrainingCount(Record):
    """How many trainings (folds) of a configuration there are."""

    left: int
    """Still to be made."""
    done: int = 0


class RunResult(Record):
    """Where `run` left its results."""

    dataset: str
    selection: Selection | None
    """None: there are too few cases to hold some out, so nothing could be compared."""
    report: Path
    predictions: tuple[Path, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "chosen": list(self.selection.configurations) if self.selection else [],
            "mean_dice": self.selection.candidates[0].dice.mean if self.selection else None,
            "report": str(self.report),
            "predictions": [str(path) for path in self.predictions],
            "seconds": round(self.seconds, 1),
        }

    def as_text(self) -> str:
        """For people."""
        if self.selection is None:
            outcome = "Trained on all cases; there are too few to hold some out, so nothing was compared"
        else:
            best = self.selection.candidates[0].dice
            mean = "not defined" if best.mean is None else f"{best.mean:.4f}"
            outcome = f"Chosen: {' + '.join(self.selection.configurations)}, mean Dice {mean} on held-out cases"
        return (
            f"{outcome}; {len(self.predictions)} test cases segmented; {console.duration(self.seconds)}.\n"
            f"Open {self.report} in a browser. Next: autoseg predict -i IMAGES -o OUT {self.dataset}"
        )
