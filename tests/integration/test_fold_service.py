"""Fold report and parity of the bundled models, as the client library shows them."""

from collections.abc import Iterator

import pytest
from foldserve.server import Server
from foldserve_client import Client, NotFound


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


@pytest.mark.parametrize("model", ["digits", "digits_pt2"])
def test_every_batchnorm_is_folded_into_the_layer_before_it(client: Client, model: str) -> None:
    response = client.fold_report(model)
    sites = response.report.sites
    assert [(site.operator, site.outcome) for site in sites] == [("BatchNormalization", "folded")] * 4
    assert all(site.absorbed_by for site in sites)
    assert response.report.operators_before["BatchNormalization"] == 4
    assert "BatchNormalization" not in response.report.operators_after
    assert (response.variant, response.requested_provider, response.provider) == ("folded", "auto", "cpu")


def test_the_redundant_bias_of_the_first_convolution_is_stripped(client: Client) -> None:
    stripped = client.fold_report("digits").report.stripped_biases
    assert any(bias.fate == "absorbed" and bias.parameters == 16 and bias.bytes == 64 for bias in stripped)


@pytest.mark.parametrize("model", ["digits", "digits_pt2"])
def test_parity_is_measured_on_the_models_own_samples(client: Client, model: str) -> None:
    report = client.parity(model).report
    (output,) = report.outputs
    assert (report.verdict, report.probes.source, output.output) == ("within_budget", "samples", "logits")
    assert 0 < output.relative_l2 <= report.budget.relative_l2 == 1e-5
    assert output.top1_agreement == 1
    assert dict(report.probes.shapes[1].inputs)["images"].dims == [8, 1, 8, 8]


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="no model is named 'nobody'"):
        client.fold_report("nobody")
