"""Which provider is taken, for every request on every machine; and the probe of this one."""

import itertools

import pytest
from foldserve.errors import ProviderUnavailable
from foldserve.runtime.providers import (
    CudaProbe,
    attempt_in_child,
    choose_provider,
    probe_cuda,
    resolve_provider,
)
from foldserve.runtime.session import Provider
from foldserve.settings import ProviderChoice

WORKING = CudaProbe(offered=True)
BROKEN = {
    "built without CUDA: install foldserve[gpu]": CudaProbe(offered=False),
    "driver is missing (libcuda.so.1: not found)": CudaProbe(
        offered=True, driver_error="libcuda.so.1: not found"
    ),
    "no session runs on it (libcudnn.so.9: not found)": CudaProbe(
        offered=True, session_error="libcudnn.so.9: not found"
    ),
}


@pytest.mark.parametrize(
    ("requested", "probe"), list(itertools.product(ProviderChoice, [WORKING, *BROKEN.values()])), ids=str
)
def test_cuda_is_taken_where_it_works_and_is_wanted(requested: ProviderChoice, probe: CudaProbe) -> None:
    if requested is ProviderChoice.CUDA and probe is not WORKING:
        with pytest.raises(ProviderUnavailable):
            choose_provider(requested, probe)
        return
    wanted = requested is not ProviderChoice.CPU and probe is WORKING
    assert choose_provider(requested, probe) is (Provider.CUDA if wanted else Provider.CPU)


@pytest.mark.parametrize(("reason", "probe"), list(BROKEN.items()), ids=str)
def test_a_refusal_names_the_reason_and_a_way_out(reason: str, probe: CudaProbe) -> None:
    with pytest.raises(ProviderUnavailable) as failure:
        choose_provider(ProviderChoice.CUDA, probe)
    assert reason in str(failure.value)
    assert "choose provider 'auto' or 'cpu'" in str(failure.value)


def test_this_machine_is_probed_once_and_never_for_the_cpu() -> None:
    probe_cuda.cache_clear()
    assert resolve_provider(ProviderChoice.CPU) is Provider.CPU
    assert probe_cuda.cache_info().misses == 0
    resolve_provider(ProviderChoice.AUTO)
    resolve_provider(ProviderChoice.AUTO)
    assert probe_cuda.cache_info().misses == 1


def test_a_probe_that_finds_no_cuda_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    """Where CUDA works there is nothing to say; nowhere may the runtime's complaints reach the terminal."""
    reason = attempt_in_child()
    works = resolve_provider(ProviderChoice.AUTO) is Provider.CUDA
    assert (reason == "") == works
    assert "\n" not in reason
    assert "onnxruntime" not in reason
    assert capfd.readouterr() == ("", "")


def test_an_attempt_that_hangs_is_given_up() -> None:
    assert attempt_in_child(timeout_s=0.01) == "a first session did not answer within 0.01 s"
