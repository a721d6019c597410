import pytest

from autoseg.training.task import planned_gpu_bytes


@pytest.mark.parametrize(
    ("planned_for", "gib"), [("cuda 8 GiB", 8), ("cuda 12.5 GiB", 12.5), ("cpu", 0), ("unknown", 0), ("cuda", 0)]
)
def test_memory_of_the_planned_gpu(planned_for: str, gib: float) -> None:
    assert planned_gpu_bytes(planned_for) == gib * 2**30
