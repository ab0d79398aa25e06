# The targets are the architecture:
#   make book        install, run every chapter, build the book
#   make read        the same, and open it from an address on this computer
#   make test        everything that must hold
#   make lab         read and run in JupyterLab
#   make notebooks   chapters (.md) -> notebooks (.ipynb)
#   make coursework  problem sets with solutions -> what students get
#   make weights     fetch three real networks, once
#   make models      train the small networks again
#   make study COCO=folder   record what is missing in data/results: contest, causes, stress,
#                    cheats, Shap-CAM, fixations; hours, goes on where it stopped
#   make gallery     draw the gallery of real networks again (data/gallery); an hour or more
#   make similar     measure again how search among many pictures behaves; half an hour
#   make bench       cost and answers beside peers
#   make video       record a tour of the book: two minutes, for the front page
#   make release     a wheel and a zip of the built book in _build/release, both tried
#   make pdf         the book on paper, to hand out: _build/pdf/xcnn.pdf
#   make links       ask every address outside the book whether it still answers
#   make test-colab  the notebooks alone, with Colab's versions
#   make colab-pins  are these versions still the ones that Colab publishes?
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(patsubst %.md,%.ipynb,$(wildcard notebooks/*.md))
# Hundreds of processes import torch: where compiled files are not kept, each compiles it again.
unexport PYTHONDONTWRITEBYTECODE
# how chapters run for the book: explorers are drawn ahead, and their pictures put here
BAKED := XCNN_EXPLORER=baked TQDM_DISABLE=1 \
	XCNN_STUDY=$(CURDIR)/_build/study \
	XCNN_FRAMES=$(CURDIR)/_build/static/frames \
	XCNN_FRAMES_URL=../_static/frames
# One map of the slow ones is dozens to hundreds of runs of the network: they see fewer pictures.
QUICK := gradient,gradient_times_input,deconvnet,guided_backprop,cam,grad_cam,guided_grad_cam,$\
hires_cam,grad_cam_plus_plus,xgrad_cam,layer_cam,shap_cam,shap_cam_probability,lrp,deep_taylor,$\
cnn_fixations,random pixels,random patches,centre,edges
SLOW := smooth_grad,integrated_gradients,score_cam,ablation_cam,occlusion,rise,lime
# what a master's thesis of 2021 compared, LRP and the controls
THESIS := gradient,deconvnet,guided_backprop,grad_cam,guided_grad_cam,lrp,$\
random pixels,random patches,centre,edges
SIX := dining table,cup,bottle,car,bowl,chair
RUNS := contest_scenes contest_photographs contest_thesis trust stress cheats
STUDY := $(BIN)/python -m xcnn study
PHOTOGRAPHS = $(STUDY) $(COCO) --networks squeezenet1_1,mobilenet_v2,resnet18
ENGINE := pyproject.toml \
	$(wildcard $(foreach room,. methods engine readers,lib/xcnn/$(room)/*.py)) \
	$(wildcard data/*.json data/weights/* data/results/*)
INSTALL = $(BIN)/uv pip install -q -p $(BIN)/python -e

book: $(BIN)/with-book notebooks weights _build/fresh
	@mkdir -p _build/static/frames && cp data/gallery/*.webp _build/static/frames
	@echo "Running the chapters that changed: all of them take minutes on an idle machine"
	@$(BAKED) $(BIN)/python -m tools.book.run_chapters
	@TQDM_DISABLE=1 $(BIN)/python -m tools.book.make_play
	@$(BIN)/python -m tools.book.make_tour show
	@echo "Building the pages"
	@$(BAKED) $(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml \
		-W -n --keep-going --quiet
	@cp -r book/_static/. _build/static/. _build/html/_static/  # Sphinx: only where a page changed
	@$(BIN)/python -m tools.book.check_book
	@echo "The book is at _build/html/index.html"

read: book
	@$(BIN)/python -m tools.book.serve

test: $(BIN)/with-test book machine
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto --dist worksteal

lab: $(BIN)/with-book notebooks
	$(BIN)/jupyter lab notebooks

notebooks: $(NOTEBOOKS)

notebooks/%.ipynb: notebooks/%.md tools/book/derive_notebooks.py pyproject.toml | $(BIN)/with-book
	@$(BIN)/python -m tools.book.derive_notebooks $<

coursework: $(BIN)/with-coursework
	$(BIN)/python -m tools.book.derive_coursework

weights: $(BIN)/with-book
	@$(BIN)/python -m tools.data.fetch_weights

models: $(BIN)/with-book
	$(BIN)/python -m tools.data.train

bench: $(BIN)/with-bench book
	@# Without this, torch's profiler writes two lines about itself for each map that it measures.
	KINETO_LOG_LEVEL=99 $(BIN)/python -m pytest tests/bench -s

study: $(BIN)/with-book weights
	@test -d "$(COCO)/annotations" || \
		(echo "Name a COCO folder: make study COCO=folder" && false)
	$(BIN)/python -m tools.data.study_shap_cam $(COCO)
	$(BIN)/python -m tools.data.study_fixations $(COCO)
	@for run in $(RUNS); do mkdir -p runs/$$run; \
		test -f runs/$$run/records.jsonl -o ! -f data/results/$$run.jsonl.gz || \
		gzip -dc data/results/$$run.jsonl.gz > runs/$$run/records.jsonl; done
	$(BIN)/python -m tools.data.study_trust
	$(BIN)/python -m tools.data.study_cheats
	$(STUDY) --images 30 --methods "$(QUICK)" --out runs/contest_scenes
	$(STUDY) --images 10 --methods "$(SLOW)" --sizes original --out runs/contest_scenes
	$(PHOTOGRAPHS) --classes "$(SIX)" --images 30 --methods "$(THESIS)" --out runs/contest_thesis
	$(PHOTOGRAPHS) --largest --images 1000 --sizes 224 --methods "$(QUICK)" \
		--out runs/contest_photographs
	$(PHOTOGRAPHS) --largest --images 2 --sizes 224 --methods "$(SLOW)" \
		--out runs/contest_photographs
	$(PHOTOGRAPHS) --largest --images 2 --sizes original --methods "$(QUICK)" \
		--out runs/contest_photographs
	gzip -9 -n -c runs/contest_photographs/records.jsonl > data/results/contest_photographs.jsonl.gz
	$(BIN)/python -m tools.data.study_stress $(COCO)
	@for run in $(RUNS); do \
		gzip -9 -n -c runs/$$run/records.jsonl > data/results/$$run.jsonl.gz; done

gallery: $(BIN)/with-book weights
	$(BIN)/python -m tools.data.draw_gallery

similar: $(BIN)/with-similar
	$(BIN)/python -m tools.data.measure_similar

pdf: $(BIN)/with-pdf book
	@$(BIN)/python -m tools.book.print_pdf
	@echo "The printed book is at _build/pdf/xcnn.pdf"

video: $(BIN)/with-video book
	@$(BIN)/python -m tools.book.make_tour
	@$(MAKE) --no-print-directory book  # shows it on the front page

release: $(BIN)/with-pdf book
	@$(BIN)/python -m tools.book.make_release

links: $(BIN)/with-book
	@$(BIN)/python -m tools.book.check_links

test-colab: $(BIN)/with-test
	$(BIN)/python -m tools.book.run_on_colab

colab-pins: $(BIN)/with-book
	@$(BIN)/python -m tools.book.compare_colab

# What a chapter shows depends on the library, its data and the weights found: when they change,
# run the chapters again.
_build/fresh: $(ENGINE) .venv/weights.txt
	@rm -rf _build && mkdir -p _build && touch $@

.venv/weights.txt: weights ;

# what the tests need beside Python; installed where nobody could be asked
machine:
	@command -v chromium >/dev/null || test -z "$$CI" || \
		(apt-get update -qq && apt-get install -y -qq chromium)
	@command -v bwrap >/dev/null || test -z "$$CI" || \
		(apt-get update -qq && apt-get install -y -qq bubblewrap) || \
		echo "no bubblewrap: tests of the locked room are skipped"

$(BIN)/with-book: pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		(echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12" && false)
	@echo "Installing the packages into .venv: a few minutes, once"
	@test -x $(BIN)/uv || ($(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q uv)
	@$(INSTALL) '.[book]'
	@command -v npm >/dev/null || $(INSTALL) '.[npm]' || echo "No npm can be had"
	@touch $@

$(BIN)/with-coursework: $(BIN)/with-book
	@$(INSTALL) '.[coursework]'
	@touch $@

$(BIN)/with-pdf: $(BIN)/with-book
	@$(INSTALL) '.[pdf]'
	@touch $@

$(BIN)/with-video: $(BIN)/with-book
	@$(INSTALL) '.[video]'
	@touch $@

$(BIN)/with-similar: $(BIN)/with-book
	@$(INSTALL) '.[similar]'
	@touch $@

$(BIN)/with-test: $(BIN)/with-book
	@$(INSTALL) '.[test]'
	@touch $@

$(BIN)/with-bench: $(BIN)/with-test
	@$(INSTALL) '.[bench]'
	@touch $@

.PHONY: book read test lab notebooks weights models bench study gallery similar pdf video release links test-colab colab-pins machine coursework
