from math import inf

import pytest
from foldserve.serving.queue_policy import place
from foldserve.settings import Batching, QueuePolicy, TimeoutAction

NOW = 100.0
URGENT = QueuePolicy(default_timeout_us=1000, allow_timeout_override=False, max_queue_size=7)
PATIENT = QueuePolicy(timeout_action=TimeoutAction.DELAY, default_timeout_us=5000)
LEVELS = Batching(
    priority_levels=3,
    default_priority_level=2,
    queue_policy=PATIENT,
    priority_queue_policies={1: URGENT},
)


@pytest.mark.parametrize(
    ("batching", "priority", "timeout_us", "expected"),
    [
        (Batching(), 0, 0, (0, inf, inf)),
        (Batching(), 9, 0, (0, inf, inf)),  # priorities mean nothing to this model
        (Batching(), 0, 2000, (0, NOW + 0.002, inf)),
        (LEVELS, 0, 0, (2, inf, NOW + 0.005)),
        (LEVELS, 3, 2000, (3, inf, NOW + 0.002)),
        (LEVELS, 3, 9000, (3, inf, NOW + 0.005)),  # cannot be lengthened
        (LEVELS, 1, 500, (1, NOW + 0.001, inf)),  # nor shortened where that is not allowed
    ],
)
def test_priority_and_timeout_give_a_place(
    batching: Batching, priority: int, timeout_us: int, expected: tuple[int, float, float]
) -> None:
    stands = place(batching, priority, timeout_us, NOW)
    assert (stands.priority, stands.deadline, stands.overdue) == pytest.approx(expected)


def test_each_priority_has_its_own_policy_or_the_common_one() -> None:
    assert place(LEVELS, 1, 0, NOW).policy is LEVELS.priority_queue_policies[1]
    assert place(LEVELS, 2, 0, NOW).policy is LEVELS.queue_policy


def test_a_priority_beyond_the_levels_is_the_default_one() -> None:
    assert place(LEVELS, 4, 0, NOW).priority == 2


def test_a_delay_beyond_a_minute_is_no_setting() -> None:
    with pytest.raises(ValueError, match="max_queue_delay_us"):
        Batching(max_queue_delay_us=2**64 - 1)


@pytest.mark.parametrize(
    "values",
    [
        {"priority_levels": 2},
        {"priority_levels": 2, "default_priority_level": 3},
        {"priority_queue_policies": {1: QueuePolicy()}},
        {"priority_levels": 2, "default_priority_level": 1, "priority_queue_policies": {3: QueuePolicy()}},
    ],
)
def test_priorities_that_do_not_exist_are_no_settings(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="priority_levels"):
        Batching.model_validate(values)
