# DataFetch: the one place where every command of the project stands. `make help` is the table of contents.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
DOWNLOADER := .venv-downloader/bin
OPERATOR := .venv-operator/bin

.PHONY: help
help: ## This table
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Development
.PHONY: venvs
venvs: .venv-downloader/.ready .venv-operator/.ready ## Both environments, from the hashed lock files

.venv-downloader/.ready: requirements/readers.txt
.venv-%/.ready: requirements/%.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install -q --require-hashes -r requirements/$*.txt
	.venv-$*/bin/python -m pip install -q --require-hashes -r requirements/dev.txt
	$(if $(filter downloader,$*),.venv-$*/bin/python -m pip install -q --require-hashes -r requirements/readers.txt)
	.venv-$*/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

.PHONY: lock
lock: ## Lock the dependencies again, by hash and without registry addresses (needs uv)
	for extra in operator downloader; do \
	  uv pip compile -q pyproject.toml --extra $$extra --python-version 3.11 --universal \
	    --generate-hashes --no-emit-index-url --no-header -o requirements/$$extra.txt; done
	uv pip compile -q --group dev --python-version 3.11 --universal -c requirements/operator.txt \
	  -c requirements/downloader.txt --generate-hashes --no-emit-index-url --no-header -o requirements/dev.txt
	uv pip compile -q --group readers --python-version 3.11 --universal -c requirements/downloader.txt \
	  -c requirements/dev.txt --generate-hashes --no-emit-index-url --no-header -o requirements/readers.txt
	echo hatchling | uv pip compile -q - --python-version 3.11 --universal -c requirements/dev.txt \
	  --generate-hashes --no-emit-index-url --no-header -o requirements/build.txt
	uv pip compile -q bench/peers/requirements.in --python-version 3.11 --universal \
	  --generate-hashes --no-emit-index-url --no-header -o requirements/bench.txt

.PHONY: generate
generate: .venv-operator/.ready ## CRDs, the chart's copy and the reference pages, from the models
	$(OPERATOR)/python hack/generate

.PHONY: format
format: .venv-downloader/.ready ## Format the code
	$(DOWNLOADER)/ruff format .
	$(DOWNLOADER)/ruff check --fix .

##@ Tests
.PHONY: test
test: lint unit component crd e2e ## Everything below, in this order: what is fast and breaks first comes first

.PHONY: lint
lint: venvs ## ruff, mypy in both environments, import rules, generated files
	$(DOWNLOADER)/ruff check .
	$(DOWNLOADER)/ruff format --check .
	$(DOWNLOADER)/mypy $(MYPY_DOWNLOADER)
	$(OPERATOR)/mypy $(MYPY_OPERATOR)
	$(DOWNLOADER)/lint-imports --no-cache
	$(OPERATOR)/python hack/generate --check

MYPY_DOWNLOADER := crds/datafetch_api downloader/datafetch tests/servers tests/unit/downloader tests/unit/bench tests/component tests/chaos bench
MYPY_OPERATOR := operator/datafetch_operator hack/generate hack/cluster hack/images hack/storage hack/deploy hack/demo hack/emulators \
  tests/unit/api tests/unit/operator tests/unit/chart tests/crd tests/e2e

.PHONY: unit
unit: venvs ## Pure and fast
	$(DOWNLOADER)/python -m pytest -n 2 tests/unit/downloader tests/unit/bench
	$(OPERATOR)/python -m pytest -n 2 tests/unit/api tests/unit/operator tests/unit/chart

.PHONY: component
component: .venv-downloader/.ready storage-servers ## The downloader against real S3, GCS and Azure servers and a fake Hub
	$(DOWNLOADER)/python -m pytest tests/servers tests/component
	$(DOWNLOADER)/python -m pytest -n 4 tests/chaos

.PHONY: chaos
chaos: .venv-downloader/.ready storage-servers ## Ends at random moments, rivals, readers; SEED=n replays; writes docs/reliability.md
	$(DOWNLOADER)/python -m pytest -n 4 tests/chaos --chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(TEST),-k $(TEST),--report docs/reliability.md)

