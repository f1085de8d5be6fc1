# ruff: noqa
# %% matplotlib: figures, axes and lines stay one
import matplotlib.pyplot as plt
import numpy as np

figure, (left, right) = plt.subplots(1, 2)
(line,) = left.plot([1, 2, 3], label="l")
left.legend()
image = right.imshow(np.eye(3))
colorbar = figure.colorbar(image)
# -- after
assert left.figure is figure and left.lines[0] is line and colorbar.mappable is image
line.set_ydata([3, 2, 1])
figure.canvas.draw()

# %% matplotlib: the current figure and plt.figure(n)
get_ipython().run_line_magic("config", "InlineBackend.close_figures = False")
kept_open = plt.figure("mine")
# about: matplotlib
# -- after
assert (
    plt.fignum_exists("mine") and plt.gcf() is kept_open and plt.figure("mine").canvas.manager.num == kept_open.number
)
plt.close("all")
get_ipython().run_line_magic("config", "InlineBackend.close_figures = True")

# %% matplotlib: rcParams, style, an own colormap
import matplotlib

plt.rcParams["lines.linewidth"] = 3.5
plt.style.use("ggplot")
matplotlib.colormaps.register(matplotlib.colors.ListedColormap(["r", "g"], name="mine_too"))
# about: matplotlib
# -- after
assert plt.rcParams["lines.linewidth"] == 3.5 and plt.rcParams["axes.facecolor"] == "#E5E5E5"
assert matplotlib.colormaps["mine_too"].N == 2

# %% matplotlib: callbacks of the canvas
import io

clicks = []
connection_number = figure.canvas.mpl_connect("draw_event", lambda event: clicks.append(1))
# -- after
figure.savefig(io.BytesIO(), format="png")
assert clicks

# %% scikit-learn: fitted estimators and pipelines predict the same
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

rng = np.random.default_rng(0)
X = rng.normal(size=(100, 3))
y = X[:, 0] > 0


def doubled(values):
    return 2 * values


model = make_pipeline(FunctionTransformer(doubled), StandardScaler(), LogisticRegression()).fit(X, y)
trees = RandomForestClassifier(5, random_state=1).fit(X, y)
predictions = model.predict_proba(X).tolist(), trees.predict_proba(X).tolist()
# -- after
assert (model.predict_proba(X).tolist(), trees.predict_proba(X).tolist()) == predictions and model[0].func is doubled

# %% scikit-learn: an estimator with a RandomState that it draws from
from sklearn.model_selection import ShuffleSplit

random_state = np.random.RandomState(4)
splitter = ShuffleSplit(2, random_state=random_state)
next(splitter.split(X))
truth_state = np.random.RandomState()
truth_state.set_state(random_state.get_state())
truth = next(ShuffleSplit(2, random_state=truth_state).split(X))[0].tolist()
# -- after
assert splitter.random_state is random_state and next(splitter.split(X))[0].tolist() == truth

# %% scikit-learn: an estimator class of the notebook, config
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone


class Majority(ClassifierMixin, BaseEstimator):
    def __init__(self, shift=0):
        self.shift = shift

    def fit(self, X, y):
        self.value_ = y.mean() > 0.5
        return self

    def predict(self, X):
        return np.full(len(X), self.value_)


majority = Majority(shift=2).fit(X, y)
sklearn.set_config(transform_output="pandas")
# -- after
assert majority.predict(X).shape == (100,) and clone(majority).shift == 2
assert sklearn.get_config()["transform_output"] == "pandas"

# %% tqdm bars, in the console's way
import sys
import tqdm

bar = tqdm.tqdm(total=10, file=sys.stdout)
bar.update(3)
# -- after
bar.update(2)
assert bar.n == 5 and bar.total == 10
bar.close()

# %% tqdm around an iterable, in the middle
steps = tqdm.tqdm(range(5), file=sys.stdout)
walk = iter(steps)
next(walk)
# -- after
assert next(walk) == 1

# %% tqdm.pandas()
import pandas as pd

tqdm.tqdm.pandas(desc="frames", file=sys.stdout)
# -- after
assert pd.DataFrame({"a": [1, 2]}).progress_apply(sum).tolist() == [3]

# %% tqdm.notebook bars (widgets)
import tqdm.notebook

widget_bar = tqdm.notebook.tqdm(total=10)
widget_bar.update(3)
# -- after
widget_bar.update(2)
assert widget_bar.n == 5

# %% ipywidgets
import ipywidgets

slider = ipywidgets.IntSlider(3)
# -- after
assert slider.value == 3

# %% display objects of IPython
import IPython.display

shown = IPython.display.HTML("<b>x</b>")
display_handle = IPython.display.display("x", display_id="mine")
# -- after
assert shown.data == "<b>x</b>" and display_handle.display_id == "mine"
