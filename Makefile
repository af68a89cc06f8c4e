# Short names for commands; what they do is in tests/runner/.

PYTHON ?= python3
DEMO_PORT ?= 8080
SCENARIO ?= default
run = @$(PYTHON) tests/run.py

.PHONY: help demo demo-down test test-all check lint setup converge verify destroy \
	bench bench-backup bench-deploy bench-postgresql bench-provision faults pictures lock clean
.NOTPARALLEL:

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

demo: ## Serve the sample app at http://127.0.0.1:8080 (DEMO_PORT) from a throwaway host
	$(run) demo --port $(DEMO_PORT)

demo-down: ## Remove that host
	$(run) demo-down

test: ## Run check, then the Molecule scenarios default, deploy, override and vm
	$(run) test

test-all: ## Run every scenario, and the benchmark in its quick form; some hours
	$(run) test --all

check: ## Run the quick part: linters, house tests, app tests
	$(run) check

lint: ## Run the linters
	$(run) lint

setup: ## Install what the other targets need; they do it themselves
	$(run) setup

converge: ## Make the hosts of SCENARIO=default and run site.yml on them
	$(run) tool molecule converge --scenario-name $(SCENARIO)

verify: ## Test these hosts
	$(run) tool molecule verify --scenario-name $(SCENARIO)

destroy: ## Remove them
	$(run) tool molecule destroy --scenario-name $(SCENARIO)

bench: ## Measure how fast it answers, and what beginners read of that
	$(run) tool python tests/benchmarks/serve.py

bench-provision: ## Measure provisioning against a plain shell script
	$(run) tool python tests/benchmarks/provision.py

bench-deploy: ## Measure what users notice of a deploy, beside other ways
	$(run) tool python tests/benchmarks/deploy.py

bench-postgresql: ## Measure what the database's settings are good for
	$(run) tool python tests/benchmarks/postgresql.py

bench-backup: ## Measure backups and restores of 10 MB and 1 GB
	$(run) tool python tests/benchmarks/restore.py

faults: ## Break a host on purpose, and write down what came of it
	$(run) tool python tests/benchmarks/reliability.py

pictures: ## Draw the pictures of docs/ from their text
	$(run) pictures

lock: ## Pin what the tools in requirements.txt bring along
	$(run) lock

clean: ## Remove all hosts, images, tools and caches (demo and tests make them again)
	$(run) clean
