# The workshop's commands. `make workshop`, `make lab` and `make test` each work alone on a fresh clone:
# they make the environment first, and do no set-up work when it is already there.
#
#   PYTHON  the Python that makes the environment (3.11 or 3.12; anything else fetches 3.12 through uv)
#   HOST    the address `make lab` listens on; 0.0.0.0 opens it to the network, with its token kept
#   PORT    the port `make lab` asks for; the next free one is used when it is taken
#   BUNDLE  a folder packed by `python -m helpers bundle`: packages come from it, without a network
#   PACE    the pace line of `make present`: 45, 120, half-day, on or off
#   ONLY    notebook numbers for `make workshop`, such as ONLY="00 03"
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8888
BUNDLE ?=
PACE ?=
ONLY ?=

SHELL := /bin/bash
VENV_PYTHON := .venv/bin/python
FIRST_PAGE := notebooks/00_start_here.ipynb

# Running the workshop writes nothing beside its sources, bytecode included.
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev workshop lab present slides test lint verify-gpu clean

help:  ## list these commands
	@echo "From model weights to an API endpoint with TensorRT-LLM. Commands:"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

setup:  ## make the environment (.venv) and register the notebooks' kernel
	@$(PYTHON) tools/set_up.py$(if $(BUNDLE), --bundle "$(BUNDLE)")

setup-dev:
	@$(PYTHON) tools/set_up.py --dev

workshop: setup  ## run every notebook in order; pages and executed copies go to build/
	@$(VENV_PYTHON) -m tools.run_notebooks $(if $(ONLY),--only $(ONLY))

lab: setup  ## open JupyterLab at the first notebook (HOST=0.0.0.0 for a pod; the token stays on)
	@$(VENV_PYTHON) -m jupyter lab --ServerApp.ip=$(HOST) --ServerApp.port=$(PORT) \
		--ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/$(FIRST_PAGE) \
		$(if $(filter 127.0.0.1 localhost,$(HOST)),,--no-browser) $(if $(filter 0,$(shell id -u)),--allow-root)

present: setup  ## open JupyterLab for a projector, on copies (HOST and PORT as lab; PACE=45, 120, half-day or off)
	@$(VENV_PYTHON) -m tools.present --host $(HOST) --port $(PORT) --pace "$(PACE)"

slides: setup  ## make slides of the parts that are talk in build/slides (run the workshop first, for the pictures)
	@$(VENV_PYTHON) -m tools.slides

test: lint  ## run the checks and the tests
	@$(VENV_PYTHON) -m pytest -q --durations=15

lint: setup-dev  ## run the fast checks: ruff, mypy, notebook format
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m mypy
	@$(VENV_PYTHON) tools/format_notebooks.py --check

verify-gpu: setup  ## on a GPU pod: run the notebooks and write build/verify-gpu.md for the README
	@$(VENV_PYTHON) -m tools.verify_gpu $(if $(ONLY),--only $(ONLY))

clean:  ## remove build/ (leaves .venv, the kernel and the workshop's artifacts)
	@rm -rf build
	@echo "Removed build/. Left in place: .venv (remove it with: rm -rf .venv), the registered kernel, and the"
	@echo "artifacts in WORKSHOP_HOME, which are slow to make again."
