# Everything a user types. `make` alone lists it; README.md explains the settings.
#
# A setting is a variable: `make run DATASET=flickr8k EPOCHS=10`. Make hands variables from its
# command line and from the environment on to what it starts, where utils/settings.py reads them.

VENV := .venv
BIN := $(VENV)/bin/python
# The file that says the installation is complete and of these two files.
INSTALLED := $(VENV)/installed

# A small run of every notebook that is the same on every machine, with and without network.
SMALL_RUN := DATASET=sample DATA= ENCODER=xception WEIGHTS=none DECODER=merge \
	EPOCHS=2 SEED=42 LIMIT=60 RUNS=build/small-run DEVICES= PROCESSES= PROCESS=

# A renamed or moved folder still runs its own code, and no one else's.
export PYTHONPATH := $(CURDIR)
# Of TensorFlow's own messages only warnings and errors.
export TF_CPP_MIN_LOG_LEVEL := 1

.PHONY: help install run report lab model site test test-all small-run kill-test bench notebooks publish robustness clean distclean

help:
	@echo "make run        run the notebooks in order, build the report, show the scores"
	@echo "make lab        open copies of the notebooks, kept in lab/, in JupyterLab"
	@echo "make report     build the report of a run again"
	@echo "make model      keep the captioner of a run in models/, with a model card"
	@echo "make site       write notebooks, report and API pages to build/site/, which opens from disk"
	@echo "make test       check style, run the fast tests and a small run of every notebook"
	@echo "make test-all   the same with the slow tests"
	@echo "make small-run  only the small run: every notebook, without any download"
	@echo "make kill-test  kill every stage at random moments and compare with an undisturbed run"
	@echo "make bench      measure speed and memory against the original recipe (20 minutes)"
	@echo "make install    only install what the others need, into $(VENV)"
	@echo "make clean      remove the results of all runs, your copies in lab/, and caches"
	@echo "make distclean  remove the drawn sample and $(VENV) as well"
	@echo "For maintainers:"
	@echo "make notebooks  run the notebooks and keep their outputs in notebooks/"
	@echo "make publish    keep the numbers and figures of a run in report/ and README.md"
	@echo "make robustness write the table of failure handling again"
	@echo
	@echo "Settings, as in 'make run DATASET=flickr8k EPOCHS=10':"
	@echo "  DATASET DATA ENCODER WEIGHTS DECODER EPOCHS SEED LIMIT RUNS"
	@echo "  DEVICES PROCESSES PROCESS ADDRESS (see README.md)"

install: $(INSTALLED)

# PYTHON=... names another interpreter; else the first of these that is recent enough is taken.
$(INSTALLED): pyproject.toml constraints.txt
	@if ! $(BIN) -m pip --version >/dev/null 2>&1; then \
		for python in $${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do \
			if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
				2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "Python 3.11, 3.12 or 3.13 is needed; $${PYTHON:-python3} is:" \
				"$$($${PYTHON:-python3} --version 2>&1 | head -n 1)." >&2; \
			echo "Install one of them, or name it: make PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV) || { rm -rf $(VENV); \
			echo "No environment was made; on Debian and Ubuntu: apt install python3-venv" >&2; \
			exit 1; }; \
	fi
	@echo "Installing into $(VENV): about 3 GB and some minutes the first time"
	@$(BIN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(INSTALLED)
	@$(BIN) -m tools.run_notebooks
	@$(BIN) report/build.py
	@$(BIN) -m tools.summary

report: $(INSTALLED)
	@$(BIN) report/build.py

model: $(INSTALLED)
	@$(BIN) -m tools.model_card

# Copies, so that running a notebook changes no tracked file. A copy that is there stays as it is.
lab: $(INSTALLED)
	@mkdir -p lab
	@for notebook in notebooks/*.ipynb; do \
		copy=lab/$${notebook##*/}; \
		if [ ! -e "$$copy" ]; then cp "$$notebook" "$$copy"; \
		elif [ "$$notebook" -nt "$$copy" ]; then \
			echo "$$copy is older than $$notebook. Delete it to get the newer one."; fi; \
	done
	@echo "You work on copies in lab/, which git ignores. The originals in notebooks/ stay as they are."
	@$(BIN) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/lab

site: $(INSTALLED)
	@$(BIN) -m tools.site

test: FAST := -m "not slow"
test test-all: $(INSTALLED)
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	@mkdir -p build
	@echo "Tests, and beside them a small run of every notebook (build/small-run.log)"
	@$(MAKE) --no-print-directory small-run >build/small-run.log 2>&1 & small=$$!; \
		trap 'kill $$small' INT TERM; \
		$(BIN) -m pytest $(FAST); tests=$$?; \
		wait $$small; run=$$?; tail -n 40 build/small-run.log; \
		[ $$tests = 0 ] && [ $$run = 0 ]

small-run: $(INSTALLED)
	rm -rf build/small-run
	$(SMALL_RUN) $(BIN) -m pytest -x --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks
	$(SMALL_RUN) $(BIN) report/build.py

# On Flickr8k where DATA says that it is there.
bench: $(INSTALLED)
	@DATASET=$${DATASET:-$${DATA:+flickr8k}} $(BIN) -m benchmarks.bench

kill-test: $(INSTALLED)
	@$(BIN) -m tests.kill_and_resume

notebooks: $(INSTALLED)
	@$(BIN) -m tools.run_notebooks --in-place

publish: $(INSTALLED)
	@$(BIN) report/build.py --publish
	@$(BIN) tools/readme.py

robustness: $(INSTALLED)
	@$(BIN) -m tests.robustness

clean:
	@echo "Removing data/runs, build, lab and caches"
	@rm -rf data/runs build lab .pytest_cache .hypothesis .ruff_cache *.egg-info
	@find utils sample tools tests benchmarks report notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	@echo "Removing data/sample and $(VENV)"
	@rm -rf data/sample $(VENV)
