"""Panels of detailed reports against closed forms; the page in a real browser; the table on narrow terminals."""

import io
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from scipy.special import erf, ndtr

import sigprop as sp

X = np.random.default_rng(0).standard_normal((3, 20))
X = (X / np.sqrt(np.mean(X**2, 1, keepdims=True))).astype(np.float32)  # E[z²] = 1 in a first layer of variance 1/20
SOME = ("histograms", "attention", "adam", "precision")
NAME = "<img src=x onerror=alert(1)> & 'co'"


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(16, kernel_init=nn.initializers.normal(0.01))(x))


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(Inner(name="second")(Inner(name="first")(x)))


def bare(*layers):
    return sp.network(nn.Sequential(list(layers)), X)


@pytest.fixture(scope="module")
def report():
    return sp.report(sp.network(Outer(), X), X, seeds=8, details=SOME, name=NAME)


@pytest.fixture(scope="module")
def linear():
    """One layer ``z = W x``: everything is known."""
    net = bare(nn.Dense(64, use_bias=False, kernel_init=nn.initializers.lecun_normal()), nn.relu)
    return sp.report(net, X, seeds=8, details=True, loss=lambda out: jnp.sum(out))


def test_histograms_are_those_of_a_gaussian_and_of_its_positive_part(linear):
    data = linear.panels["histograms"]
    for node, law in (("layers_0", ndtr), ("relu", lambda t: np.where(t >= 0, ndtr(t), 0))):
        one = data.sel(node=node)
        expected = np.diff(law(one.edge.values))
        np.testing.assert_allclose(one.predicted, expected, atol=2e-4)
        assert abs(one.measured - expected).sum() / 2 < 0.1  # 0.05 for 1536 independent entries in 42 bins, 0.09 for a third of them
    assert float(data.predicted.sel(node="relu").max()) > 0.5 and (data.predicted.sum("bin") > 0.99).all()


def test_number_formats_are_those_of_a_gaussian(linear):
    one = linear.panels["precision"].sel(node="layers_0")
    assert float(one.sqnr.sel(format="int8")) == pytest.approx(40.5, abs=0.05)  # Max 1960
    assert float(one.lost.sel(format="float16")) == pytest.approx(erf(2.0**-14 / 2**0.5), rel=1e-2)


def arcs():
    """Inner products of the inputs, P(z > 0, z' > 0) of pairs of them, and their angles."""
    gram = X.astype(float) @ X.T.astype(float)
    size = np.sqrt(np.diag(gram))
    angle = np.arccos(np.clip(gram / np.outer(size, size), -1, 1))
    return gram, (np.pi - angle) / (2 * np.pi), angle


def test_adam_panel_is_that_of_the_loss(linear):
    """dL/dW_ij is the sum over examples of x_i 1[z_j > 0]."""
    gram, both, _ = arcs()
    found = float(linear.panels["adam"].rms_gradient.sel(parameter="layers_0/kernel")) ** 2
    assert found == pytest.approx(np.sum(gram * both) / X.shape[1], rel=1e-4)
    assert linear.panels["adam"].attrs["loss"] == "the given loss"


def test_spectrum_is_that_of_the_arc_cosine_kernels(linear):
    """Cho & Saul 2009, for units ``max(w x, 0)`` of weights of variance 1/20; the tangent kernel is that of weights of variance 1."""
    found = linear.panels["spectrum"]
    gram, both, angle = arcs()
    size = np.sqrt(np.diag(gram))
    nngp = np.outer(size, size) * np.sin(angle) / (2 * np.pi) + gram * both
    for name, kernel in (("NNGP", nngp / X.shape[1]), ("NTK", gram * both)):
        np.testing.assert_allclose(found.predicted.sel(kernel=name), np.linalg.eigvalsh(kernel)[::-1], rtol=1e-5)
    assert (abs(found.measured - found.predicted) <= 4 * found.measured_stderr).all()


@pytest.mark.slow
def test_attention_panel_is_drawn():
    tokens = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    net = sp.network(nn.MultiHeadDotProductAttention(num_heads=2), tokens)
    found = sp.report(net, tokens, seeds=8, backward=False, details=["attention"])
    assert found.panels["attention"].sizes["layer"] == 1 and "attention entropy by head and query" in found._repr_html_()


def test_panels_that_cannot_be_had_say_why():
    net = sp.network(lambda params, x: (x @ params["w"]).sum(0), X, init=lambda key: {"w": jax.random.normal(key, (20, 8))})
    found = sp.report(net, X, seeds=8, backward=False, details=["adam"])
    assert "axis 0 must hold" in found.panels["adam"].attrs["reason"] and "Not to be had" in found._repr_html_()


