"""The page as text: complete, escaped, self-contained, the same each time."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from onnxqat.core.summary import Gain
from onnxqat.report.html import Report, figures, render
from tests.support.reports import HOSTILE, bare_report, full_report, hostile_report, large_report

VOID = {"meta", "link", "input", "br", "img", "wbr"}


@pytest.fixture(scope="module")
def full() -> str:
    return render(full_report())


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_the_same_report_gives_the_same_bytes(full):
    assert render(full_report()) == full


def test_every_section_is_there_and_reached_from_the_top(full):
    assert sections(full) == [
        "summary", "map", "layers", "quantizers", "mix", "training", "findings", "provenance",
    ]  # fmt: skip
    assert re.findall(r'<a href="#(\w+)">', full) == sections(full)


def test_what_was_not_measured_is_left_out_or_said():
    page = render(bare_report())
    assert sections(page) == ["map", "layers", "findings"]
    assert "was not audited" in page
    assert "Nothing was compiled" in page


def test_what_a_budget_left_in_float_is_told_with_its_curve(full):
    section = full.partition('<section id="mix"')[2].partition("</section>")[0]
    assert "The budget is 20 dB" in section
    assert "87.5 % of the bytes" in section
    assert re.search(r"<td>/block/Conv</td>.*<td>float</td>.*43.8 %.*12.5 %", section)
    assert ("<svg" in section) == figures.can_draw()


def test_a_node_without_a_measured_error_has_a_dash():
    report = full_report()
    inner = {name: replace(found, layers=()) for name, found in report.inner_errors.items()}
    page = render(replace(report, inner_errors=inner))
    assert '<td class="num">–</td>' in page


@pytest.mark.parametrize("name", ["/layer1/conv_2.weight", "__a//b", "plain", "x::y/", "."])
def test_a_name_is_shown_whole_with_places_to_end_a_line(name):
    page = render(replace(bare_report(), title=name))
    shown = re.search(r'<h1><code class="name">(.*?)</code>', page)
    assert shown is not None
    assert shown[1].replace("<wbr>", "") == name


def test_a_clean_audit_says_so():
    assert "nothing to object" in render(replace(full_report(), findings=()))


def test_the_budget_is_judged_line_by_line(full):
    verdict = full[full.index('class="verdict bad"') :]
    assert "✗ Budget missed" in verdict
    assert "top1 may drop by 1 points; it rose by 0.20" in verdict
    assert "SQNR at least 35.0 dB; it is 29.8 dB" in verdict


def test_a_share_says_how_sure_it_is(full):
    assert "91.7 % <small>89.8–93.3</small>" in full  # 917 of 1000, by Wilson's formula
    assert "89.8–93.3 %, 95 % sure" in full


def test_a_change_says_how_sure_it_is_by_the_same_samples(full):
    """9 of 1000 lost and 11 gained, by Agresti and Min's formula."""
    tile = full[full.index("top1 against FP32") :]
    assert "+0.2 points" in tile[:400]
    assert "−0.7 to +1.1" in tile[:400]


def test_a_change_from_fp32_whose_interval_holds_no_0_is_no_chance(full):
    report = full_report()
    assert report.summary is not None
    rows = report.summary.rows
    control = replace(rows[2], name="CONTROL")

    def told(interval: tuple[float, float]) -> bool:
        row = replace(control, metric_change_interval=interval)
        gain = Gain("CONTROL", "FP32", 0.02, None)
        summary = replace(report.summary, rows=(*rows, row), gains=(gain,))
        return "may be chance" in render(replace(report, summary=summary))

    assert told((-0.01, 0.05))
    assert not told((0.01, 0.03))


def test_a_gain_says_whether_it_may_be_chance(full):
    gains = re.findall(r"<li>((?:PTQ|FP32) → .*?)</li>", full)
    overlap = '<span class="muted">(may be chance)</span>'
    assert gains == [
        f"PTQ → QAT: top1 +0.8 points, SQNR −1.5 dB {overlap}",
        "FP32 → CONTROL: not measured",
    ]


def test_a_gain_beyond_both_intervals_is_no_chance(full):
    report = full_report()
    assert report.summary is not None
    rows = (report.summary.rows[1], replace(report.summary.rows[2], metric_interval=(0.95, 0.98)))
    page = render(replace(report, summary=replace(report.summary, rows=rows)))
    assert "<li>PTQ → QAT: top1 +0.8 points, SQNR −1.5 dB</li>" in page


def test_without_samples_no_share_says_how_sure_it_is():
    report = full_report()
    assert report.summary is not None
    rows = tuple(
        replace(row, metric_interval=None, agreement_interval=None, metric_change_interval=None)
        for row in report.summary.rows
    )
    page = render(replace(report, summary=replace(report.summary, rows=rows)))
    assert "<small>" not in page
    assert "95 %" not in page


@pytest.mark.parametrize("needle", [HOSTILE, "<script>window", "<img", "onerror=window.pwned=2>"])
def test_nothing_that_a_file_says_becomes_markup(needle):
    assert needle not in render(hostile_report())


def test_the_page_refers_to_nothing_outside_itself(full):
    attributes = re.findall(r'(?:src|href|action|data)="(?!#|data:,)[^"]*"', full)
    styles = re.findall(r"@import|url\((?!#)", full)
    assert (attributes, styles) == ([], [])
    assert "default-src 'none'" in full


class Structure(HTMLParser):
    """Collects ids and references, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            for reference in re.findall(r"url\(#([^)]+)\)|^#(.+)$", value or ""):
                self.references.append("".join(reference))
            if name in ("aria-labelledby", "aria-activedescendant"):
                self.references.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("report", [full_report, bare_report, hostile_report])
def test_elements_nest_ids_are_unique_and_references_lead_somewhere(report):
    structure = Structure()
    structure.feed(render(report()))
    structure.close()
    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))
    assert set(structure.references) <= set(structure.ids)


def without_matplotlib(monkeypatch: pytest.MonkeyPatch, report: Report) -> str:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    return render(report)


def test_without_matplotlib_figures_are_left_out_and_the_reason_is_given(monkeypatch):
    page = without_matplotlib(monkeypatch, full_report())
    assert "pip install &#39;onnxqat[report]&#39;" in page
    assert "clip point" in page
    assert "viewBox" not in page[page.index('id="quantizers"') : page.index('id="findings"')]


def test_a_page_is_small(full):
    assert len(full.encode()) < 150_000


def test_a_network_of_ten_thousand_nodes_is_rendered_in_seconds():
    """It takes 4 s and 6 MB; the limits only catch work that grows with the square."""
    report = large_report(10_000)
    start = time.process_time()
    page = render(report)
    assert time.process_time() - start < 30
    assert len(page.encode()) < 10_000_000
