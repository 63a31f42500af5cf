"""Batch studies: values, resuming after real kills, real workers, failing points, and bad input."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import batch_functions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from batch_functions import GRID, SLOW, line, measured, waiting

import sigprop as sp
from sigprop.studies import run

A, B = [0.5, 1.0, 2.0], [1, 2, 3, 4, 5]


def finished(path):
    """Files of the blocks whose results are there, with the times at which they were written."""
    return {p.relative_to(path): p.stat().st_mtime_ns for name in ("value", "v", "variance")
            for p in Path(path).glob(f"{name}/c/**/*") if p.is_file() and p.name.isdigit()}


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("static", [(), ("a",), ("b",), ("a", "b")])
def test_every_point_is_computed(tmp_path, chunk, static):
    found = run({"a": A, "b": B, "power": [1, 2]}, line, tmp_path / "s.zarr", static=(*static, "power"), chunk=chunk)
    expected = np.array(A)[:, None, None] * np.array(B, float)[None, :, None] ** np.array([1, 2])
    assert found.y.dims == ("a", "b", "power") and found.pair.dims == ("a", "b", "power", "pair:0")
    np.testing.assert_allclose(found.y, expected)
    np.testing.assert_allclose(found.pair.sel(a=2.0, b=3, power=2), [2, 3])
    assert (found.error == "").all() and list(found.b.values) == B
    xr.testing.assert_identical(found, xr.open_zarr(tmp_path / "s.zarr", consolidated=False, chunks=None))


def test_a_program_is_compiled_once_per_combination(tmp_path):
    traced = []

    def fn(depth, x):
        traced.append(depth)
        return x * depth

    run({"x": np.arange(10.0), "depth": [1, 2, 3]}, fn, tmp_path / "s.zarr", static=["depth"], chunk=4)
    assert traced == [1, 2, 3]


def test_values_have_names(tmp_path):
    """Strings, functions, dataclasses and booleans name themselves; anything has the name that a mapping gives it."""
    act = {"twice": lambda x: 2 * x, "square": lambda x: x * x}
    found = run({"act": act, "init": [sp.init.he(), sp.init.Normal(2.0)], "f": [jnp.sin, jax.nn.relu], "flag": [True, False], "x": [3.0]},
                lambda act, init, f, flag, x: jnp.where(flag, act(x), f(x) * init.law((4, 4)).variance), tmp_path / "s.zarr")
    assert list(found.act.values) == ["twice", "square"] and "relu" in found.f.values and "Normal" in str(found.init.values[1])
    assert found.value.sel(act="square", f="relu", flag=True).values.ravel().tolist() == [9, 9]
    assert found.value.sel(act="square", f="relu", flag=False).values.ravel().tolist() == [1.5, 6]


def refusing(x):
    return jax.pure_callback(_positive, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")


def _positive(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return np.sqrt(x)


FAILING = {  # function, static, what the point a = -1 records
    "called": (lambda a, b: {"v": np.sqrt(a) if a >= 0 else 1 / 0, "n": np.full(2, b)}, ("a", "b"), "ZeroDivisionError"),
    "traced": (lambda a, b: {"v": jnp.sqrt(b) * (a if a >= 0 else [][0]), "n": jnp.full(2, b)}, ("a",), "IndexError"),
    "running": (lambda a, b: {"v": refusing(a), "n": jnp.full(2, b)}, (), "is negative"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_point_is_recorded(tmp_path, name):
    """It is NaN, the others are not, and it is not computed again; points that fail first wait for the shapes."""
    fn, static, message = FAILING[name]
    for grid in ({"a": [1.0, -1.0, 4.0], "b": [1.0, 2.0]}, {"a": [-1.0, 4.0], "b": [1.0]}):
        out = tmp_path / f"{len(grid['b'])}.zarr"
        found = run(grid, fn, out, static=static)
        assert all(message in text for text in found.error.sel(a=-1.0).values)
        assert np.isnan(found.v.sel(a=-1.0)).all() and np.isnan(found.n.sel(a=-1.0)).all()
        rest = found.sel(a=[a for a in grid["a"] if a > 0])
        assert (rest.error == "").all() and np.isfinite(rest.v).all() and (rest.n == rest.b).all()
        before = finished(out)
        run(grid, fn, out, static=static)
        assert finished(out) == before


def test_datasets_and_theory(tmp_path):
    """Functions that are not JAX's are called as they are; the numbers of a dataset are kept."""
    found = run({"act": ["tanh", "erf"], "sigma_w2": [1.5, 2.5]}, lambda act, sigma_w2: {"chi": sp.meanfield.chi1(act, sigma_w2, 0.05)},
                tmp_path / "a.zarr", static=["sigma_w2"])
    assert found.chi.sel(act="tanh", sigma_w2=2.5) == float(sp.meanfield.chi1("tanh", 2.5, 0.05))
    given = run({"x": [1.0, 2.0]}, lambda x: xr.Dataset({"v": ("k", jnp.stack([x, x]))}, {"k": ["a", "b"]}), tmp_path / "b.zarr",
                dims={"v": ["k"]})
    assert given.v.dims == ("x", "k")
    np.testing.assert_array_equal(given.v, [[1, 1], [2, 2]])


