# make demo   train and test on the bundled motion capture, from nothing but Python 3
# make video VIDEO=path   find the person in a video and lift to 3D; without VIDEO, lift the
#             bundled keypoints of squats. The results are in predictions/; FLAGS go to predict.py
#             (but not -o, which is given)
# make test   lint and tests
# make faults runs that are killed, disks that are full, files that are damaged: half an hour
# make fuzz   100,000 damaged and hostile files, command lines and specs, in minutes
# make mutants   code changed in one place at a time: do its tests notice? Half an hour
# make coverage  the lines that the tests run, folder by folder, and the lines that they do not
# All make their own virtual environment in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
RUN := demo-$(shell date +%Y-%m-%dT%H-%M-%S)

.PHONY: demo video test faults fuzz mutants coverage
demo: $(VENV)/.run-requirements
	$(VENV)/bin/python main_gcn.py --dataset hdm05 --epochs 10 --name $(RUN)
	$(VENV)/bin/python main_gcn.py --dataset hdm05 --evaluate checkpoint/$(RUN)/ckpt_last.pth.tar

VIDEO_VENV := .venv-video
ifdef VIDEO
LIFT_VENV := $(VIDEO_VENV)
else
LIFT_VENV := $(VENV)
VIDEO := dataset/keypoints_squats.json
endif
video: $(LIFT_VENV)/.run-requirements
	$(LIFT_VENV)/bin/python predict.py "$(VIDEO)" --force \
	    -o "predictions/$(basename $(notdir $(VIDEO)))_3d.npz" $(FLAGS)

test: $(VENV)/.test-requirements
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --refusals=$(VENV)/refusals.tsv

faults: $(VENV)/.export-requirements
	$(VENV)/bin/python -m pytest -m slow
	$(VENV)/bin/python -m tests.faults

fuzz: $(VENV)/.test-requirements
	$(VENV)/bin/python -m tests.fuzz_inputs

mutants: $(VENV)/.test-requirements
	$(VENV)/bin/python tools/mutants.py

coverage: $(VENV)/.test-requirements
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run -m pytest -q -n 2 --dist loadfile
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report --skip-covered
	@for room in common data models training tools; do \
	    echo "$$room: $$($(VENV)/bin/coverage report --include="$$room/*" --format=total)%"; done
	@echo "scripts: $$($(VENV)/bin/coverage report --include="main_*.py,opt.py,predict.py,viz.py" \
	    --format=total)%"

# MediaPipe's wheels end at Python 3.12. Its requirements are complete: what else its metadata asks
# for is not used, and its numpy < 2 is not needed.
$(VIDEO_VENV)/.run-requirements: requirements-video.txt requirements.txt constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 13) or sys.exit('error: MediaPipe needs \
	Python 3.12 or older: make video VIDEO=... PYTHON=python3.12')"
	$(PYTHON) -m venv $(VIDEO_VENV)
	$(VIDEO_VENV)/bin/python -m pip install --quiet -r requirements.txt -c constraints.txt
	$(VIDEO_VENV)/bin/python -m pip install --quiet --no-deps -r requirements-video.txt
	touch $@

$(VENV)/.run-requirements: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.test-requirements: requirements-dev.txt $(VENV)/.run-requirements
	$(VENV)/bin/python -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

$(VENV)/.export-requirements: requirements-export.txt $(VENV)/.test-requirements
	$(VENV)/bin/python -m pip install --quiet -r requirements-export.txt -c constraints.txt
	touch $@
