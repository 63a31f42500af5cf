"""The commands beside ``report`` on small models: what they say, their numbers as JSON, and what they refuse."""

import json
import sys

import numpy as np
import pytest

import sigprop as sp
from sigprop.cli import main

MODELS = '''
import flax.linen as nn
from flax import nnx

class Mlp(nn.Module):
    width: int = 64
    kernel_init: object = nn.initializers.lecun_normal()
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(self.width, kernel_init=self.kernel_init)(x)))

class Up(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3))(nn.relu(nn.ConvTranspose(16, (4, 4), (2, 2))(x)))

class Text(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(64, 32)(tokens)
        return nn.Dense(64)(x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x)))

class Sorted(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.Dense(8)(x).sort(-1))

def sized(rngs, width=32):
    return nnx.Sequential(nnx.Linear(64, width, rngs=rngs), nnx.relu, nnx.Linear(width, 4, rngs=rngs))
'''


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "small.py").write_text(MODELS)
    np.save(tmp_path / "labels.npy", np.arange(4) % 3)
    np.save(tmp_path / "numbers.npy", np.ones((4, 4, 4, 2), np.float32))
    np.save(tmp_path / "few.npy", np.arange(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "small", raising=False)
    return tmp_path


def numbers(capsys, *words):
    """What a command writes with ``--json -``."""
    assert main([*words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


SAYS = {  # arguments, what is said
    "lint finds": ("lint small.py:Up --input numbers.npy", "stride of a transposed convolution"),
    "lint finds nothing": ("lint small.py:Mlp --no-epsilons", "No finding."),
    "remedy": ("remedy small.py:Mlp --set width=32 --keep Dense_1/kernel", "sp.init.TruncatedNormal"),
    "attention": ("attention small.py:Text --input tokens --examples 2 --shape 8", "effective keys"),
    "measured attention": ("attention small.py:Text --input tokens --examples 2 --shape 8 --seeds 8", "s.e."),
    "adam": ("adam small.py:Mlp --examples 8 --batch-size 4", "warm-up"),
    "adam on squares": ("adam small.py:Mlp --loss mse --optimizer rmsprop", "rmsprop"),
    "adam, labels given": ("adam small.py:Mlp --input digits --targets labels.npy", "epsilon <="),
    "precision": ("precision small.py:Mlp --dtype int8 --dtype float16", "loss scale"),
    "forward precision": ("precision small.py:Mlp --dtype int8 --no-backward", "noise"),
    "kernel": ("kernel small.py:sized --set width=16", "Tangent kernel"),
    "kernel of tokens": ("kernel small.py:Text --input tokens --shape 4 --no-ntk", "4 x 4 x 4 x 4"),
    "rules": ("rules", "dot_general"),
    "rules of a model": ("rules small.py:Sorted", "none"),
    "doctor": ("doctor", "right"),
    "report with settings": ("report small.py:sized --set width=16 --seeds 8", "layers/2"),
}


@pytest.mark.parametrize("case", SAYS)
def test_commands_say(case, models, capsys):
    command, said = SAYS[case]
    assert main(command.split()) == 0
    assert said in capsys.readouterr().out


def test_strict_commands_tell_by_status(models):
    assert main(["lint", "small.py:Up", "--input", "numbers.npy", "--strict"]) == 1
    assert main(["rules", "small.py:Sorted", "--strict"]) == 1
    assert main(["rules", "small.py:Mlp", "--strict"]) == 0


def test_numbers_are_those_of_the_library(models, capsys):
    sys.path.insert(0, "")
    from small import Mlp

    from sigprop.inputs import load

    x = load("digits", 4, None, 64)
    net = sp.network(Mlp(), x)
    kernel = sp.infinite_kernel(net, "ntk")(x)
    found = numbers(capsys, *["kernel", "small.py:Mlp", "--parameterization", "ntk", "--out", "k.npz"])
    for name in ("nngp", "ntk"):
        np.testing.assert_allclose(found[name]["kernel"], getattr(kernel, name), rtol=1e-6)
        np.testing.assert_allclose(np.load("k.npz")[name], getattr(kernel, name), rtol=1e-6)
    assert found["ntk"]["condition_number"] == pytest.approx(float(sp.spectra.condition_number(kernel.ntk)), rel=1e-3)
    assert numbers(capsys, "remedy", "small.py:Mlp")["gains"] == pytest.approx(dict(sp.remedy(net, x).gains))
    assert numbers(capsys, "lint", "small.py:Mlp") == {"findings": [], "unchecked": ""}
    moments = numbers(capsys, *["adam", "small.py:Mlp", "--targets", "labels.npy"])
    assert moments["parameters"]["Dense_0/kernel"]["second_moment"] > 0 and moments["advice"]["learning_rate"] > 0


def test_gram_goes_to_disk_and_on(models, capsys):
    words = ["gram", "small.py:Mlp", "--examples", "24", "--tile", "8", "--out", "K.zarr"]
    assert numbers(capsys, *words) == {"path": "K.zarr", "shape": [24, 24], "kernels": ["nngp", "ntk"], "damaged": 0}
    assert main(words) == 0 and "24 x 24" in capsys.readouterr().out
    assert main([*words, "--parameterization", "ntk"]) == 2
    assert "another kernel" in capsys.readouterr().err


REFUSED = {
    "setting of nothing": ("lint small.py:sized --set width", "--set: 'width' is not of the form"),
    "unknown setting": ("lint small.py:sized --set widht=3", "did you mean 'width'?"),
    "mistyped model": ("lint small.py:Mpl", "did you mean 'Mlp'?"),
    "no attention": ("attention small.py:Mlp", "no softmax over tokens"),
    "loss": ("adam small.py:Mlp --loss crossentropy", "did you mean 'cross-entropy'?"),
    "no targets": ("adam small.py:Text --input tokens", "--targets: give the targets"),
    "few targets": ("adam small.py:Mlp --targets few.npy", "--targets: few.npy has shape (2,)"),
    "unreadable targets": ("adam small.py:Mlp --targets small.py", "--targets: small.py is not a readable"),
    "numbers as labels": ("adam small.py:Mlp --targets numbers.npy", "takes integer labels"),
    "optimizer": ("adam small.py:Mlp --optimizer sgd", "sgd"),
    "dtype": ("precision small.py:Mlp --dtype int7", "int7"),
    "scheme": ("precision small.py:Mlp --scheme best", "scheme"),
    "aim": ("remedy small.py:Mlp --aim best", "target"),
    "kept": ("remedy small.py:Mlp --keep nothing", "nothing"),
    "parameterization": ("kernel small.py:Mlp --parameterization mup", "mup"),
    "no folder": ("kernel small.py:Mlp --out absent/k.npz", "--out: there is no directory"),
    "gram without a place": ("gram small.py:Mlp", "--out"),
    "gram in no folder": ("gram small.py:Mlp --out absent/K.zarr", "--out: there is no directory"),
    "tile": ("gram small.py:Mlp --out K.zarr --tile 0", "tile"),
    "json in no folder": ("doctor --json absent/a.json", "--json: there is no directory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_commands_refuse_with_one_line(case, models, capsys):
    command, message = REFUSED[case]
    assert main(command.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("sigprop: ") and message in lines[0]
