import pytest
from foldserve.errors import ConfigurationError
from foldserve.serving.version_policy import (
    Policy,
    aspired_versions,
    missing_versions,
    versions_to_load,
    versions_to_unload,
)
from foldserve.settings import LatestVersions
from hypothesis import given
from hypothesis import strategies as st

VERSIONS = st.frozensets(st.integers(1, 6))


@pytest.mark.parametrize(
    ("policy", "aspired"),
    [
        (LatestVersions(), {10}),
        (LatestVersions(latest=2), {9, 10}),
        (LatestVersions(latest=7), {1, 9, 10}),
        ("all", {1, 9, 10}),
        ((1, 10), {1, 10}),
        ((1, 4), {1}),
    ],
)
def test_policies(policy: Policy, aspired: set[int]) -> None:
    assert aspired_versions(policy, [9, 1, 10]) == aspired


def test_versions_that_are_not_there_are_named() -> None:
    assert missing_versions((3, 1, 7), [1, 2]) == [3, 7]
    assert missing_versions("all", [1]) == missing_versions(LatestVersions(latest=2), [1]) == []


def test_a_model_without_versions_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no version folder"):
        aspired_versions("all", [])


def test_new_and_changed_versions_are_loaded_the_newest_first() -> None:
    present = {1: "same", 2: "changed", 3: "new", 4: "not asked for"}
    assert versions_to_load({1, 2, 3}, present, {1: "same", 2: "before"}) == [3, 2]


@pytest.mark.parametrize(
    ("aspired", "present", "serving", "unloaded"),
    [
        ({2}, {1, 2}, {1, 2}, {1}),  # replaced
        ({2}, {1, 2}, {1}, set()),  # the new one failed
        ({2, 3}, {1, 2, 3}, {1, 2}, set()),  # one of two failed: the third stays
        ({2, 3}, {2, 3}, {1, 2}, {1}),  # removed, and another one serves
        ({2}, {2}, {1}, set()),  # removed, but nothing else serves
    ],
)
def test_what_goes_when(aspired: set[int], present: set[int], serving: set[int], unloaded: set[int]) -> None:
    assert versions_to_unload(aspired, present, serving) == unloaded


@given(VERSIONS.filter(bool), VERSIONS, VERSIONS)
def test_an_aspired_version_never_goes_and_the_last_answer_never_goes(
    aspired: frozenset[int], others: frozenset[int], serving: frozenset[int]
) -> None:
    unloaded = versions_to_unload(aspired, aspired | others, serving)
    assert unloaded <= serving - aspired
    assert not serving or serving - unloaded


def test_folders_that_are_no_versions_are_named_where_there_is_no_version() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^no version folder; .*, such as '1' \(there is '01', 'v1'\)$"
    ):
        aspired_versions("all", [], ["v1", "01"])
    with pytest.raises(ConfigurationError, match=r"^no version folder; .*, such as '1'$"):
        aspired_versions("all", [])


def test_a_policy_that_finds_nothing_is_told_with_its_file_and_both_sides() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"^m/foldserve\.yaml asks for version 8, 9, but the repository has version 1, 2: ",
    ):
        aspired_versions((9, 8), [1, 2], origin="m/foldserve.yaml")
