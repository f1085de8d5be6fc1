"""Each kind of cell leaves the same outputs in the notebook whether it ran locally or remotely."""

from __future__ import annotations

import asyncio
import re
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebook.local_kernels import ROOT, real_plane

KINDS = {
    "stream": "print('a'); print('b')",
    "stderr": "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\nprint('out 2')",
    "unicode": "print('Grüße 日本 🎉 \\x1b[31mred\\x1b[0m')",
    "display_data": "from IPython.display import display\ndisplay('x'); display(1, 2)",
    "update_display": "h = display('first', display_id='one')\nh.update('second')",
    "update from another cell": "h.update('third')",
    "two displays of one id": "display('p', display_id='two'); display('q', display_id='two')",
    "nested display": "class Box:\n    def _ipython_display_(self):\n        display(1)\n        print(2)\nBox()",
    "execute_result": "{'a': [1, 2], 'b': None}",
    "None": "None",
    "DataFrame": "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': [0.5, float('nan')]})",
    "clear_output": "from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('kept')",
    "clear_output(wait)": "for i in range(5):\n    clear_output(wait=True)\n    print('frame', i)",
    "clear_output(wait) at the end": "print('stays')\nclear_output(wait=True)",
    "matplotlib": "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.title('t')",
    "matplotlib twice": "for i in range(2):\n    plt.figure(); plt.plot([i])\n    plt.show()\n    print(i)",
    "tqdm": "from tqdm import tqdm\nfor _ in tqdm(range(3), bar_format='{l_bar}{bar}|{n}', mininterval=0): pass",
    "tqdm.notebook": (
        "from tqdm.notebook import tqdm as bar\nfor _ in bar(range(3), bar_format='{l_bar}{bar}{n}/{total}'): pass"
    ),
    "ipywidgets": "import ipywidgets\nslider = ipywidgets.IntSlider(3, description='s')\nslider",
    "widget change": "slider.value = 7",
    "Output widget": "out = ipywidgets.Output()\ndisplay(out)\nwith out:\n    print(1); display(2)\nprint(3)",
    "HTML": "from IPython.display import HTML, Latex, JSON, Markdown, Image, SVG, Javascript\nHTML('<b>x</b>')",
    "Latex": "Latex('$x$')",
    "JSON": "JSON({'a': 1}, expanded=True)",
    "Markdown and SVG": "display(Markdown('# t'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))",
    "PNG": "import base64\nImage(data=base64.b64decode('iVBORw0KGgo='), format='png', width=3)",
    "metadata": "display({'text/plain': 'x'}, raw=True, metadata={'text/plain': {'m': 1}})",
    "error": "def f():\n    raise ValueError('no')\nf()",
    "chained error": "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e",
    "error of a class of the cell": "class MyError(Exception):\n    pass\nraise MyError('mine')",
    "print and error": "print('before', flush=True)\nassert False, 'after'",
    "exception group": "raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
    "SyntaxError": "x ==",
    "IndentationError": "if True:\nx = 1",
    "SystemExit": "import sys\nprint('x')\nsys.exit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "showtraceback": "try:\n    1/0\nexcept Exception:\n    get_ipython().showtraceback()\nprint('on')",
    "warnings": "import warnings\nwarnings.warn('careful')",
    "%%time": "%%time\nsum(range(10))",
    "%timeit": "%timeit -n1 -r1 pass",
    "subprocess": "!echo from a shell",
    "%%bash": "%%bash\necho out; echo err >&2",
    "os.write": "import subprocess\nprint(subprocess.run(['echo', 'hi'], capture_output=True, text=True).stdout)",
    "print without newline": "print('a', end=''); print('b', end='')",
    "threads": "import threading\nt = threading.Thread(target=print, args=('in a thread',)); t.start(); t.join()",
    "logging": "import logging\nlogging.getLogger('t').warning('logged')",
    "top-level await": "import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')\n5",
    "%who": "zzz = 1\n%who int",
    "empty comment": "# nothing",
}
FAIL = {
    *("error", "chained error", "error of a class of the cell", "print and error", "SyntaxError"),
    *("IndentationError", "SystemExit", "KeyboardInterrupt", "showtraceback"),
}

_NUMBERS = [
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"ipykernel_\d+/\d+\.py"), "<cell file>"),
    (re.compile(r"\(\d+\.py, line"), "(<cell file>, line"),
    (re.compile(r"\d+(\.\d+)?(e\+\d+)? ([mnµμ]?s)\b"), "<time>"),
    (re.compile(r"In\[\d+\]"), "In[n]"),
    (re.compile(r"0x[0-9a-f]+"), "<address>"),
    (re.compile(r"interactiveshell\.py:\d+"), "interactiveshell.py"),
    (re.compile(r"\x1b\[[0-9;]*m(In\[n\])\x1b\[[0-9;]*m"), r"\1"),
]

SETTLE = ["import time; time.sleep(0.3)"] * 4


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, replacement in _NUMBERS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in {"execution_count", "id"}}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _merged(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts of one stream between other outputs joined: pipes of child processes are cut anywhere."""
    result: list[dict[str, Any]] = []
    for output in outputs:
        last = result[-1] if result else {}
        if output["output_type"] == last.get("output_type") == "stream" and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            result.append(dict(output))
    return result


def execute(path: Path, cells: list[str]) -> tuple[list[Any], Any]:
    """Run a notebook through nbclient; returns each cell's outputs and the widgets' states."""
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    place = {"metadata": {"path": str(path)}}
    client = NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3", resources=place)
    with asyncio.Runner() as runner, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the front end's libraries
        runner.run(client.async_execute())
    return [cell.outputs for cell in notebook.cells], client.widget_state


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    path = tmp_path_factory.mktemp("equal")
    with real_plane() as plane, pytest.MonkeyPatch.context() as patch:
        for name, value in {**plane.env, "PYTHONPATH": str(ROOT)}.items():
            patch.setenv(name, value)
        # a front end answers an Output widget's capture; the last cells are behind these answers and their echoes
        cells = [*KINDS.values(), *SETTLE]
        remote, remote_widgets = execute(path, [plane.setup, *(f"%%remote\n{code}" for code in cells)])
        local, local_widgets = execute(path, ["from IPython.display import display", *cells])
    assert not remote[0], remote[0]
    count = len(KINDS) + 1
    found = dict(zip(KINDS, zip(local[1:count], remote[1:count], strict=True), strict=True))
    found["widget states"] = (_values(local_widgets), _values(remote_widgets))
    return found


def _values(widgets: dict[str, Any]) -> list[Any]:
    states = [(state.get("_model_name"), state.get("value"), state.get("outputs")) for state in widgets.values()]
    return sorted(map(repr, _plain([list(state) for state in states])))


@pytest.mark.parametrize("kind", KINDS)
def test_cell_looks_the_same(both: dict[str, tuple[Any, Any]], kind: str) -> None:
    local, remote = both[kind]
    if kind == "exception group":  # IPython prints these as text alone; here they are an error output, too
        assert remote.pop()["ename"] == "ExceptionGroup"
    assert _merged(_plain(remote)) == _merged(_plain(local))
    numbers = [output["execution_count"] for output in remote if output["output_type"] == "execute_result"]
    assert numbers == [list(KINDS).index(kind) + 2] * len(numbers)
    assert any(output["output_type"] == "error" for output in remote) is (kind in FAIL)


def test_widgets_hold_the_same_values(both: dict[str, tuple[Any, Any]]) -> None:
    local, remote = both["widget states"]
    assert [state for state in remote if state not in local] == [state for state in local if state not in remote] == []
    assert any("IntSliderModel', 7" in state for state in remote)
