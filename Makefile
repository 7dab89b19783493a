# barkeep's targets; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
LINT_VERSION := 2.15.0
LINT := .tools/golangci-lint-$(LINT_VERSION)
FUZZTIME ?= 30s
SOAKTIME ?= 600
CHAOSTIME ?= 180
BENCH ?=
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
PACKAGES ?= ./...

.PHONY: help run build test differential test-kafka test-clients race lint fmt fuzz soak soak-sessions chaos mutation bench up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## run barkeep with a database and a broker of its own
	@exec bin/barkeep serve

build: ## build bin/barkeep
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/barkeep ./cmd/barkeep

# Tests of the planner that have one goroutine and take minutes under the race detector. They run without it.
PLAIN := ^(TestCorpus|TestCorpusAnswered|TestRule2_GoldenPlansAreTight|TestRule5_AStormOfMisses|TestRule5_HostileTexts|TestRule10_KeptPlansAreThoseOfAFreshTemplate|TestSharedTemplatesPlanAsTheirOwn|TestSpeed_LongConditionsStayLinear)$$

test: ## run all tests on a real TimescaleDB and a real broker, with the race detector; a skip is a failure, and one that fails by chance is named
	{ $(GO) run ./cmd/testenv bash -c '\
	    code=0; $(if $(filter ./... ./planner,$(PACKAGES)),$(GO) test -json -run "$(PLAIN)" ./planner || code=$$?;) \
	    $(GO) test -json -race -skip "$(PLAIN)" -timeout 30m $(PACKAGES) && exit $$code' || echo "the tests ended with $$?"; } | \
	  $(GO) run ./cmd/testreport -again '$(GO) run ./cmd/testenv $(GO) test -race -p 1 -count 3 -timeout 10m'

differential: ## compare two thousand statements through an empty barkeep with a full database, without the race detector
	$(GO) run ./cmd/testenv $(GO) test -count=1 -timeout 20m -v -run 'TestDifferential$$' ./cmd/barkeep

# Those that go through the broker: all of the pipeline's parts, and of the processes' those whose subject it is.
KAFKATESTS := TestBrokerRights|TestBrokerSecurity|TestRule20_Broker|TestRule20_Topics|TestLive|TestRule15|TestBackfillIsBulk|TestTwoProxies|TestRule9|TestProxyKilled

test-kafka: ## run the tests that go through the broker on Apache Kafka, which Maven fetches once
	{ $(GO) run ./cmd/testenv -kafka bash -c '\
	    $(GO) test -json -count=1 -parallel 4 -timeout 10m ./backfill/{topic,live,coordinator,consumer,producer}; code=$$?; \
	    $(GO) test -json -count=1 -parallel 4 -timeout 10m -run "$(KAFKATESTS)" ./cmd/barkeep && exit $$code' || echo "the tests ended with $$?"; } | \
	  $(GO) run ./cmd/testreport -again '$(GO) run ./cmd/testenv -kafka $(GO) test -p 1 -count 3 -timeout 10m'

test-clients: build ## run thirteen clients and the suites of their drivers through barkeep and straight
	$(GO) run ./cmd/testenv -databases 3 test/clients/run

race: ## run the tests that need nothing, with the race detector
	$(GO) test -race $(PACKAGES)

lint: $(LINT) ## check the code with the pinned linter
	$(LINT) run --timeout 20m ./...
	$(GO) mod tidy -diff

fmt: $(LINT) ## format the code
	$(LINT) fmt ./...

fuzz: ## fuzz each fuzz target for FUZZTIME (30s)
	@$(GO) list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r pkg dir; do \
	  grep -rhoE --include='*_test.go' --exclude-dir='*' '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go 2>/dev/null | cut -d' ' -f2 | while read -r target; do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$pkg"; \
	  done; done

soak-sessions: ## have 200 sessions of ten drivers ask and go away for SOAKTIME seconds (600) on a network and an upstream that fail
	SOAK_SECONDS=$(SOAKTIME) SOAK_SESSIONS=200 SOAK_DRIVERS=$(CURDIR)/test/clients/soak \
	  $(GO) run ./cmd/testenv -brokers $(GO) test -count=1 -timeout 3h -v -run 'TestSoak$$' ./cmd/barkeep

soak: soak-sessions ## soak-sessions for SOAKTIME seconds (600), then as long of the differential tests with new seeds
	@end=$$(( $$(date +%s) + $(SOAKTIME) )); runs=0; while [ $$(date +%s) -lt $$end ]; do \
	  $(GO) run ./cmd/testenv go test -count=1 -timeout 2h -run TestDifferential ./planner ./cmd/barkeep || exit 1; \
	  runs=$$((runs + 1)); done; echo "$$runs runs without a difference"

chaos: ## kill, stop, cut off and restart a barkeep of many processes for CHAOSTIME seconds (180) while clients ask
	CHAOS_SECONDS=$(CHAOSTIME) $(GO) run ./cmd/testenv $(GO) test -count=1 -timeout 3h -v -run 'TestChaos$$' ./cmd/barkeep

mutation: ## weaken the planner's rules one by one and see that its differential test notices each
	$(GO) run ./cmd/testenv $(GO) run ./cmd/mutation

bench: build ## measure against the database, PgBouncer and COPY; writes bench.json
	$(GO) run ./cmd/testenv -durable $(GO) run ./cmd/bench

up: ## start TimescaleDB, Redpanda and barkeep by docker compose
	VERSION='$(VERSION)' docker compose up --build --detach

down: ## stop them; their volumes stay
	docker compose down

clean: ## remove what was built; the linter and the data stay
	rm -rf bin bench.json

$(LINT):
	@mkdir -p .tools
	GOBIN=$(CURDIR)/.tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT_VERSION)
	mv .tools/golangci-lint $(LINT)
