# ruff: noqa
import logging
import warnings

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from tqdm import tqdm

warnings.filterwarnings("ignore", category=FutureWarning, message="of the world")
pd.set_option("display.max_rows", 7)
plt.rcParams["lines.linewidth"] = 3.5
rng = np.random.default_rng(0)
df = pd.DataFrame(rng.normal(size=(500, 4)), columns=list("abcd"))
df["s"] = ["x", "y"] * 250
df["c"] = pd.Categorical(df["s"])
df["t"] = pd.date_range("2020-01-01", periods=500, tz="Europe/Berlin")
df["n"] = pd.array([1, None] * 250, dtype="Int64")
alias = df
lazy = df.copy(deep=False)
column = df["a"]
grouped = df.groupby("s")
multi = df.set_index(["s", "c"])[["a"]]
index = df.index
named = pd.Index([3, 1, 2], name="k")
by_index = pd.Series(named)
series = pd.Series([1, 2, 3], index=list("xyz"))
attrs = pd.DataFrame({"a": [1]})
attrs.attrs["source"] = "me"
objects = pd.DataFrame({"o": [[1], {"a": 2}]})
values = series.to_numpy()


def double(x):
    return 2 * x


model = make_pipeline(FunctionTransformer(double), StandardScaler(), LogisticRegression())
X, y = df[["a", "b", "d"]].to_numpy(), (df["a"] > 0).to_numpy()
model.fit(X, y)
forest = RandomForestClassifier(5, random_state=1).fit(X, y)
expected = forest.predict_proba(X[:5]).tolist(), model.predict_proba(X[:5]).tolist()
figure, axes = plt.subplots()
(line,) = axes.plot([1, 2, 3], label="l")
axes.legend()
bar = tqdm(total=10, disable=False)
bar.update(3)
dates = pd.Timestamp("2020-01-01", tz="UTC"), pd.NaT, pd.NA, pd.Timedelta("1h"), pd.Period("2020", "Y")


def check_frames():
    assert alias is df and df.shape == (500, 7) and df["c"].cat.categories.tolist() == ["x", "y"]
    assert str(df["t"].dtype).endswith("Europe/Berlin]") and df["n"].isna().sum() == 250
    assert multi.loc[("x", "x")].shape[0] == 250 and grouped["a"].mean().shape == (2,)
    assert series["y"] == 2 and attrs.attrs == {"source": "me"} and objects["o"][1] == {"a": 2}
    assert index is df.index or index.equals(df.index)


def check_copy_on_write():
    lazy.iloc[0, 0] = 123.0
    assert df.iloc[0, 0] != 123.0 and column.iloc[0] != 123.0
    column.iloc[1] = 456.0
    assert df.iloc[1, 0] != 456.0 and lazy.iloc[1, 0] != 456.0
    df.iloc[2, 0] = 789.0
    assert lazy.iloc[2, 0] != 789.0
    by_index.iloc[0] = 9
    assert named[0] == 3


def check_array_of_series_is_attached():
    assert np.shares_memory(values, series.to_numpy())


def check_missing_values_are_singletons():
    assert dates[1] is pd.NaT and dates[2] is pd.NA and dates[0].tzinfo is not None


def check_estimators():
    assert forest.predict_proba(X[:5]).tolist() == expected[0] and model.predict_proba(X[:5]).tolist() == expected[1]
    assert model[0].func is double


def check_figure():
    assert axes.figure is figure and axes.lines[0] is line and line.get_ydata().tolist() == [1, 2, 3]
    line.set_ydata([3, 2, 1])
    figure.canvas.draw()


def check_bar():
    bar.update(2)
    assert bar.n == 5
    bar.close()


def check_options():
    assert pd.get_option("display.max_rows") == 7 and plt.rcParams["lines.linewidth"] == 3.5
    assert any(f[2] is FutureWarning and f[1] is not None and f[1].pattern == "of the world" for f in warnings.filters)