@pytest.mark.slow
def test_processes(tmp_path):
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = run({"a": A, "b": B}, line, tmp_path / "s.zarr", pool, chunk=2)
    np.testing.assert_allclose(found.y, np.outer(A, B))


def killed(out, what, blocks):
    """Run the study in a process that is killed when so many blocks are finished."""
    process = subprocess.Popen([sys.executable, batch_functions.__file__, out, what])
    while len(finished(out)) < blocks:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return finished(out)


def test_a_study_goes_on_after_it_is_killed(tmp_path):
    """Nothing finished is computed again but the block that was being written."""
    out = tmp_path / "s.zarr"
    before = killed(out, "waiting", 40)
    found = run(SLOW, waiting, out, static=["a", "b"])
    after = finished(out)
    assert len(after) == 300 and sum(after[p] != t for p, t in before.items()) <= 1
    np.testing.assert_array_equal(found.value, np.add.outer(np.arange(15), np.arange(20)))


def test_an_interruption_keeps_what_is_finished(tmp_path):
    def fn(k):
        if k == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return k

    with pytest.raises(KeyboardInterrupt):
        run({"k": range(6)}, fn, tmp_path / "s.zarr", static=["k"])
    before = finished(tmp_path / "s.zarr")
    (tmp_path / "again").touch()
    assert len(before) == 3 and run({"k": range(6)}, fn, tmp_path / "s.zarr", static=["k"]).value.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert before.items() <= finished(tmp_path / "s.zarr").items()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(GRID, measured, tmp_path_factory.mktemp("study") / "s.zarr", static=["depth"])


@pytest.mark.slow
def test_ten_thousand_networks_after_a_kill(tmp_path, undisturbed):
    out = tmp_path / "s.zarr"
    before = killed(out, "measured", 20)
    found = run(GRID, measured, out, static=["depth"])
    after = finished(out)
    assert found.variance.size == 10_000 and len(after) == 52 and sum(after[p] != t for p, t in before.items()) <= 2
    xr.testing.assert_identical(found, undisturbed)


@pytest.mark.slow
def test_one_of_three_dask_workers_is_killed(tmp_path, undisturbed):
    from distributed import Client, LocalCluster

    out = tmp_path / "s.zarr"
    with LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster) as client:
        pids = client.run(os.getpid)
        thread = threading.Thread(target=run, args=(GRID, measured, out, client.get_executor()), kwargs={"static": ["depth"]})
        thread.start()
        while len(finished(out)) < 8:
            assert thread.is_alive()
            time.sleep(0.01)
        os.kill(next(iter(pids.values())), signal.SIGKILL)
        thread.join()
        assert client.run(os.getpid) != pids
    found = run(GRID, measured, out, static=["depth"])
    xr.testing.assert_identical(found, undisturbed)


def shapes(depth, x):
    return {"v": jnp.ones(depth) * x}


