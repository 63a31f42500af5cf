"""Spectra, ranks and distances of kernels against closed forms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp
from sigprop import spectra

DIAGONAL = np.diag([4.0, 2.0, 1.0, 1.0])
ONES = np.ones((4, 4))
ZERO = np.zeros((4, 4))
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
TURNED = BASIS @ DIAGONAL @ BASIS.T
SINGULAR = BASIS @ np.diag([3.0, 1.0, 0.0, 0.0]) @ BASIS.T
ENTROPY = 2 ** (0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)  # of shares 1/2, 1/4, 1/8, 1/8
POINTS = np.random.default_rng(1).standard_normal((4, 3))
CENTRED = POINTS - POINTS.mean(0)
ONE = {  # function, kernel, value
    "spectrum": (spectra.spectrum, TURNED, [4, 2, 1, 1]),
    "spectrum of a singular kernel": (spectra.spectrum, SINGULAR, [3, 1, 0, 0]),
    "condition number": (spectra.condition_number, TURNED, 4),
    "condition number of a singular kernel": (spectra.condition_number, SINGULAR, np.inf),
    "condition number of zero": (spectra.condition_number, ZERO, np.inf),
    "effective rank": (spectra.effective_rank, TURNED, ENTROPY),
    "effective rank of equal eigenvalues": (spectra.effective_rank, np.eye(4), 4),
    "effective rank of one direction": (spectra.effective_rank, ONES, 1),
    "effective rank of zero": (spectra.effective_rank, ZERO, 0),
    "participation ratio": (spectra.participation_ratio, TURNED, 64 / 22),
    "participation ratio of tiny numbers": (spectra.participation_ratio, 1e-30 * TURNED, 64 / 22),
    "participation ratio of zero": (spectra.participation_ratio, ZERO, 0),
    "rank": (spectra.rank, TURNED, 4),
    "rank of a singular kernel": (spectra.rank, SINGULAR, 2),
    "rank of zero": (spectra.rank, ZERO, 0),
    "rank of ones": (spectra.rank, ONES, 1),
    "trace": (spectra.trace, TURNED, 8),
    "psd": (spectra.is_psd, SINGULAR, True),
    "not psd": (spectra.is_psd, np.diag([1.0, -0.1]), False),
    "sites": (spectra.spectrum, TURNED.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3), [4, 2, 1, 1]),
}
TWO = {
    "alignment with itself": (spectra.alignment, TURNED, 3 * TURNED, 1),
    "alignment": (spectra.alignment, DIAGONAL, ONES, 8 / (22**0.5 * 4)),
    "alignment with zero": (spectra.alignment, DIAGONAL, ZERO, 0),
    "centred alignment": (spectra.centred_alignment, POINTS @ POINTS.T, CENTRED @ CENTRED.T, 1),
    "centred alignment with a constant": (spectra.centred_alignment, np.eye(4), ZERO + 1.0, 0),
    "distance": (spectra.relative_distance, 1.5 * TURNED, TURNED, 0.5),
    "distance from zero": (spectra.relative_distance, TURNED, ZERO, np.inf),
    "distance of zeros": (spectra.relative_distance, ZERO, ZERO, 0),
    "CKA distance": (spectra.cka_distance, 2 * POINTS @ POINTS.T + 3, POINTS @ POINTS.T, 0),
}
BAD = {
    "asymmetric": (lambda: spectra.spectrum(np.array([[1.0, 2.0], [0.0, 1.0]])), r"entries \(0, 1\) and \(1, 0\) are 2 and 0"),
    "rectangular": (lambda: spectra.rank(np.ones((2, 3))), r"kernel: shape \(2, 3\) is not square"),
    "vector": (lambda: spectra.rank(np.ones(3)), r"kernel: shape \(3,\) is not square"),
    "sites that differ": (lambda: spectra.rank(np.ones((2, 2, 3, 4))), "is not square"),
    "NaN": (lambda: spectra.trace(np.full((2, 2), np.nan)), "kernel: has NaN"),
    "integers": (lambda: spectra.trace(np.ones((2, 2), int)), "kernel: dtype int32; a kernel has floating entries"),
    "empty": (lambda: spectra.trace(np.ones((0, 0))), r"kernel: shape \(0, 0\) is empty"),
    "two sizes": (lambda: spectra.alignment(np.eye(2), np.eye(3)), "second: a kernel of 3 inputs, the first of 2"),
    "second asymmetric": (lambda: spectra.alignment(np.eye(2), np.array([[1.0, 2.0], [0.0, 1.0]])), "second: not symmetric"),
    "singular": (lambda: spectra.check_regular(SINGULAR), "kernel: singular, its rank is 2 of 4; drop inputs that repeat"),
    "indefinite": (lambda: spectra.check_psd(np.diag([1.0, -0.5])), "not positive semidefinite, its eigenvalues go from -0.5 to 1"),
}


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_value(name, kind):
    function, *kernels, value = {**ONE, **TWO}[name]
    tolerance = {"float32": 5e-6, "float64": 1e-13}[kind]
    with jax.enable_x64(kind == "float64"):
        arrays = [jnp.asarray(k, kind) for k in kernels]
        found = function(*arrays)
        traced = jax.jit(function)(*arrays)
        mapped = jax.vmap(function)(*(jnp.stack([a, a]) for a in arrays))
    assert not jnp.issubdtype(found.dtype, jnp.floating) or found.dtype == kind
    for result in (found, traced, mapped[1]):
        np.testing.assert_allclose(result, value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", BAD)
def test_bad_kernel_is_named(name):
    run, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        run()


def test_repeated_inputs_make_a_kernel_of_known_rank():
    """Infinite and empirical NTK of four inputs given twice: of rank four, and no NaN anywhere."""
    model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(3)])
    x = np.tile(np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32), (2, 1))
    net = sp.network(model, x)
    for kernel in (sp.infinite_kernel(net)(x).ntk, sp.empirical_kernel(net)(net.init(jax.random.key(0)), x).ntk):
        assert spectra.rank(kernel) == 4 and spectra.condition_number(kernel) == np.inf and spectra.is_psd(kernel)
        assert 1 < spectra.effective_rank(kernel) < 4 and np.isfinite(spectra.spectrum(kernel)).all()
        with pytest.raises(sp.InvalidInput, match="its rank is 4 of 8"):
            spectra.check_regular(kernel)


def test_good_kernel_passes_and_tolerance_is_kept():
    spectra.check_psd(SINGULAR.astype(np.float32))
    spectra.check_regular(TURNED.astype(np.float32))
    assert spectra.rank(np.diag([1.0, 1e-3]), tolerance=1e-2) == 1
    assert spectra.is_psd(np.diag([1.0, -1e-3]), tolerance=1e-2)
