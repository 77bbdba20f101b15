# Everything that is built, tried and tested here. `make` alone lists what there is.
# Needs GNU make and bash. IMAGINGROUTER_CACHE names a folder to use instead of .cache for what is fetched.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CGO_ENABLED := 1

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
LDFLAGS := -X main.version=$(VERSION)
GO_FOLDERS := sidecar tests packaging lua
SCRIPTS = $(shell git ls-files --cached --others --exclude-standard '*.sh' .ci/run)
PYTHON = $(shell git ls-files --cached --others --exclude-standard '*.py')
LUA = $(shell git ls-files --cached --others --exclude-standard '*.lua')

.PHONY: help
help: ## List the targets
	@printf 'imaging-router %s\n\n' '$(VERSION)'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/imaging-router
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/imaging-router ./sidecar

.PHONY: demo
demo: prerequisites-demo ## Watch it work: three Orthancs and the router (DICOM=/path for files of your own; ONCE=1 ends by itself)
	@orthanc/get-orthanc.sh 1.12 >/dev/null
	@sidecar/get-onnxruntime.sh >/dev/null
	@echo 'building bin/imaging-router and bin/demo (the first time takes some minutes)'
	@mkdir -p bin
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/imaging-router ./sidecar
	@go build -o bin/demo ./tests/demo
	@exec bin/demo $(if $(ONCE),-once) $(if $(MODEL),-model '$(MODEL)') $(if $(DICOM),'$(DICOM)')

.PHONY: orthanc
orthanc: ## Fetch Orthanc 1.12 and 1.13 into .cache (no root, no Docker)
	@orthanc/get-orthanc.sh 1.12 >/dev/null
	@orthanc/get-orthanc.sh 1.13 >/dev/null

.PHONY: onnxruntime
onnxruntime: ## Fetch ONNX Runtime into .cache
	@sidecar/get-onnxruntime.sh >/dev/null

.PHONY: prerequisites prerequisites-demo prerequisites-test prerequisites-lint
prerequisites: prerequisites-demo ## Check that this machine has what a build and the demo need (root: install it)
prerequisites-demo:
	@tests/prerequisites.sh demo
prerequisites-test:
	@tests/prerequisites.sh test
prerequisites-lint:
	@tests/prerequisites.sh lint

.PHONY: test
test: prerequisites-test orthanc onnxruntime build ## Run every test: units, both Orthancs, ONNX Runtime, Python (CI=true: nothing may be skipped)
	@tests/run.sh all

.PHONY: test-unit
test-unit: ## Run the tests that need no Orthanc and no network
	@tests/run.sh unit

.PHONY: fuzz
fuzz: ## Fuzz every target for TIME each, 30s by default (TARGET=name for one); says what was found and where the input lies
	@tests/fuzz.sh '$(or $(TIME),30s)' $(if $(TARGET),'^$(TARGET)$$')

.PHONY: mutations
mutations: prerequisites-test orthanc onnxruntime ## Send N damaged DICOM files, 10000 by default, through both Orthancs and the router
	MUTATIONS='$(or $(N),10000)' go test -timeout 300m -run TestMutations -v ./tests/mutations

.PHONY: faults
faults: prerequisites-demo orthanc onnxruntime ## Drive the product through faults (SEEDS=n: seeds 1 to n; SEED=k; PARALLEL=2; KEEP=1 keeps the folders)
	@mkdir -p bin
	@go test -c -race -o bin/faults ./tests/faults
	@exec bin/faults -test.run '^TestFaults$$' -test.parallel '$(or $(PARALLEL),1)' -seeds '$(or $(SEEDS),3)' -from '$(or $(FROM),1)' -seed '$(or $(SEED),0)' $(if $(KEEP),-keep)

.PHONY: compose-test
compose-test: ## Prove docker-compose.yml on a Docker engine: a clean clone to its end (root installs what is missing; no Docker: skipped)
	@tests/compose/run.sh

.PHONY: lint
lint: prerequisites-lint ## Check format, vet, golangci-lint, shellcheck, Lua's and Python's syntax
	@unformatted=$$(gofmt -l $(GO_FOLDERS)); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool golangci-lint run ./...
	shellcheck $(SCRIPTS)
	luac -p $(LUA)
	@python3 -c 'import sys; [compile(open(f, encoding="utf-8").read(), f, "exec") for f in sys.argv[1:]]' $(PYTHON)

.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities that the product calls (needs https://vuln.go.dev, or GOVULNDB)
	@tests/vulnerabilities.sh

.PHONY: bench
bench: onnxruntime ## Measure the picture steps and the network
	go test -run '^$$' -bench . -benchmem -benchtime 2s ./sidecar/internal/picture ./sidecar/internal/classifier

.PHONY: encodings
encodings: prerequisites-test orthanc ## Compare the pictures with pydicom and Orthanc, and write docs/encodings.md anew (needs ../shared)
	@go run ./tests/encodings

.PHONY: screenshot
screenshot: prerequisites-demo onnxruntime build ## Make the pictures of Orthanc's page in docs/images anew (needs chromium)
	@orthanc/get-orthanc.sh 1.12 >/dev/null
	@go build -o bin/demo ./tests/demo
	@bin/demo -screenshot docs/images

.PHONY: package
package: onnxruntime build ## Build dist/imaging-router_<version>_<architecture>.deb (apt install ./dist/…)
	@VERSION='$(VERSION)' packaging/build-deb.sh bin/imaging-router "$$(sidecar/get-onnxruntime.sh)"

.PHONY: release
release: ## Build dist/: programs and packages for amd64 and arm64, bill of materials, licences, checksums (ARCHES="amd64" for less)
	@VERSION='$(VERSION)' packaging/release.sh

.PHONY: clean
clean: ## Remove what was built; .cache stays
	rm -rf bin dist .tmp
