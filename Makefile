.PHONY: demo test check quick

demo: ## set up and run the main job: train, pause, pay nothing, resume
	scripts/setup
	scripts/demo

test: ## set up and run every check and test that needs no GPU
	scripts/setup test
	scripts/check
	scripts/test

check: ## linters, types, import walls
	scripts/check

quick: ## tests that take seconds
	scripts/test -m "not (ui or crash or gpu or ssh or prometheus)"