BAD = {
    "grid: 'dept' is no parameter of fn, which has depth, x; did you mean 'depth'": ({"dept": [1], "x": [1]}, shapes, {}),
    "grid: it is empty": ({}, shapes, {}),
    "grid: depth has no values": ({"depth": [], "x": [1]}, shapes, {}),
    "grid: fn needs x too": ({"depth": [1]}, shapes, {}),
    "grid: x has a value twice": ({"depth": [1], "x": [1, 1.0]}, shapes, {}),
    "grid: x has NaN": ({"depth": [1], "x": [1, np.nan]}, shapes, {}),
    "grid: x is 3; give a list": ({"depth": [1], "x": 3}, shapes, {}),
    "grid: x is 'relu'; give a list": ({"depth": [1], "x": "relu"}, shapes, {}),
    "of f, has no name; give a mapping": ({"f": [lambda x: x]}, lambda f: 1.0, {}),
    "static: 'width' is no parameter of the grid": ({"depth": [1], "x": [1]}, shapes, {"static": ["width"]}),
    "chunk: 0 given": ({"depth": [1], "x": [1]}, shapes, {"chunk": 0}),
    "memory: -1 given": ({"depth": [1], "x": [1]}, shapes, {"memory": -1}),
    "fn: it needs a known value where depth, x are traced; name in static=": ({"depth": [1], "x": [1]}, shapes, {}),
    r"fn: 'v' has shape \(2,\) at depth=2, x=1, \(1,\) at other points": ({"depth": [1, 2], "x": [1]}, shapes, {"static": ["depth"]}),
    "fn: 'w' at x=1.0 is not there at other points":
        ({"x": [0.0, 1.0]}, lambda x: {"w" if x else "v": x}, {"static": ["x"]}),
    "fn: no 'w' at x=1.0, as there is at other points":
        ({"x": [0.0, 1.0]}, lambda x: {"v": x} if x else {"v": x, "w": x}, {"static": ["x"]}),
    "fn: its output 'x' has the name of a parameter": ({"x": [1.0]}, lambda x: {"x": x}, {}),
    "dims: 'value' has 0 axes": ({"x": [1.0]}, lambda x: x, {"dims": {"value": ["k"]}}),
    "fn: 'value' is <U4, not numbers": ({"x": [1.0]}, lambda x: "text", {"static": ["x"]}),
    "fn: every point failed; x=1.0: ZeroDivisionError": ({"x": [1.0, 2.0]}, lambda x: 1 / 0, {"static": ["x"]}),
    r"chunk: 4 points at once need .* bytes, 1e\+06 are allowed; try chunk=1":
        ({"x": [1.0, 2.0, 3.0, 4.0]}, lambda x: jnp.linalg.norm(jnp.sin(x * jnp.arange(1e6))[::-1].cumsum()), {"memory": 10**6}),
    r"grid: its results take 7.2e\+13 bytes, the disk": ({"x": range(3000), "y": range(3000)}, lambda x, y: np.zeros(10**6),
                                                         {"static": ["x", "y"]}),
    r"grid: 1e\+12 points are 1e\+12 chunks": (dict.fromkeys("abc", range(10**4)), lambda a, b, c: a, {"chunk": 1}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(tmp_path, message):
    grid, fn, options = BAD[message]
    with pytest.raises(sp.InvalidInput, match=message):
        run(grid, fn, tmp_path / "s.zarr", **options)


OTHERS = {
    "grid": lambda out: run({"a": [1.0], "b": [2.0]}, line, out), "function": lambda out: run({"a": A, "b": B}, lambda a, b: a, out),
    "static": lambda out: run({"a": A, "b": B}, line, out, static=["a"]),
    "version": lambda out: run({"a": A, "b": B}, line, out, version="2"),
}


def test_a_store_of_another_study_is_refused(tmp_path):
    out = tmp_path / "s.zarr"
    found = run({"a": A, "b": B}, line, out)
    for other in OTHERS.values():
        with pytest.raises(sp.InvalidInput, match="out: .* holds another study"):
            other(out)
    xr.testing.assert_identical(run({"a": A, "b": B}, line, out, chunk=1), found)
    (tmp_path / "text").write_text("no store")
    with pytest.raises(sp.InvalidInput, match="out: .*text is not a zarr store"):
        run({"a": A, "b": B}, line, tmp_path / "text")
    shutil.copytree(out / "y", tmp_path / "array")
    with pytest.raises(sp.InvalidInput, match="out: .*array is not a"):
        run({"a": A, "b": B}, line, tmp_path / "array")


def test_what_a_function_captures_is_part_of_the_study(tmp_path):
    def study(scale):
        return run({"x": [1.0]}, lambda x: x * scale.sum(), tmp_path / "s.zarr")

    assert study(np.ones(3)).value == 3 == study(np.ones(3)).value
    with pytest.raises(sp.InvalidInput, match="holds another study"):
        study(np.ones(4))
