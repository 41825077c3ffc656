# `make demo` runs the main job, `make test` the tests; both set up VENV first if it is not there.
# PYTHON picks the interpreter: 3.11 gets the classic stack, 3.12 and 3.13 the current one.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
# The libraries whose weights we load, on the classic stack. PyTorch without CUDA comes from
# TORCH_INDEX=https://download.pytorch.org/whl/cpu where no local wheel has it.
SOURCES_VENV ?= .venv-sources
TORCH_INDEX ?=
# Where exports are also queried: the venv of the other stack, made by `make test` with its PYTHON, and
# NVIDIA's Triton, on the classic stack.
OTHER_VENV ?= .venv-current
TRITON_VENV ?= .venv-triton
# Processes that share the tests, a file to one of them; each takes 2 to 3 GB.
JOBS ?= 2

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Stamps in VENV: the product's packages are installed; those of the tests, too.
READY := $(VENV)/.ready-$(VERSION)
READY_DEV := $(VENV)/.ready-dev-$(VERSION)
DEV_REQUIREMENTS := $(addprefix requirements,.txt -export.txt -demo.txt -search.txt -test.txt -dev.txt)
MAKE_VENV = case "$(VERSION)" in 3.11|3.12|3.13) $(PYTHON) -m venv --clear $(VENV);; *) \
	echo "error: $(PYTHON) is Python $(VERSION); give one of 3.11, 3.12, 3.13:" \
	"make PYTHON=python3.11 ..." >&2; exit 2;; esac
PY := $(VENV)/bin/python
IN_PARALLEL := -n $(JOBS) --dist loadfile
DEMO := --model_dir=$(RUN) --mode

.NOTPARALLEL:
.PHONY: demo environment test test-quick test-sources test-runtimes lint clean

demo: $(READY)
	$(PY) main.py $(DEMO)=traineval --model_name=efficientnetv2-b0 --dataset_cfg=shapes \
		--data_dir=runs/data --hparam_str=hparams/recipes/shapes_demo.yaml
	$(PY) main.py $(DEMO)=export --export_dir=$(RUN)/export
	@printf 'a held-out image: ' && $(PY) -m efficientnetv2.datasets.sources.shapes --out=$(RUN)/held_out.png --index=7
	$(PY) main.py --mode=infer --export_dir=$(RUN)/export --image_path=$(RUN)/held_out.png
	@echo "run         $(RUN)  (config.yaml, labels.txt, metrics.jsonl, ckpt-*)"
	@echo "SavedModel  $(RUN)/export  (for TensorFlow Serving)"
	@echo "curves      $(VENV)/bin/tensorboard --logdir=$(RUN)/tensorboard"

environment: $(READY_DEV)

test: lint
	$(PY) -m pytest $(IN_PARALLEL)

test-quick: $(READY_DEV)
	$(PY) -m pytest $(IN_PARALLEL) -m "not slow"

test-sources: $(SOURCES_VENV)/.ready
	$(SOURCES_VENV)/bin/python -m pytest $(IN_PARALLEL) -m sources tests/sources

test-runtimes: $(READY_DEV) $(TRITON_VENV)/.ready
	OTHER_PYTHON=$(OTHER_VENV)/bin/python TRITON_PYTHON=$(TRITON_VENV)/bin/python \
		$(PY) -m pytest tests/runtimes

lint: $(READY_DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

$(READY): requirements.txt
	$(MAKE_VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# On top of the product's packages where they are installed, else all at once: pip resolves once.
$(READY_DEV): $(DEV_REQUIREMENTS)
	[ $(READY) -nt requirements.txt ] || { $(MAKE_VENV); }
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(READY) $@

$(SOURCES_VENV)/.ready: $(DEV_REQUIREMENTS) requirements-sources.txt
	python3.11 -m venv --clear $(SOURCES_VENV)
	$(SOURCES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		$(TORCH_INDEX:%=--extra-index-url %) -r requirements-sources.txt
	touch $@

$(TRITON_VENV)/.ready: deploy/requirements-triton.txt
	python3.11 -m venv --clear $(TRITON_VENV)
	$(TRITON_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:
	rm -rf $(VENV) $(OTHER_VENV) $(SOURCES_VENV) $(TRITON_VENV) runs build *.egg-info
