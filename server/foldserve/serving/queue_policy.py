"""What the settings make of a request's ``priority`` and ``timeout``: its place in line."""

import math
from typing import NamedTuple

from foldserve.settings import Batching, QueuePolicy, TimeoutAction


class Place(NamedTuple):
    """Where a request stands in line, and how long; ``deadline`` and ``overdue`` are those of a Waiting."""

    priority: int
    policy: QueuePolicy
    deadline: float
    overdue: float


def place(batching: Batching, priority: int, timeout_us: int, now: float) -> Place:
    """The place of a request that arrives ``now``, in seconds of ``time.monotonic``.

    ``priority`` 0 is the default one, as is one beyond the model's (Triton does the same), and none means
    anything to a model without priorities. ``timeout_us`` is in microseconds, 0 for none; it can shorten the
    policy's own, not lengthen it.
    """
    if not 1 <= priority <= batching.priority_levels:
        priority = batching.default_priority_level if batching.priority_levels else 0
    policy = batching.priority_queue_policies.get(priority, batching.queue_policy)
    limit_us = policy.default_timeout_us
    if timeout_us and policy.allow_timeout_override:
        limit_us = min(timeout_us, limit_us or timeout_us)
    end = now + limit_us / 1e6 if limit_us else math.inf
    if policy.timeout_action is TimeoutAction.DELAY:
        return Place(priority, policy, math.inf, end)
    return Place(priority, policy, end, math.inf)
