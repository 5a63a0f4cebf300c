"""The manifests of docker/kubernetes: valid for the cluster, whole in themselves, and true of the server."""

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from foldserve.configuration import leaves
from foldserve.settings import ServerSettings
from running import ROOT

MANIFESTS = ROOT / "docker" / "kubernetes"
KSERVE = sorted((MANIFESTS / "kserve").glob("*.yaml"))
ADAPTER = MANIFESTS / "prometheus-adapter.yaml"
OVERLAYS = ("cpu", "gpu")
KUBERNETES_VERSIONS = ("1.31", "1.37")
PYTHON = ROOT / ".venv-kubernetes" / "bin" / "python"
KSERVE_TYPES = Path(__file__).parent / "kserve_types.py"
CRD = {"ServiceMonitor"}
"""Kinds that the cluster itself does not know, nor the schemas that come with it."""

Manifest = dict[str, Any]

needs_kustomize = pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="NOT CHECKED: docker/kubernetes as kustomize builds it, for kubectl is not installed",
)
needs_schemas = pytest.mark.skipif(
    not PYTHON.exists(),
    reason="NOT CHECKED: docker/kubernetes by schema; `make test` makes .venv-kubernetes",
)


@functools.cache
def _built(overlay: str) -> str:
    folder = MANIFESTS / "overlays" / overlay
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return built.stdout


def _objects(overlay: str) -> dict[str, Manifest]:
    return {one["kind"]: one for one in yaml.safe_load_all(_built(overlay))}


def _pod(overlay: str) -> Manifest:
    pod: Manifest = _objects(overlay)["Deployment"]["spec"]["template"]["spec"]
    return pod


def _container(overlay: str) -> Manifest:
    (container,) = _pod(overlay)["containers"]
    assert isinstance(container, dict)
    return container


def _schema_problems(text: str, version: str) -> list[str]:
    known = [one for one in yaml.safe_load_all(text) if one["kind"] not in CRD]
    validate = str(PYTHON.with_name("kubernetes-validate"))
    command = [validate, "--strict", "--quiet", "-k", version, "/dev/stdin"]
    checked = subprocess.run(
        command, input=yaml.safe_dump_all(known), capture_output=True, text=True, check=False
    )
    return [line for line in (checked.stdout + checked.stderr).splitlines() if line]


def _kserve_problems(text: str) -> list[str]:
    checked = subprocess.run(
        [PYTHON, KSERVE_TYPES], input=text, capture_output=True, text=True, check=True, timeout=60
    )
    problems: list[str] = json.loads(checked.stdout)
    return problems


@needs_kustomize
@needs_schemas
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_takes_them(overlay: str, version: str) -> None:
    assert _schema_problems(_built(overlay), version) == []


@needs_kustomize
@needs_schemas
def test_the_schemas_find_a_misspelt_field() -> None:
    wrong = _built("cpu").replace("readOnlyRootFilesystem", "readonlyRootFilesystem")
    assert "readonlyRootFilesystem" in "".join(_schema_problems(wrong, KUBERNETES_VERSIONS[0]))


@needs_schemas
@pytest.mark.parametrize("file", KSERVE, ids=lambda file: file.name)
def test_kserve_takes_its_own(file: Path) -> None:
    assert _kserve_problems(file.read_text()) == []


@needs_schemas
@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("multiModel", "multimodel", "V1alpha1ServingRuntimeSpec has no field multimodel"),
        ("containerPort: 8001", "containerPort: grpc", "containerPort: int wanted, 'grpc' found"),
        ("readOnlyRootFilesystem", "readOnlyRoot", "V1SecurityContext has no field readOnlyRoot"),
    ],
)
def test_the_types_find_mistakes(right: str, wrong: str, problem: str) -> None:
    text = (MANIFESTS / "kserve" / "clusterservingruntime.yaml").read_text().replace(right, wrong)
    assert problem in "".join(_kserve_problems(text))


def _containers_with_settings() -> Iterator[tuple[str, Manifest]]:
    runtime = yaml.safe_load((MANIFESTS / "kserve" / "clusterservingruntime.yaml").read_text())
    yield "kserve", runtime["spec"]["containers"][0]
    if shutil.which("kubectl"):
        for overlay in OVERLAYS:
            yield overlay, _container(overlay)


