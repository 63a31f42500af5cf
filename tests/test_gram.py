"""Kernels by tiles: the same numbers as at once, on any number of devices and processes, after any number of kills, on bad disks."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gram_program import TILE, X, Y, kernel, linear

import sigprop as sp
from sigprop.gram.identity import program_hash
from sigprop.gram.layout import Layout
from sigprop.gram.tiles import programs

PROGRAM = Path(__file__).parent / "gram_program.py"
MLP = sp.network(nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(3)]), X[:2])


def start(out, *args, **env):
    return subprocess.Popen([sys.executable, "-W", "error", PROGRAM, out, *args], env=os.environ | env, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error


def chunks(out):
    return {p.relative_to(out): p.read_bytes() for p in out.rglob("c/**/*") if p.is_file()}


@pytest.mark.parametrize("tile", [1, 7, 64, 500])
@pytest.mark.parametrize("n", [1, 2, 7, 65])
def test_layout_covers_each_entry_once(n, tile):
    for layout in (Layout.of(n, None, tile), Layout.of(n, 9, tile)):
        count = np.zeros(layout.shape, int)
        for t in layout.tiles:
            for copy in layout.copies(t):
                count[layout.where(copy)] += 1
        assert (count == 1).all() and max(layout.tile) <= max(tile, 1)


@pytest.mark.parametrize(("name", "other"), [
    *(pytest.param("infinite", other, marks=pytest.mark.slow) for other in (None, Y)), ("empirical", None), ("own", None), ("own", Y)])
def test_tiles_are_the_kernel(tmp_path, name, other):
    params = MLP.init(jax.random.key(0))
    fn = {"infinite": sp.infinite_kernel(MLP), "empirical": partial(sp.empirical_kernel(MLP), params), "own": linear}[name]
    found, expected = sp.gram(fn, X, other, tmp_path / "K.zarr", tile=64), fn(X, other)
    assert found.layout.tile == ((50, 50)) and found.verify() == []
    for which in ("nngp", "ntk"):
        exact = np.asarray(getattr(expected, which))
        np.testing.assert_allclose(found.array(which)[:], exact, rtol=1e-5, atol=2e-6 * abs(exact).max())
        v = np.random.default_rng(0).standard_normal((exact.shape[1], 3))
        np.testing.assert_allclose(found.matvec(v, which), found.array(which)[:] @ v, rtol=1e-6, atol=1e-5 * abs(exact).max())
    again = sp.open_gram(tmp_path / "K.zarr").kernel()
    np.testing.assert_array_equal(again.nngp, found.nngp[:])
    if name == "own":
        assert (again.error, again.ntk_error) == (0.25, 0.5)


def test_several_inputs_and_no_ntk(tmp_path):
    def fn(one, two=None):
        two = one if two is None else two
        return sp.Kernel(one[0] @ two[0].T + one[1][:, None] * two[1], None, jnp.zeros(()))

    found = sp.gram(fn, (X, X[:, 0]), out=tmp_path / "K.zarr", tile=30)
    np.testing.assert_allclose(found.nngp[:], X @ X.T + np.outer(X[:, 0], X[:, 0]), rtol=1e-5, atol=1e-5)
    assert found.ntk is None and found.kernel().ntk is None
    with pytest.raises(sp.InvalidInput, match="which: 'ntk' is none of 'nngp'"):
        found.matvec(X[:, 0])


def damage(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"torn": data[:-3], "empty": b"", "flipped": data[:9] + bytes([data[9] ^ 1]) + data[10:]}[how])


@pytest.mark.parametrize(("name", "how"), [
    ("nngp/c/0/2", "torn"), ("nngp/c/2/0", "missing"), ("nngp/c/1/1", "flipped"), ("ntk/c/0/2", "empty"), ("ntk/c/2/0", "flipped"),
    ("error/c/0/2/0", "torn"), ("error/c/0/2/0", "missing")])
def test_a_damaged_tile_is_found_and_alone_computed_again(tmp_path, name, how):
    out = tmp_path / "K.zarr"
    found = sp.gram(linear, X, out=out, tile=70)
    whole = chunks(out)
    damage(out / name, how)
    tile = tuple(sorted(map(int, name.split("/")[2:4])))
    assert found.verify() == [tile]
    if how not in ("missing",) and name.startswith("n"):
        with pytest.raises(ValueError, match="checksum"):
            found.array(name.split("/")[0])[:]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("c/**/*") if p.is_file()}
    sp.gram(linear, X, out=out, tile=70)
    assert found.verify() == [] and chunks(out) == whole
    rewritten = {p for p, mtime in before.items() if p.stat().st_mtime_ns != mtime}
    assert {tuple(sorted(map(int, p.relative_to(out).parts[2:4]))) for p in rewritten} <= {tile}


@pytest.mark.parametrize(("change", "what"), [
    ({"kernel_fn": partial(linear, scale=2.0)}, "kernel"), ({"x1": X + 1}, "data"), ({"x1": X[:50]}, "data"), ({"x2": X}, "data"),
    ({"tile": 20}, "tile"), ({"key": "mine"}, "kernel"), ({"x1": X.astype(np.float64)}, "data"),
    ({"kernel_fn": lambda a, b=None: linear(a, b)._replace(ntk=None)}, "arrays")])
def test_a_store_of_something_else_is_refused(tmp_path, change, what):
    given = {"kernel_fn": linear, "x1": X, "out": tmp_path / "K.zarr", "tile": 100}
    sp.gram(**given)
    before = chunks(tmp_path)
    with pytest.raises(sp.InvalidInput, match=f"^out: .*K.zarr was written by another kernel, its {what} is"):
        sp.gram(**(given | change))
    assert chunks(tmp_path) == before


def test_laws_parameters_and_options_tell_kernels_apart():
    params, changed = (MLP.init(jax.random.key(n)) for n in (0, 1))
    other = sp.network(nn.Sequential([nn.Dense(32, kernel_init=nn.initializers.he_normal()), nn.relu, nn.Dense(3)]), X[:2])
    kernels = [lambda: sp.infinite_kernel(MLP), lambda: sp.infinite_kernel(MLP, "ntk"), lambda: sp.infinite_kernel(other),
               lambda: sp.infinite_kernel(MLP, learning_rates={"layers_0/kernel": 0.5}), lambda: partial(sp.empirical_kernel(MLP), params),
               lambda: partial(sp.empirical_kernel(MLP), changed)]
    first, second = ([program_hash([programs(k(), X, Y, Layout.of(4, 4, 4)).pair]) for k in kernels] for _ in range(2))
    assert first == second and len(set(first)) == len(kernels)


def test_a_callers_own_key(tmp_path):
    sp.gram(linear, X, out=tmp_path / "K.zarr", key="mine")
    sp.gram(partial(linear, scale=3.0), X, out=tmp_path / "K.zarr", key="mine")
    with pytest.raises(sp.InvalidInput, match="its kernel is key mine, here it is key yours"):
        sp.gram(linear, X, out=tmp_path / "K.zarr", key="yours")


@pytest.mark.parametrize(("change", "message"), [
    ({"x1": X[:0]}, r"x\[0\]: shape \(0, 6\) is empty"), ({"x2": X[:, :3]}, "x2: its examples have shape"), ({"x2": X[:0]}, "is empty"),
    ({"tile": 0}, "tile: 0"), ({"tile": 1.5}, "tile: 1.5"), ({"kernel_fn": 3}, "kernel_fn: int is not a function"),
    ({"kernel_fn": lambda a, b=None: a @ a.T}, "kernel_fn: returns"), ({"mesh": 8}, "mesh: int is not a"),
    ({"kernel_fn": lambda a, b=None: sp.Kernel(jnp.ones((len(a), len(a), 2, 2)), None, 0)}, "one number per pair is needed"),
    ({"kernel_fn": lambda a, b=None: linear(a / 0.0, b)}, "NaN or infinite"), ({"x1": X * np.nan}, "NaN or infinite"),
    ({"x1": (X, X[:3])}, r"x1: arrays of \[3, 200\] examples"), ({"out": PROGRAM}, "no store written by sp.gram")])
def test_bad_input(tmp_path, change, message):
    with pytest.raises((sp.InvalidInput, sp.Unsound), match=message):
        sp.gram(**({"kernel_fn": linear, "x1": X, "out": tmp_path / "K.zarr"} | change))


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_examples(tmp_path, n):
    found = sp.gram(linear, X[:n], out=tmp_path / "K.zarr")
    found.check_psd()
    np.testing.assert_allclose(found.nngp[:], X[:n] @ X[:n].T, rtol=1e-6)


@pytest.mark.parametrize("n", [60, pytest.param(1100, marks=pytest.mark.slow)])
def test_kernels_that_are_no_kernels(tmp_path, n):
    x = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
    good = sp.gram(linear, x, out=tmp_path / "good", tile=400)
    smallest, largest = good.extremes()
    values = np.linalg.eigvalsh(2 * x @ x.T)
    assert largest == pytest.approx(values[-1], rel=1e-3) and abs(smallest - values[0]) < 1e-3 * largest
    assert good.asymmetry() < 1e-6
    good.check_psd()
    signs = jnp.asarray([1.0] * 7 + [-1.0])
    bad = sp.gram(lambda a, b=None: linear(a * signs, a if b is None else b), x, out=tmp_path / "bad", tile=400)
    with pytest.raises(sp.InvalidInput, match="ntk: not positive semidefinite, its eigenvalues go from -"):
        bad.check_psd()
    skewed = sp.gram(lambda a, b=None: linear(a, jnp.roll(a if b is None else b, 1, 1)), x, out=tmp_path / "skewed", tile=400)
    with pytest.raises(sp.InvalidInput, match="nngp: not symmetric"):
        skewed.check_psd("nngp")
    pair = sp.gram(linear, x, x[:5], tmp_path / "pair")
    with pytest.raises(sp.InvalidInput, match="two sets of inputs"):
        pair.check_psd()


def test_a_full_disk(tmp_path):
    """No file may grow beyond a limit, for the kernel's but not for the group's own; then it may, and the tiles before are kept."""
    out, old = tmp_path / "K.zarr", resource.getrlimit(resource.RLIMIT_FSIZE)
    ours = partial(sp.gram, linear, X, out=out, tile=100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(sp.StorageFailed, match="^out: .*K.zarr cannot be written .File too large; .* GB free") as caught:
            ours()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert isinstance(caught.value, OSError) and not list(out.rglob("*.partial"))
    assert ours().verify() == []


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(sp.StorageFailed, match="cannot be written"):
        sp.gram(linear, X, out=PROGRAM / "K.zarr")


def test_too_little_memory_proposes_a_smaller_tile(tmp_path):
    def hungry(a, b=None):
        k = a @ (a if b is None else b).T
        return sp.Kernel(jnp.sort(k[..., None] * jnp.arange(2.0**24), -1)[..., 7], None, jnp.zeros(()))  # 100^2 x 64 MB

    with pytest.raises(sp.OutOfMemory, match="too little memory for tiles of 100 x 100 examples; try tile=50") as caught:
        sp.gram(hungry, X, out=tmp_path / "K.zarr", tile=100)
    assert isinstance(caught.value, MemoryError)


def killed_and_resumed(tmp_path, what, kills):
    """Killed at random numbers of finished tiles; what was finished is not touched again; the end equals a run without kills."""
    chosen = random.Random(0)
    whole = sp.gram(kernel() if what == "own" else linear, X, out=tmp_path / "whole.zarr", tile=TILE)
    count, out = len(whole.layout.tiles), tmp_path / "killed"
    kept = {}
    for k in range(kills):
        process = start(out, what)
        target = chosen.randint(k * count // (kills + 1) + 1, (k + 1) * count // (kills + 1))
        while process.poll() is None and len(list(out.rglob("error/c/*/*/0"))) < target:
            time.sleep(0.001)
        time.sleep(chosen.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        missing = sp.open_gram(out / f"{what}.zarr").verify()
        assert 0 < len(missing) < count
        assert all(p.stat().st_mtime_ns == mtime for p, mtime in kept.items())
        kept = {p: p.stat().st_mtime_ns for p in out.rglob("c/**/*") if p.is_file() and p.suffix != ".partial" and not any(
            tuple(sorted(map(int, p.relative_to(out).parts[3:5]))) == tile for tile in missing)}
    finish(start(out, what))
    assert all(p.stat().st_mtime_ns == mtime for p, mtime in kept.items())
    assert chunks(out / f"{what}.zarr") == chunks(whole.path)
    assert sorted(p.name for p in out.iterdir()) == [f"{what}.zarr"]


def test_killed_and_resumed(tmp_path):
    killed_and_resumed(tmp_path, "linear", 1)


@pytest.mark.slow
def test_killed_and_resumed_five_times(tmp_path):
    killed_and_resumed(tmp_path, "own", 5)


@pytest.mark.slow
def test_devices(tmp_path):
    """1, 2, 4 and 8 devices of one process, and a store begun on 8 and ended on one."""
    finish(start(tmp_path, "devices", XLA_FLAGS="--xla_force_host_platform_device_count=8"))
    first, *others = (sp.open_gram(tmp_path / f"{n}.zarr") for n in (1, 2, 4, 8))
    for other in others:
        for which in ("nngp", "ntk"):
            np.testing.assert_allclose(other.array(which)[:], first.array(which)[:], rtol=1e-5, atol=1e-6)
    damage(others[-1].path / "ntk/c/0/3", "torn")
    assert sp.gram(kernel(), X, out=others[-1].path, tile=TILE).verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("other", ["own", "pair"])
def test_two_processes(tmp_path, other):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    finish(*(start(tmp_path, other, port, rank) for rank in "01"))
    one = sp.gram(kernel(), X, None if other == "own" else Y, tmp_path / "one", tile=TILE)
    two = sp.open_gram(tmp_path / f"{other}.zarr")
    assert two.verify() == []
    for which in ("nngp", "ntk"):
        np.testing.assert_allclose(two.array(which)[:], one.array(which)[:], rtol=1e-5, atol=1e-6)
