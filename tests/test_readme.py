"""The snippets of the README, the pages of docs and CONTRIBUTING, executed. What they leave to the reader (a network, inputs, a loss) is
defined here."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sigprop as sp
from sigprop.inputs import load


def snippets(name):
    return re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / name).read_text(encoding="utf-8"), re.S)


RNG = np.random.default_rng(0)


class Named(nn.Module):
    """Layers called as the snippets call them."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="head")(nn.relu(nn.Dense(64)(nn.relu(nn.Dense(64)(x)))))


class Upsampling(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.ConvTranspose(8, (3, 3), (2, 2), name="up")(x)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(64, 32)(tokens)
        return x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))


def digits(model=None):
    x = load("digits", 8, None, 2)
    return {"x": x, "images": x, "net": sp.network(model or Named(), x)}


def equation():
    """A network ``u`` of two variables, and its wave equation."""
    def init(key):
        one, two = jax.random.split(key)
        return {"a": jax.random.normal(one, (2, 64)), "b": jax.random.normal(two, (64, 1)) / 8}

    def u(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    def at(f):
        return lambda params, xs: jax.vmap(lambda x: f(params, x))(xs)

    def residual(c):
        def one(params, x):
            h = jax.hessian(u, 1)(params, x)[0]
            return (h[0, 0] - c**2 * h[1, 1])[None]

        return at(one)

    def scaled_terms(s):
        return {"data": (lambda p, xs: at(u)(p, s * xs), points, values),
                "residual": (lambda p, xs: s**2 * residual(1.0)(p, s * xs), points, None)}

    points = RNG.uniform(-1, 1, (6, 2)).astype(np.float32)
    values = np.sin(points[:, :1])
    return {"u": lambda params, x: u(params, x)[0], "init": init, "points": points, "c": 1.0, "edge": points[:2] * [1, 0],
            "values": values, "residual": residual, "scaled_terms": scaled_terms, "field": at(u)}


def of_equation():
    names = equation()
    return {**names, "u": names["field"], "net": sp.network(names["field"], names["points"], init=names["init"])}


def regression():
    names = digits()
    x, xt = names["x"], load("digits", 12, None, 2)[8:]
    y = RNG.standard_normal((8, 10)).astype(np.float32)

    def kernel_of_depth(depth):
        return sp.infinite_kernel(sp.network(nn.Sequential([nn.Dense(64), nn.relu] * depth + [nn.Dense(1)]), x))(x).ntk

    return {**names, "xt": xt, "y": y, "v": y[:, 0], "params": names["net"].init(jax.random.key(0)), "labels": np.arange(8) % 3,
            "loss": lambda outputs: jnp.mean((outputs - y) ** 2), "times": np.array([0.0, 1.0]), "kernel_of_depth": kernel_of_depth,
            "optax": optax}


def widths():
    def build(width):
        return sp.network(nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(10)]), x), {}

    x, labels = load("digits", 4, None, 2), np.arange(4)
    return {**digits(), "x": x, "build": build, "batch": (x, labels)}


def pruning():
    names = digits()
    net, x = names["net"], names["x"]

    def train(params, masks, first, last):
        for _ in range(first, last):
            grads = jax.grad(lambda p: jnp.mean(net.apply(p, x) ** 2), allow_int=True)(params)
            params = jax.tree.map(lambda p, g: p if g.dtype == jax.dtypes.float0 else p - 0.01 * g, params, grads)
        return params

    return {**names, "train": train}


def tokens():
    x = load("tokens", 2, (8,), 64)
    return {"tokens": x, "transformer": sp.network(Transformer(), x)}


def photos(names=("images",)):
    x = load("photo", 2, (8, 8, 3), 2)
    return dict.fromkeys(names, x)


def precision():
    names = digits()
    return {**names, "params": names["net"].init(jax.random.key(0))}


def batches():
    return {"studies": sp.studies, "nn": sp.nn, "nnx": nnx, "client": SimpleNamespace(get_executor=lambda: ThreadPoolExecutor(1))}


GIVEN = {  # first words of a snippet: what it needs
    "import flax.linen": dict, "def apply": equation, "terms =": of_equation, "params = net.init(jax.random.key(0))\nkernel": digits,
    "k = sp.infinite_kernel": regression, "labels =": widths, "entropy =": tokens,
    "fans =": lambda: {"net": sp.network(Upsampling(), *photos().values())}, "up = sp.init": digits, "fixed =": digits,
    "sp.meanfield": lambda: {"c": 0.5, "q": 1.0, "squares": np.linspace(0.1, 2, 9)},
    "params = net.init(jax.random.key(0))\nmasks": pruning, "found = sp.precision": precision, "from functools": photos,
    "from sigprop import studies": dict, "def fn": batches, "nt =": digits,
}
SLOW = ("import flax", "fixed =", "found = sp.precision", "terms =", "k = sp", "sp.meanfield",
        "params = net.init(jax.random.key(0))\nmasks", "from sigprop import studies", "def fn")


def first_words(snippet):
    (found,) = [words for words in GIVEN if snippet.startswith(words)]
    return found


def named(snippet):
    marks = [pytest.mark.slow] * snippet.startswith(SLOW)
    return pytest.param(snippet, id=re.sub(r"\W+", " ", snippet[:40]).strip(), marks=marks)


class Highest(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(jax.lax.cummax(nn.Dense(64)(x), axis=1))


class Small(nnx.Module):
    """With the layers, and so the parameters, of the README's model."""

    def __init__(self, rngs):
        self.layers_0, self.layers_2, self.layers_4 = (nnx.Linear(n, m, rngs=rngs) for n, m in ((32, 256), (256, 256), (256, 10)))

    def __call__(self, x):
        return self.layers_4(nnx.relu(self.layers_2(nnx.relu(self.layers_0(x)))))


def test_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sequences = RNG.standard_normal((2, 5, 16)).astype(np.float32)
    names = {"np": np, "jnp": jnp, "nnx": nnx, "optax": optax, "client": batches()["client"], "sequences": sequences,
             "highest": sp.network(Highest(), sequences), "batches": [(RNG.standard_normal((2, 32)).astype(np.float32), np.arange(2))] * 3}
    for snippet in snippets("README.md"):
        if "nnx.Optimizer" in snippet:
            names["model"] = Small(nnx.Rngs(0))
        exec(compile(snippet, "README.md", "exec"), names)
    assert names["watch"].log(names["optimizer"]).sizes["step"] == 3 and (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("snippet", [named(s) for page in ("guide", "speed") for s in snippets(f"docs/{page}.md")])
def test_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "jax": jax, "jnp": jnp, "nn": nn, "sp": sp, **GIVEN[first_words(snippet)]()}
    exec(compile(snippet, "docs", "exec"), names)


def test_pages_are_found_and_links_lead_somewhere():
    root = Path(__file__).parents[1]
    for page in [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)):
            assert link.startswith("https:") or (page.parent / link).exists(), (page.name, link)


def test_rule_of_the_contributor_agrees_with_measurement():
    (snippet,) = snippets("CONTRIBUTING.md")
    names = {}
    exec(compile(snippet, "CONTRIBUTING.md", "exec"), names)
    found, measured = names["found"].second_moment, sp.measure(names["net"], names["x"], seeds=512, backward=False)
    gap = found - measured.second_moment
    assert (abs(gap) < 5 * measured.second_moment_stderr + 0.03 * found).all()  # noise of 5 standard errors, and 2/width for 64 units