.PHONY: chaos-disk
chaos-disk: .venv-downloader/.ready storage-servers ## Every call of a fetch fails once, and the power goes at every one; thousands of keys. Longer than chaos
	DATAFETCH_KEY_EXAMPLES=3000 $(DOWNLOADER)/python -m pytest tests/unit/downloader/test_keys_properties.py
	$(DOWNLOADER)/python -m pytest --chaos tests/chaos/conftest.py tests/component/test_write_faults.py \
	  tests/component/test_power_loss.py tests/component/test_durability.py tests/component/test_real_disks.py \
	  tests/component/test_archives_durability.py

.PHONY: crd
crd: .venv-operator/.ready cluster-up ## The CRD against a real API server
	$(OPERATOR)/python -m pytest tests/crd

.PHONY: e2e
e2e: .venv-operator/.ready cluster-up images-load storage-servers ## The whole path on a real cluster
	$(OPERATOR)/python -m pytest -n 3 tests/e2e

.PHONY: chaos-cluster
chaos-cluster: .venv-operator/.ready cluster-up images-load storage-servers ## Faults of the cluster, each ends with the right bytes; SEED=n replays; writes docs/reliability.md
	$(OPERATOR)/python -m pytest -n 3 tests/e2e/faults --chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(TEST),-k $(TEST),--report docs/reliability.md)

##@ Cluster
.PHONY: cluster-up
cluster-up: ## A Kubernetes: kind where Docker runs, else one of processes; DATAFETCH_CLUSTER=existing takes KUBECONFIG's
	$(PYTHON) hack/cluster up

.PHONY: cluster-down
cluster-down: ## End the cluster and all its processes; caches stay
	$(PYTHON) hack/cluster down

.PHONY: images
images: ## Build both images and report their sizes
	$(PYTHON) hack/images build
	$(PYTHON) hack/images sizes

.PHONY: images-load
images-load: images cluster-up ## Build both images and load them into the cluster
	$(PYTHON) hack/images load

.PHONY: storage-servers
storage-servers: ## Install the storage servers of tests and demo into the cache
	$(PYTHON) hack/storage install

.PHONY: demo
demo: ## The main job, done for real: cluster, storage, chart, a fetch, and a pod that checks what it got
	$(PYTHON) hack/demo

.PHONY: demo-clean
demo-clean: ## Remove the demo, its storage servers and the cluster
	$(PYTHON) hack/demo clean

##@ Without a cluster
.PHONY: emulators
emulators: storage-servers ## S3, GCS and Azure Blob on ports 9000, 9023 and 10000, with sample data, for examples/kaiwo
	$(PYTHON) hack/emulators up

.PHONY: emulators-down
emulators-down: ## End the emulators, and nothing else
	$(PYTHON) hack/emulators down

##@ Measure
.PHONY: bench
bench: .venv-downloader/.ready storage-servers ## datafetch beside its peers: all tables, into docs/performance.md
	$(DOWNLOADER)/python bench/peers --all --runs 7 --save

.PHONY: bench-quick
bench-quick: .venv-downloader/.ready storage-servers ## datafetch beside its peers: one table in about a minute
	$(DOWNLOADER)/python bench/peers --shape medium --runs 3 --clients datafetch,s5cmd,rclone,obstore,limit

.PHONY: bench-startup
bench-startup: .venv-downloader/.ready ## Start-up times of the command
	$(DOWNLOADER)/python bench/startup.py

.PHONY: bench-cluster
bench-cluster: images-load ## From apply to the first byte, and what the operator costs idle
	$(PYTHON) bench/cluster_apply_to_first_byte.py
	$(PYTHON) bench/cluster_operator_idle.py

.PHONY: bench-scale
bench-scale: .venv-operator/.ready cluster-up ## 1,000 DataFetches at once: API requests, pace, restart, memory; nobody else may use the cluster. COUNT=n
	$(OPERATOR)/python bench/cluster_scale.py --count $(or $(COUNT),1000)

.PHONY: bench-admission
bench-admission: images-load ## What the webhook adds to the creation of a pod, by the API server's histogram
	$(PYTHON) bench/cluster_admission.py

.PHONY: bench-injected
bench-injected: images-load ## How much later a pod starts that downloads 1 MiB first
	$(PYTHON) bench/cluster_injected_start.py
