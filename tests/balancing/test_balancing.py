"""Three servers behind real proxies, and none: who is asked, and what callers see of kills and stops."""

from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING

import grpc
import pytest
from balancing.replicas import NOT_READY_DELAY_S, Replicas, replicas
from balancing.story import CALLERS, KILLED, LONG_S, STOPPED, Outcome, Story, asked, digits, tell
from balancing.ways import CLIENT, HOSTS, PROXIES, WAYS, channel, started
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    from foldserve_proto import grpc_service_pb2 as pb

LARGE_ROWS = 1 << 16
"""Of a request of 16 MB."""

NOTICED_WITHIN_S = 3.0
"""Time in which a health check sees that a server is not ready: two looks, a second apart, and a bit."""

AT_ONCE_S = 0.5
"""Within what is meant by the moment in which something happens, on a busy machine."""

MAY_BE_REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
WITHOUT_HEALTH_CHECKS = {"nginx"}
"""These ask a server that starts, too, and one that stops."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with replicas(tmp_path_factory.mktemp("replicas")) as running:
        yield running


@pytest.fixture(scope="module")
def addresses(three: Replicas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What to dial for each way whose proxy is installed."""
    folder = tmp_path_factory.mktemp("proxies")
    with ExitStack() as running:
        yield {
            way: running.enter_context(started(way, three.servers, folder / way))
            for way in WAYS
            if way == CLIENT or PROXIES[way].command is not None
        }


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name != CLIENT and PROXIES[name].command is None:
        pytest.skip(f"{name} is not installed: {PROXIES[name].package}")
    return name


@pytest.fixture(scope="module")
def story(three: Replicas, addresses: dict[str, str]) -> Story:
    """Told once, over all ways at the same time; afterwards all three run again."""
    story = tell(three, addresses)
    three.start(STOPPED)
    return story


def test_requests_of_each_connection_go_to_several_servers(story: Story, way: str) -> None:
    for kind in ("plain", "retrying"):
        shares = _shares(story, f"{way} {kind}")
        assert min(shares) > sum(shares) / 10
        for caller in range(CALLERS):
            assert sum(share > 0 for share in _shares(story, f"{way} {kind} {caller}")) > 1


def test_a_killed_server_takes_along_what_it_was_doing_and_no_more(story: Story, way: str) -> None:
    until = story.starting if way in WITHOUT_HEALTH_CHECKS else story.back
    failed = [one for one in _failed(story, way) if one.began < until]
    assert {one.code for one in failed} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(failed) <= CALLERS
    assert all(one.began <= story.killed + AT_ONCE_S for one in failed)


def test_callers_that_repeat_see_nothing_of_it(story: Story, way: str) -> None:
    assert {one.code for one in story.retrying[way]} == {grpc.StatusCode.OK}


def test_a_server_that_is_back_is_asked_again(story: Story, way: str) -> None:
    assert asked(story.taken[KILLED], way, since=story.back)


def test_a_stopping_server_loses_nothing_where_its_health_is_looked_at(story: Story, way: str) -> None:
    assert story.exit_status == 0
    assert asked(story.taken[STOPPED], way, story.back, story.stopping)
    failed = [one for one in _failed(story, way) if one.began >= story.back]
    if way in WITHOUT_HEALTH_CHECKS:
        refusing = story.stopping + NOT_READY_DELAY_S - AT_ONCE_S
        assert all(one.began >= refusing and one.code in MAY_BE_REPEATED for one in failed)
    else:
        assert not failed
        assert not asked(story.taken[STOPPED], way, story.stopping + NOTICED_WITHIN_S)


@pytest.mark.usefixtures("story")
def test_large_messages_pass(addresses: dict[str, str], way: str) -> None:
    with channel(way, addresses[way], retries=False) as own:
        answer = GRPCInferenceServiceStub(own).ModelInfer(digits("large", LARGE_ROWS), timeout=LONG_S)
    assert list(answer.outputs[0].shape) == [LARGE_ROWS, 10]


@pytest.mark.usefixtures("story")
def test_streams_answer_each_request_when_it_comes(addresses: dict[str, str], way: str) -> None:
    """Nothing between caller and server waits for the stream's end, or for more."""
    requests: SimpleQueue[pb.ModelInferRequest | None] = SimpleQueue()
    with channel(way, addresses[way], retries=False) as own:
        stream = GRPCInferenceServiceStub(own).ModelStreamInfer(iter(requests.get, None), timeout=LONG_S)
        for number in range(3):
            requests.put(digits(str(number)))
            assert next(stream).infer_response.id == str(number)
        requests.put(None)
        assert list(stream) == []


def _shares(story: Story, callers: str) -> list[int]:
    """How many requests of some callers each server took, while all three ran."""
    return [asked(story.taken[host], callers, until=story.killed) for host in HOSTS]


def _failed(story: Story, way: str) -> list[Outcome]:
    return [one for one in story.plain[way] if one.code is not grpc.StatusCode.OK]
