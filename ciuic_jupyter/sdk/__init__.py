"""A training as an object, for scripts, notebooks and cells: `TrainingJob`, and `CostMonitor` over it."""
