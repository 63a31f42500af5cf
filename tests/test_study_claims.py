"""The frame of the studies: claims, configs, the command, and that a wrong init fails the right line."""

import json

import numpy as np
import pytest
import xarray as xr

import sigprop as sp
from sigprop.cli import main
from sigprop.studies import results
from sigprop.studies.frame import above, agrees, averaged, changed, drawn, near, same, slope

SMALL = ["--set", "channels=(16, 64)", "--set", "others=()", "--set", "seeds=512"]


@pytest.mark.parametrize(("claim", "passed"), [
    (same("x", 1, 1.01, 0.02), True), (same("x", 1, 1.03, 0.02), False), (same("x", 0, 0, 0), True), (same("x", 1, np.nan, 1), False),
    (above("x", 1, 1.5, 0.1), True), (above("x", 1, 1.2, 0.1), False), (above("x", 1, np.nan, 0), False),
    (near("x", 0, 0.1, 0.1, 0.5), True), (near("x", 0, 0.3, 0.1, 0.5), False), (near("x", 0, np.nan, 0, 0.5), False),
    (agrees("x", [1, 2], [1.02, 2.0], [0.01, 0.01], 0.1), True), (agrees("x", [1, 2], [1.2, 2.0], [0.01, 0.01], 0.1), False),
    (agrees("too noisy to tell", [1, 2], [1, 2], [0.01, 0.1], 0.1), False), (agrees("x", [1, 2], [1, np.nan], [0, 0], 0.1), False),
])
def test_claims(claim, passed):
    assert claim.passed is passed and str(claim).startswith("PASS" if passed else "FAIL")


def test_claims_of_equality_pass_falsely_as_rarely_as_they_say(draws=4000):
    """At a discrepancy as large as the margin: 1e-3 of 4,000 draws, within five standard errors."""
    rng = np.random.default_rng(0)
    false = sum(agrees("x", 1.0, 1.1 + 0.02 * e, 0.02, 0.1).passed for e in rng.standard_normal(draws))
    assert abs(false - 1e-3 * draws) < 5 * (1e-3 * draws) ** 0.5


def test_means_of_few_draws_keep_the_error_rate(draws=4000):
    """Of four normal draws with mean 0: 1e-3 of 4,000 are said to be above 0, within five standard errors."""
    rng = np.random.default_rng(0)
    false = sum(above("x", 0, *averaged(rng.standard_normal(4))).passed for _ in range(draws))
    assert abs(false - 1e-3 * draws) < 5 * (1e-3 * draws) ** 0.5


def test_slopes():
    rng, x = np.random.default_rng(0), np.arange(5.0)
    found = np.array([slope(x, 2 * x + 1 + rng.standard_normal(5) * [1, 2, 1, 2, 1], [1, 2, 1, 2, 1]) for _ in range(2000)])
    assert abs(found[:, 0].mean() - 2) < 5 * found[0, 1] / 2000**0.5 and found[:, 0].std() == pytest.approx(found[0, 1], rel=0.08)


@pytest.mark.parametrize("name", results.NAMES)
def test_presets(name):
    module = results.named(name)
    assert {"quick", "paper"} == {*module.PRESETS} and module.PRESETS["quick"] == module.Config()
    assert all(f in module.Config.__doc__ or f in ("seeds", "seed") for f in module.Config.__dataclass_fields__)
    with pytest.raises(sp.InvalidInput, match="seeds: 4 given"):
        changed(module.Config(), {"seeds": 4})


def test_a_failing_point_of_a_study_is_an_error(tmp_path):
    with pytest.raises(sp.SigpropError, match="name: 1 of 2 points failed; ZeroDivisionError"):
        drawn({"k": [0, 1]}, lambda k: 1 / k, tmp_path, "name", {}, static=["k"])


def test_the_command(tmp_path, capsys):
    """He passes and is stored with where it comes from; it is read again, and refused for another config or version."""
    arguments = ["study", "pointwise_conv", *SMALL, "--out", str(tmp_path)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("PASS") and "expected" in line and "±" in line for line in lines)
    stored = xr.load_dataset(tmp_path / "pointwise_conv.nc", engine="scipy")
    assert json.loads(stored.attrs["config"])["channels"] == [16, 64] and {"sigprop", "jax", "device", "seed"} <= {*stored.attrs}
    assert (tmp_path / "pointwise_conv.pdf").stat().st_size > 1000
    assert main([*arguments, "--resume"]) == 0 and capsys.readouterr().out.splitlines() == lines
    assert main([*arguments, "--resume", "--set", "seed=1"]) == 2 and "has another config: seed=0, not 1" in capsys.readouterr().err
    stored.assign_attrs(sigprop="0.0.1").to_netcdf(tmp_path / "pointwise_conv.nc", engine="scipy")
    assert main([*arguments, "--resume"]) == 2 and "is of sigprop 0.0.1, this is" in capsys.readouterr().err


