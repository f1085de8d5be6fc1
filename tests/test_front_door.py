"""The front door: what `import ciuic_jupyter` offers, and what it must not load."""

import subprocess
import sys

import ciuic_jupyter

HEAVY = ["torch", "IPython", "fastapi", "ipywidgets", "uvicorn", "numpy", "zmq", "sqlalchemy", "pydantic"]


def test_the_front_door_has_exactly_these_names() -> None:
    sdk = ["CostMonitor", "JobPaused", "TrainingJob"]
    assert sorted(ciuic_jupyter.__all__) == [
        *sdk,
        "__version__",
        "load_ipython_extension",
        "unload_ipython_extension",
    ]
    assert all(hasattr(ciuic_jupyter, name) for name in ciuic_jupyter.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, ciuic_jupyter; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_error_is_in_one_tree_and_found_by_name() -> None:
    from ciuic_jupyter import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert len(classes) >= 18
    assert all(issubclass(c, errors.CiuicError) for c in classes)
    assert all(errors.by_name(c.__name__) is c for c in classes)
    assert errors.by_name("SystemExit") is errors.CiuicError
