"""Figures from stored numbers: of all studies and the classic ones, and that the classic ones measure what they predict."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sigprop import figures
from sigprop.cli import main
from sigprop.studies.frame import agrees, slope

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


@pytest.mark.slow
def test_recomputed_and_redrawn(tmp_path):
    folder = tmp_path / "pointwise_conv"
    folder.mkdir()
    figures.recomputed(folder, "quick", tmp_path / "work")
    assert [p.name for p in folder.iterdir()] == ["data.nc"] and not [*(tmp_path / "work").iterdir()]
    first, second = (figures.redrawn(folder, tmp_path / out)[0].read_bytes() for out in ("first", "second"))
    assert first == second


@pytest.mark.slow
def test_classic_figures_measure_what_they_predict():
    """Equivalence within margins for finite width, false pass 1e-3; powers of the width within 0.1."""
    for name in figures.CLASSICS:
        module = figures.named(name)
        found = module.compute(module.PRESETS["quick"])
        if name == "phase_diagram":
            assert (np.interp(found.measured, found.cut, found.xi_gradient) * found.scale > 0).all()
            predicted = np.interp(found.measured, found.cut, 1 / found.xi_gradient)
            assert agrees(name, predicted, 1 / found.scale, found.scale_stderr / found.scale**2, 0.6).passed
        elif name == "ntk_convergence":
            for _, one in found.groupby("depth", squeeze=True):
                one = one.squeeze()
                power, error = slope(np.log(one.width), np.log(one.distance), one.stderr / one.distance)
                assert abs(power + 0.5) < 0.1 + 4 * error
        else:
            assert agrees(name, found.predicted, found.measured, found.stderr, 0.9).passed
        assert module.draw(found).axes
