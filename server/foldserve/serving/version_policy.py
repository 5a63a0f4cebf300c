"""Which versions of a model to load and unload: pure functions over what is there and what serves.

After TensorFlow Serving's AspiredVersionPolicy: *aspired* versions are those that should serve. A version
that should no longer serve goes only when what replaces it serves, so that a model never loses its last
answer to a version that fails to load.
"""

from collections.abc import Collection, Hashable, Mapping
from typing import Literal

from foldserve.errors import ConfigurationError
from foldserve.settings import LatestVersions

MOST_NAMES = 5
"""An error text names this many folders at most."""

Policy = LatestVersions | Literal["all"] | tuple[int, ...]


def aspired_versions(
    policy: Policy, present: Collection[int], others: Collection[str] = (), origin: str = ""
) -> frozenset[int]:
    """The versions that should serve, of those ``present`` in the repository.

    ``others`` are the folders that are no versions, ``origin`` is where the policy stands. Raises
    :class:`ConfigurationError` where no version is to serve at all.
    """
    if not present:
        there = ", ".join(f"'{name}'" for name in sorted(others)[:MOST_NAMES])
        raise ConfigurationError(
            "no version folder; put the model file into a folder whose name is a positive integer without "
            f"leading zeros, such as '1'{f' (there is {there})' if there else ''}"
        )
    if policy == "all":
        return frozenset(present)
    if isinstance(policy, LatestVersions):
        return frozenset(sorted(present)[-policy.latest :])
    if not set(policy) & set(present):
        raise ConfigurationError(
            f"{origin or 'the configuration'} asks for version {_numbers(policy)}, but the repository has "
            f"version {_numbers(present)}: add one, or mend 'versions' (in config.pbtxt 'version_policy')"
        )
    return frozenset(policy) & frozenset(present)


def missing_versions(policy: Policy, present: Collection[int]) -> list[int]:
    """Versions that the policy names and the repository does not have."""
    return sorted(set(policy) - set(present)) if isinstance(policy, tuple) else []


def versions_to_load(
    aspired: Collection[int], present: Mapping[int, Hashable], tried: Mapping[int, Hashable]
) -> list[int]:
    """Aspired versions whose files are not those that were ``tried`` last, the newest first.

    ``present`` and ``tried`` map versions to whatever tells their files apart. A version that failed is tried
    again when its files change.
    """
    return sorted((one for one in aspired if present[one] != tried.get(one)), reverse=True)


def versions_to_unload(
    aspired: Collection[int], present: Collection[int], serving: Collection[int]
) -> frozenset[int]:
    """Versions that serve and should go now.

    All that are not aspired, once every aspired one serves; before that, those that are no longer in the
    repository, as long as an aspired one serves.
    """
    superfluous = frozenset(serving) - frozenset(aspired)
    if frozenset(aspired) <= frozenset(serving):
        return superfluous
    return superfluous - frozenset(present) if frozenset(aspired) & frozenset(serving) else frozenset()


def _numbers(versions: Collection[int]) -> str:
    return ", ".join(map(str, sorted(versions)))