@pytest.mark.parametrize(("options", "message"), [
    ({"details": ["adams"]}, "details: 'adams' given; True, False, or some of histograms, attention, adam, precision, spectrum"),
    ({"details": 3}, "details: 3 given"), ({"y": X}, "y: targets given without a loss; give loss="),
    ({"loss": 1.0, "details": True}, "loss: float given; it is a function"), ({"loss": jnp.sum}, "loss: .* add details=True"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(sp.InvalidInput, match=message):
        sp.report(bare(nn.Dense(4)), X, seeds=8, **options)


def test_panels_survive_json(report, tmp_path):
    report.to_json(tmp_path / "report.json")
    again = sp.Report.from_json(tmp_path / "report.json")
    assert list(again.panels) == [name for name in SOME if name != "attention"]  # the model has none
    assert again._repr_html_() == report._repr_html_()


def test_table_fits_a_narrow_terminal_without_colour(report):
    stream = io.StringIO()
    Console(file=stream, width=80, color_system=None, force_terminal=True).print(report)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text and "measured ± s.e." not in text
    for entry in ("Dense_0", "first", "second", "ratio", "dies", "dying:", "remedy:"):
        assert entry in text
    assert "measured ± s.e." in str(report)


# the page, as a browser has it

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright: pip install playwright")
    with api.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        try:
            made = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium could be started ({', '.join(NAMES)} on the path, or playwright's own): {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture
def opened(browser, report, tmp_path):
    """``opened(width, html)``: the page, and what it said: errors, dialogs and requests to elsewhere."""
    def opening(width, html=None):
        path = tmp_path / "page.html"
        if html is None:
            report.to_html(path)
        else:
            path.write_text(html, encoding="utf-8")
        page, said = browser.new_page(viewport={"width": width, "height": 900}), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
        page.goto(path.as_uri())
        return page, said

    return opening


def column(page, name, table=".layers"):
    """Texts of the rows of layers, in the order that is shown."""
    heads = page.locator(f"{table} >> nth=0").locator("th").all_inner_texts()
    k = [re.sub(r" [▲▼]", "", h) for h in heads].index(name)
    cells = page.locator(f"{table} >> nth=0").locator("tbody tr:not(.module)").all()
    return [row.locator("td").nth(k).inner_text() for row in cells if row.is_visible()]


def test_page_stays_within_the_screen_and_shows_everything(opened, report):
    for width in (1280, 400):
        page, said = opened(width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width and said == []
        assert page.locator("h1").inner_text() == f"{NAME}: signal at initialization"
        images = page.locator("img").evaluate_all("all => all.map(i => i.complete && i.naturalWidth)")
        assert len(images) == 2 and all(images)  # curves, histograms
        assert page.locator("section").count() == len(report.panels) and page.locator(".problem").count() == len(report.problems)
        assert page.screenshot(full_page=True)[:4] == b"\x89PNG"


def test_layers_sort_and_return_to_the_tree(opened):
    page, said = opened(1280)
    order = column(page, "module")
    head = page.locator(".layers th.predicted button")
    for direction, sign in (("descending", -1), ("ascending", 1)):
        head.click()
        values = [float(v) for v in column(page, "predicted")]
        assert values == sorted(values, key=lambda v: sign * v) and len(values) == len(order)
        assert page.locator(".layers th.predicted").get_attribute("aria-sort") == direction
    assert "first/Dense_0" in column(page, "module") and not page.locator(".layers tr.module").first.is_visible()
    page.locator(".layers th.module button").click()
    assert column(page, "module") == order and page.locator(".layers tr.module").first.is_visible() and said == []


def test_modules_fold(opened):
    page, _ = opened(1280)
    whole = len(column(page, "module"))
    button = page.locator(".layers tr.module button").first
    button.click()
    assert len(column(page, "module")) == whole - 2 and button.get_attribute("aria-expanded") == "false"
    button.press("Enter")
    assert len(column(page, "module")) == whole


def test_two_reports_in_a_notebook_sort_once(opened, report):
    page, said = opened(1280, report._repr_html_() * 2)
    page.locator(".layers >> nth=0").locator("th.predicted button").click()
    assert page.locator(".layers >> nth=0").locator("th.predicted").get_attribute("aria-sort") == "descending"
    assert page.locator(".layers >> nth=1").locator("th.predicted").get_attribute("aria-sort") == "none" and said == []