@pytest.mark.slow
def test_points_are_computed_by_a_cluster(tmp_path, capsys):
    """The same claims, to the last digit."""
    from distributed import LocalCluster

    assert main(["study", "pointwise_conv", *SMALL]) == 0
    here = capsys.readouterr().out
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        assert main(["study", "pointwise_conv", *SMALL, "--executor", address, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == here


BAD = {
    "--executor: 'localhost' is not of the form dask://HOST:PORT": ["pointwise_conv", "--executor", "localhost"],
    "--executor: no scheduler answers at 127.0.0.1:9": ["pointwise_conv", "--executor", "dask://127.0.0.1:9"],
    "there is no study 'pointwise'; did you mean 'pointwise_conv'": ["pointwise"],
    "there is no field 'chanels'; did you mean 'channels'": ["pointwise_conv", "--set", "chanels=3"],
    "--set: channels is 'many'; it must be of type int": ["pointwise_conv", "--set", "channels=many"],
    "--set: 'channels' is not of the form name=value": ["pointwise_conv", "--set", "channels"],
    "--preset: 'papr' is none of quick, paper; did you mean 'paper'": ["pointwise_conv", "--preset", "papr"],
    "--resume: there is nothing to go on with": ["pointwise_conv", "--resume"],
    "there is no field 'channels'": ["all", "--set", "channels=3"],
    "init: 'kaiming' is none of": ["depthwise_conv", "--set", "seeds=8", "--set", "init=kaiming"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message, capsys):
    assert main(["study", *BAD[message]]) == 2
    assert message in capsys.readouterr().err


WRONG = {  # study: a config under which the lines that begin so fail
    "pointwise_conv": ({"init": "xavier", "others": ()}, ["xavier: E[z²] of the second layer over"]),
    "depthwise_conv": ({"init": "xavier"}, ["E[z²] in the middle"]),
    "transposed_conv": ({"init": "xavier"}, ["k = 3, s = 2: mean E[z²]"]),
    "weight_norm": ({"gain": 1.0}, ["g = 1: E[z²] of the last layer"]),
    "attention_entropy": ({"init": "xavier"}, ["xavier: variance of the logits", "measured entropy under xavier less"]),
    "deep_autoencoder": ({"init": "xavier"}, ["xavier: log10 of E[z²] of the last", "xavier: log10 of E[g²]", "xavier: share of the"]),
    "densenet_bn": ({"init": "lecun"}, ["lecun, no norm: E[z²] of each new", "lecun, statistics of the batch: E[z²]"]),
    "resnet_zero_gamma": ({"gamma": 0.5}, ["gamma: E[z²] of the", "gamma: largest E[g²]"]),
    "edge_of_chaos": ({"critical": 2.0}, ["chi_1 at sigma_w² = 2"]),
    "finite_width": ({"init": "xavier"}, ["width 32: E[Q] over"]),
    "batchnorm_explosion": ({"growth": 1.3}, ["relu, large batches"]),
    "sparse_lottery": ({"correction": "none", "rounds": 1, "fraction": 0.05},
                       ["random, 50% kept, corr", "digits, 95.0% kept: accuracy of tickets less that with other weights"]),
    "int8_quantization": ({"sigma": 1.1, "steps": 1}, ["gaussian, int8: clip", "digits: accuracy before"]),
    "fp16_subnormals": ({"dtype": "bfloat16"}, ["10 layers: low end"]),
    "adam_second_moment": ({"assumed": "xavier"}, ["xavier: measured over predicted E[g²]",
                                                         "xavier: measured over predicted first update over"]),
    "rank_collapse": ({"kept": 0.9}, ["uniform, alpha"]),
    "ntk_init": ({"first": "xavier", "second": "he"}, ["1 hidden layers: NTK diagonal of he"]),
    "pinn_derivatives": ({"third": 0.5, "units": 2}, ["tanh, 1 hidden layers: E[u_tt u_xx]", "wave: 1 + (loss under"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", results.NAMES)
def test_quick_presets_pass(name, tmp_path):
    module, config = results.named(name), results.configured(name, "quick", {})
    found = results.carried_out(name, config, tmp_path)
    assert not [str(claim) for claim in module.claims(found) if not claim.passed]
    assert module.draw(found).axes


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_wrong_configs_fail_the_right_line(name):
    values, lines = WRONG[name]
    module = results.named(name)
    failed = [claim.name for claim in module.claims(module.compute(results.configured(name, "quick", values))) if not claim.passed]
    assert all(any(one.startswith(line) for one in failed) for line in lines), failed
