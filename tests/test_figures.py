"""Figures from stored numbers: of all studies and the classic ones, and that the classic ones measure what they predict."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sigprop import figures
from sigprop.cli import main
from sigprop.studies.frame import agrees, slope, written

FOLDERS = Path(__file__).resolve().parents[1] / "paper_figures"
STORED = sorted(place.parent.name for place in FOLDERS.glob("*/data.nc"))


def test_there_is_a_folder_for_every_figure():
    assert sorted(p.name for p in FOLDERS.iterdir()) == sorted(figures.NAMES)
    for name in figures.NAMES:
        module = figures.named(name)
        assert {"Config", "PRESETS", "compute", "draw"} <= {*module.__all__} and {*module.PRESETS} == {"quick", "paper"}
        assert (FOLDERS / name / "run.py").is_file() and (FOLDERS / name / "draw.py").is_file()


@pytest.mark.parametrize("name", STORED)
def test_stored_numbers_are_small_and_say_where_they_come_from(name):
    place = FOLDERS / name / "data.nc"
    found = xr.load_dataset(place, engine="scipy")
    assert place.stat().st_size < 200_000
    assert found.attrs["study"] == name and found.attrs["preset"] == "paper" and {"config", "seed", "jax", "device"} <= {*found.attrs}
    assert json.loads(found.attrs["config"]) == json.loads(written(figures.named(name).PRESETS["paper"]))  # as it is stated now
    assert "/" not in str({k: v for k, v in found.attrs.items() if k in ("device", "machine", "config")})  # no path of a machine


@pytest.mark.parametrize("name", sorted({*STORED} - {*figures.CLASSICS}))
def test_claims_hold_of_stored_numbers(name):
    claims = figures.named(name).claims(xr.load_dataset(FOLDERS / name / "data.nc", engine="scipy"))
    assert not [str(claim) for claim in claims if not claim.passed]


@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_stored_numbers_are_drawn(name, tmp_path):
    assert main(["figures", name, "--data", str(FOLDERS), "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.pdf", f"{name}.png"}


BAD = {
    "there is no figure 'phase'; did you mean 'phase_diagram'": ["phase"],
    "there is no directory nowhere": ["--data", "nowhere"],
    "pointwise_conv: no numbers in": ["pointwise_conv", "--data", "."],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message, tmp_path, capsys):
    assert main(["figures", *BAD[message], "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_numbers_of_another_version_are_refused(tmp_path, capsys):
    folder = tmp_path / "weight_norm"
    folder.mkdir()
    found = xr.load_dataset(FOLDERS / "weight_norm" / "data.nc", engine="scipy")
    config = {**json.loads(found.attrs["config"]), "slant": 1.0}
    del config["depth"]
    found.assign_attrs(config=json.dumps(config)).to_netcdf(folder / "data.nc", engine="scipy")
    assert main(["figures", "weight_norm", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "another version of sigprop: its config has ['slant'] and lacks ['depth']" in capsys.readouterr().err


@pytest.mark.slow
def test_recomputed_and_redrawn(tmp_path):
    folder = tmp_path / "pointwise_conv"
    folder.mkdir()
    figures.recomputed(folder, "quick", tmp_path / "work")
    assert [p.name for p in folder.iterdir()] == ["data.nc"] and not [*(tmp_path / "work").iterdir()]
    first, second = (figures.redrawn(folder, tmp_path / out)[0].read_bytes() for out in ("first", "second"))
    assert first == second


CLASSICS = {
    "phase_diagram": lambda f: agrees("ln chi_1 of networks", np.interp(f.measured, f.cut, 1 / f.xi_gradient), 1 / f.scale,
                                      f.scale_stderr / f.scale**2, 0.3),
    "ntk_convergence": lambda f: agrees("power of the width", -0.5, *farthest_power(f), 0.4),
    "learning_paths": lambda f: agrees("errors", f.predicted, f.measured, f.stderr, 0.25),
}


def farthest_power(found):
    """The power of the width, and its standard error, at the depth where it is farthest from -1/2."""
    powers = [slope(np.log(found.width), np.log(one.distance), one.stderr / one.distance)
              for one in (found.sel(depth=depth) for depth in found.depth)]
    return max(powers, key=lambda power: abs(power[0] + 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.CLASSICS)
def test_classic_figures_measure_what_they_predict(name):
    """Equivalence within margins that finite width needs; false pass 1e-3."""
    module = figures.named(name)
    found = module.compute(module.PRESETS["quick"])
    claim = CLASSICS[name](found)
    assert claim.passed, str(claim)
    assert module.draw(found).axes
