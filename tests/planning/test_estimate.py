from autoseg.planning.build import make_plan
from autoseg.planning.estimate import activation_bytes, disk_bytes, estimate_cost, training_steps
from autoseg.planning.memory import count_activations
from tests.planning.examples import dataset, fingerprint


def test_costs_by_hand() -> None:
    plan = make_plan(fingerprint((1, 1, 1), (100, 100, 100), 3), dataset(), "small")
    configuration = plan.configurations["3d_fullres"]
    one = count_activations(configuration.network, configuration.patch_size, 3)
    assert activation_bytes(configuration, 3) == one * 2 * 4
    assert activation_bytes(configuration, 3, bytes_a_value=2) == one * 2 * 2
    z, y, x = configuration.median_shape
    assert disk_bytes(configuration, 2, 10) == round(z * y * x * 10 * (2 * 3.2 + 2))
    assert training_steps(configuration) == 2000
    cost = estimate_cost(plan, configuration, 10)
    assert cost == (one * 8, disk_bytes(configuration, 1, 10), 2000)
