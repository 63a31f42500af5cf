"""The ``sigprop`` command: what it accepts, writes and refuses, by exit status and by its one line on stderr."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sigprop
from sigprop.cli import main
from sigprop.errors import InvalidInput
from sigprop.inputs import load

MODELS = '''
import flax.linen as nn
from flax import nnx

def factory(rngs):
    return nnx.Sequential(nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 4, rngs=rngs))

def keyword(*, rngs):
    return factory(rngs)

instance = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(4)])

def without_arguments():
    return instance

def of_a_factory():
    return factory

class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(nn.Dense(32)(x)))

class Holder:
    inner = instance

class Images(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3))(nn.relu(nn.Conv(16, (3, 3))(x)))

class Text(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(4)(nn.Embed(20, 16)(tokens))

class Two(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        return nn.Dense(16)(x) * nn.Dense(16)(y)

def dead():
    return nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(4, kernel_init=nn.initializers.zeros)])

number = 3

def raises():
    raise RuntimeError("no weights today")

def needs(width, depth):
    return instance

def returns_number():
    return 3

class Fails(nn.Module):
    @nn.compact
    def __call__(self, x):
        raise ValueError("wrong day")
'''


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    np.save(tmp_path / "good.npy", np.random.default_rng(0).standard_normal((6, 64)))
    np.save(tmp_path / "nan.npy", np.full((2, 64), np.nan))
    np.save(tmp_path / "empty.npy", np.zeros((0, 64)))
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    (tmp_path / "garbage.npy").write_bytes(b"not an array")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


ACCEPTED = {
    "nnx factory": ("models.py:factory", ""), "keyword-only rngs": ("models.py:keyword", ""), "linen instance": ("models.py:instance", ""),
    "function": ("models.py:without_arguments", ""), "function of a factory": ("models.py:of_a_factory", ""),
    "attribute of a class": ("models.py:Holder.inner", ""), "linen class, option": ("models.py:Linen", "--option train=False"),
    "array from a file": ("models.py:instance", "--input good.npy --examples 3"),
    "digits as images": ("models.py:Images", "--shape 8,8,1 --examples 2"), "tokens": ("models.py:Text", "--input tokens --vocabulary 20"),
    "photo": ("models.py:Images", "--input photo --shape 6,6,3 --examples 2"),
    "two inputs": ("models.py:Two", "--input digits --input good.npy"), "module on the path": ("models:instance", ""),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts(case, models, capsys):
    target, options = ACCEPTED[case]
    assert main(["report", target, *options.split(), "--seeds", "8"]) == 0
    out = capsys.readouterr().out
    assert "predicted" in out and "8 seeds" in out


REFUSED = {
    "no file": ("absent.py:f", "", "TARGET: no file absent.py"),
    "no module": ("absent.module:f", "", "TARGET: importing absent.module"),
    "no attribute": ("models.py:absent", "", "has no 'absent'"),
    "no colon": ("models.py", "", "not of the form"),
    "broken file": ("broken.py:f", "", "nothing_of_that_name"),
    "a number": ("models.py:number", "", "neither a Flax module"),
    "returns a number": ("models.py:returns_number", "", "returned int"),
    "function raises": ("models.py:raises", "", "no weights today"),
    "needs arguments": ("models.py:needs", "", "width, depth"),
    "model raises": ("models.py:Fails", "", "wrong day"),
    "unknown option": ("models.py:factory", "--depth 3", "--depth"),
    "seeds not a number": ("models.py:factory", "--seeds many", "--seeds"),
    "too few seeds": ("models.py:factory", "--seeds 2", "seeds: 2"),
    "unknown input": ("models.py:factory", "--input mnist", "--input: 'mnist'"),
    "no array": ("models.py:factory", "--input absent.npy", "--input: no file"),
    "NaN": ("models.py:factory", "--input nan.npy", "nan.npy has NaN"),
    "empty array": ("models.py:factory", "--input empty.npy", "empty.npy has shape (0, 64)"),
    "text array": ("models.py:factory", "--input text.npy", "--input: text.npy holds"),
    "garbage": ("models.py:factory", "--input garbage.npy", "--input: garbage.npy is not a readable"),
    "wrong shape": ("models.py:factory", "--shape 8,9", "--shape: 8,9"),
    "shape of words": ("models.py:factory", "--shape big", "--shape: 'big'"),
    "no examples": ("models.py:factory", "--examples 0", "--examples: 0"),
    "vocabulary": ("models.py:Text", "--vocabulary 1", "--vocabulary: 1"),
    "option without value": ("models.py:Linen", "--option train", "--option: 'train'"),
    "unknown model option": ("models.py:Linen", "--option trains=False", "trains"),
    "wrong input for the model": ("models.py:factory", "--shape 8,8,1", "(4, 8, 8, 1)"),
    "no directory": ("models.py:factory", "--html absent/page.html", "--html: there is no directory"),
    "a directory": ("models.py:factory", "--json .", "--json: . is a directory"),
    "no rows": ("models.py:factory", "--rows 0", "--rows: 0"),
    "no target": (None, "", "TARGET"),
    "no method": ("models.py:factory", "--method walk", "walk"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_with_one_line(case, models, capsys):
    target, options, message = REFUSED[case]
    assert main(["report", *([target] if target else []), *options.split()]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("sigprop: ") and message in lines[0]


@pytest.mark.parametrize(("target", "strict", "status"), [("dead", True, 1), ("dead", False, 0), ("instance", True, 0)])
def test_strict_fails_on_problems_only(target, strict, status, models):
    assert main(["report", f"models.py:{target}", "--seeds", "8", *(["--strict"] if strict else [])]) == status


def test_writes_and_runs_as_a_process(models):
    command = [sys.executable, "-m", "sigprop.cli", "report", "models.py:dead", "--seeds", "8", "--strict", "--html", "page.html",
               "--png", "figure.png", "--json", "numbers.json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(sigprop.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1, done.stderr
    assert "zero-head" in done.stdout and "Traceback" not in done.stderr
    assert (models / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert (models / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((models / "numbers.json").read_text())["problems"][0]["kind"] == "zero-head"


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("digits", None, (4, 64)), ("digits", (8, 8, 1), (4, 8, 8, 1)),
    ("photo", (16, 16, 3), (4, 16, 16, 3)), ("photo", (8, 8, 1), (4, 8, 8, 1)), ("tokens", (12,), (4, 12)),
])
def test_inputs_are_real_and_scaled(name, shape, expected):
    x = load(name, 4, shape, 20)
    assert x.shape == expected
    if name == "tokens":
        assert x.dtype == np.int32 and x.min() >= 0 and x.max() == 19 and len(np.unique(x)) > 8
    else:
        assert x.dtype == np.float32 and abs(float(np.mean(x**2)) - 1) < 0.6


@pytest.mark.parametrize(("name", "examples", "shape", "message"), [
    ("digits", 5000, None, "digits has 1797"), ("photo", 1000, None, "holds"), ("photo", 1, (8, 8), "height,width,channels"),
    ("tokens", 4, (100_000,), "the text has"), ("digits", 2, (0, 64), "axis below 1"),
])
def test_inputs_refuse(name, examples, shape, message):
    with pytest.raises(InvalidInput, match=message):
        load(name, examples, shape, 64)


def test_data_sets_without_scikit_learn_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InvalidInput, match="need scikit-learn"):
        load("digits", 2, None, 64)
    assert load("tokens", 2, None, 64).shape == (2, 16)