@pytest.mark.parametrize(
    "container", [pytest.param(one, id=name) for name, one in _containers_with_settings()]
)
def test_the_settings_are_the_servers(container: Manifest) -> None:
    known = {leaf.variable: leaf.path for leaf in leaves(ServerSettings)}
    given: dict[str, Any] = {"repository": "/models"}
    for variable in container["env"]:
        (name,) = known[variable["name"]]
        given[name] = variable["value"]
    ServerSettings.model_validate(given)


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
class TestOverlay:
    def test_everything_is_about_the_same_pods(self, overlay: str) -> None:
        objects = _objects(overlay)
        labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
        service = objects["Service"]
        assert labels.items() >= service["spec"]["selector"].items()
        assert labels.items() >= objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items()
        assert labels.items() >= objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items()
        selected = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
        assert service["metadata"]["labels"].items() >= selected.items()
        target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])
        assert "replicas" not in objects["Deployment"]["spec"], "the autoscaler's, which an apply would undo"

    def test_ports_that_are_named_are_there(self, overlay: str) -> None:
        objects, container = _objects(overlay), _container(overlay)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        defaults = ServerSettings(repository=(Path("/models"),))
        assert ports == {"grpc": defaults.grpc_port, "http": defaults.http_port}
        service = {port["name"]: port["targetPort"] for port in objects["Service"]["spec"]["ports"]}
        assert set(service.values()) <= set(ports)
        assert {one["port"] for one in objects["ServiceMonitor"]["spec"]["endpoints"]} <= set(service)
        probes = [
            container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")
        ]
        opened = [
            port["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]
        ]
        assert {*probes, *opened} <= set(ports)

    def test_addresses_are_the_pods_own(self, overlay: str) -> None:
        assert _objects(overlay)["Service"]["spec"]["clusterIP"] == "None"

    def test_the_grace_period_outlasts_the_drain(self, overlay: str) -> None:
        given = {variable["name"]: variable["value"] for variable in _container(overlay)["env"]}
        delay_s = float(given["FOLDSERVE_NOT_READY_DELAY_S"])
        drain_s = float(given["FOLDSERVE_DRAIN_TIMEOUT_S"])
        readiness = _container(overlay)["readinessProbe"]
        assert _pod(overlay)["terminationGracePeriodSeconds"] > delay_s + drain_s
        assert delay_s > readiness["periodSeconds"] * readiness["failureThreshold"]

    def test_the_cache_stays_within_its_volume(self, overlay: str) -> None:
        given = {variable["name"]: variable["value"] for variable in _container(overlay)["env"]}
        volumes = {volume["name"]: volume for volume in _pod(overlay)["volumes"]}
        limit = int(volumes["cache"]["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 1024**3
        assert int(given["FOLDSERVE_CACHE_MAX_BYTES"]) < limit

    def test_what_is_mounted_is_there(self, overlay: str) -> None:
        mounted = {mount["name"] for mount in _container(overlay)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in _pod(overlay)["volumes"]}

    def test_the_restricted_profile_takes_the_pod(self, overlay: str) -> None:
        """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
        pod, container = _pod(overlay), _container(overlay)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {kind for one in pod["volumes"] for kind in one if kind != "name"} <= {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True

    def test_the_image_is_the_overlays(self, overlay: str) -> None:
        assert _container(overlay)["image"] == f"foldserve:{overlay}"


@needs_kustomize
def test_the_autoscaler_asks_for_what_the_adapter_makes() -> None:
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    (metric,) = _objects("cpu")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="NOT CHECKED: the adapter's query; apt-get install prometheus"
)
def test_the_adapters_query_is_the_mean_wait_of_each_pod(tmp_path: Path) -> None:
    """As Prometheus evaluates it: 100 requests that waited 2 s in all, and a pod that nobody asked."""
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    selector = re.sub(r"^\w+\{(.*)\}$", r"\1", rule["seriesQuery"])
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", selector).replace("<<.GroupBy>>", "pod")
    labels = 'namespace="n",model="m",version="1"'
    queue = "foldserve_inference_queue_duration_seconds"
    (tmp_path / "rules.yml").write_text("groups: []\n")
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f'{queue}_sum{{pod="busy",{labels}}}', "values": "0+2x20"},
                    {"series": f'{queue}_count{{pod="busy",{labels}}}', "values": "0+100x20"},
                    {"series": f'{queue}_sum{{pod="idle",{labels}}}', "values": "5x20"},
                    {"series": f'{queue}_count{{pod="idle",{labels}}}', "values": "7x20"},
                ],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "4m",
                        "exp_samples": [
                            {"labels": '{pod="busy"}', "value": 0.02},
                            {"labels": '{pod="idle"}', "value": 0},
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    checked = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
