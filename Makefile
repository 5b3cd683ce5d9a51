# make demo   train and test on the bundled motion capture, from nothing but Python 3
# make test   lint and tests
# make faults runs that are killed, disks that are full, files that are damaged: half an hour
# make fuzz   100,000 damaged and hostile files, command lines and specs, in minutes
# All make their own virtual environment in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
RUN := demo-$(shell date +%Y-%m-%dT%H-%M-%S)

.PHONY: demo test faults fuzz
demo: $(VENV)/.run-requirements
	$(VENV)/bin/python main_gcn.py --dataset hdm05 --epochs 10 --name $(RUN)
	$(VENV)/bin/python main_gcn.py --dataset hdm05 --evaluate checkpoint/$(RUN)/ckpt_last.pth.tar

test: $(VENV)/.test-requirements
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest --refusals=$(VENV)/refusals.tsv

faults: $(VENV)/.test-requirements
	$(VENV)/bin/python -m tests.faults

fuzz: $(VENV)/.test-requirements
	$(VENV)/bin/python -m tests.fuzz_inputs

$(VENV)/.run-requirements: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.test-requirements: requirements-dev.txt $(VENV)/.run-requirements
	$(VENV)/bin/python -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@
