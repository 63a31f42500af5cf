"""The text pages of the site: all are written, and links lead from one to the other."""

import re

import site_pages


def test_text_pages_are_written_and_linked(tmp_path):
    pages = site_pages.text_pages(tmp_path)
    assert [name for name, *_ in pages] == [*site_pages.PAGES.values()] and all(len(title) > 4 for _, title, _ in pages)
    later = {"index.html"}  # written with the notebooks
    for name, *_ in pages:
        text = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        for link in re.findall(r"(?:href|src)=[\"']?([^\"'>\s]+)", text):
            assert link.startswith(("https:", "#")) or link in later or (tmp_path / link.partition("#")[0]).exists(), (name, link)
    readme = (tmp_path / "readme.html").read_text(encoding="utf-8")
    assert "href=\"guide.html\"" in readme and "<table>" in readme and (tmp_path / "figure.png").exists()
