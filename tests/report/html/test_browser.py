"""The page in a real browser: it works, complains of nothing, asks for nothing, fits a phone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxqat.report.html import Report, render
from tests.support.browser import Browser, Page, needs_chromium
from tests.support.reports import bare_report, full_report, hostile_report, large_report

pytestmark = needs_chromium

SHOWN = "[...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {"full": full_report(), "bare": bare_report(), "hostile": hostile_report()}
    return {name: written(folder / f"{name}.html", report) for name, report in reports.items()}


def written(path: Path, report: Report) -> Path:
    path.write_text(render(report), encoding="utf-8")
    return path


def column(page: Page, title: str) -> list[str]:
    """The shown cells of a column, from above."""
    return page.evaluate(f"""(() => {{
        const headers = [...document.querySelectorAll('#table thead th')];
        const place = headers.findIndex(cell => cell.textContent === '{title}');
        return {SHOWN}.map(row => row.cells[place].textContent);
    }})()""")


def click(page: Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")


def test_a_large_network_is_filtered_as_a_whole_and_shown_in_parts(browser, tmp_path):
    page_of_many = written(tmp_path / "large.html", large_report(3000))
    with browser.page(page_of_many) as page:
        assert page.evaluate(f"{SHOWN}.length") == 200
        click(page, "#more button")
        assert page.evaluate(f"{SHOWN}.length") == 400
        page.evaluate("document.getElementById('filter-text').focus()")
        page.type("layers.1499/")
        assert column(page, "node") == ["/model/layers.1499/MatMul", "/model/layers.1499/Relu"]
        assert page.evaluate("document.getElementById('strip').children.length") <= 480


def sort_by(page: Page, title: str) -> None:
    page.evaluate(
        "[...document.querySelectorAll('#table thead button')]"
        f".find(button => button.textContent === '{title}').click()"
    )


@pytest.mark.parametrize("name", ["full", "bare", "hostile"])
def test_the_browser_has_nothing_to_complain_of(browser, pages, name):
    with browser.page(pages[name]) as page:
        assert page.complaints() == []


@pytest.mark.parametrize("name", ["full", "bare", "hostile"])
def test_nothing_is_asked_for_but_the_page_itself(browser, pages, name):
    with browser.page(pages[name]) as page:
        assert [url for url in page.requests() if url != "data:,"] == [pages[name].as_uri()]


def test_names_with_markup_are_shown_and_never_run(browser, pages):
    with browser.page(pages["hostile"]) as page:
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("document.scripts.length") == 1
        assert "<script>window.pwned=1</script>" in page.evaluate("document.title")


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["full", "bare", "hostile"])
def test_the_page_never_scrolls_sideways(browser, pages, name, width):
    with browser.page(pages[name], width=width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_typing_leaves_the_rows_that_match_every_word(browser, pages):
    with browser.page(pages["full"]) as page:
        page.evaluate("document.getElementById('filter-text').focus()")
        page.type("conv stem")
        assert column(page, "node") == ["/stem/Conv"]
        assert page.evaluate("document.getElementById('count').value") == "1 of 8"


def test_the_selects_and_the_box_filter_too(browser, pages):
    with browser.page(pages["full"]) as page:
        page.evaluate("""(() => {
            const op = document.getElementById('filter-op');
            op.value = 'Relu';
            op.dispatchEvent(new Event('input', { bubbles: true }));
        })()""")
        assert column(page, "operator") == ["Relu", "Relu"]
        page.evaluate("document.getElementById('filter-op').value = ''")
        click(page, "#filter-heavy")
        assert column(page, "operator") == ["Conv", "Conv", "Gemm"]


def test_a_click_on_a_header_sorts_and_another_turns_the_order(browser, pages):
    with browser.page(pages["full"]) as page:
        before = [float(text.removesuffix(" dB")) for text in column(page, "SQNR, QAT")]
        sort_by(page, "SQNR, QAT")
        rising = [float(text.removesuffix(" dB")) for text in column(page, "SQNR, QAT")]
        sort_by(page, "SQNR, QAT")
        falling = [float(text.removesuffix(" dB")) for text in column(page, "SQNR, QAT")]
        assert rising == sorted(before) != before
        assert falling == sorted(before, reverse=True)
        assert page.evaluate("document.querySelectorAll('[aria-sort=descending]').length") == 1


def test_the_map_is_walked_by_keys_and_enter_finds_the_node_in_the_table(browser, pages):
    with browser.page(pages["full"]) as page:
        page.evaluate("document.getElementById('strip').focus()")
        for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
            page.press(key)
        assert "3 of 8: /inner/Conv" in page.evaluate(
            "document.getElementById('readout').textContent"
        )
        page.press("Enter")
        assert column(page, "node") == ["/inner/Conv"]


def test_a_link_to_a_reason_opens_the_list_of_reasons(browser, pages):
    with browser.page(pages["full"]) as page:
        assert not page.evaluate("document.querySelector('.reasons').open")
        click(page, "#table a.why")
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        assert page.evaluate("document.querySelector('.reasons').open")


def test_every_control_can_be_reached_and_has_a_name(browser, pages):
    with browser.page(pages["full"]) as page:
        nameless = page.evaluate("""
            [...document.querySelectorAll('a, button, input, select, [tabindex]')].filter(one =>
                !(one.textContent.trim() || one.ariaLabel || one.labels?.length)).length""")
        assert nameless == 0
        stops = page.evaluate("[...document.querySelectorAll('[tabindex]')].map(e => e.tabIndex)")
        assert set(stops) == {0}


def test_without_script_everything_is_shown_and_dead_controls_are_not(browser, pages):
    with browser.page(pages["full"], script=False) as page:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
        assert page.evaluate(f"{SHOWN}.length") == 8
        style = "getComputedStyle(document.getElementById('filters'))"
        assert page.evaluate(f"{style}.display") == "none"


def brightness(page: Page) -> float:
    image = Image.open(io.BytesIO(page.screenshot())).convert("L")
    return float(np.asarray(image).mean())


def test_the_page_is_light_or_dark_as_the_reader_likes_it(browser, pages):
    with browser.page(pages["full"], scheme="light") as page:
        assert brightness(page) > 200
    with browser.page(pages["full"], scheme="dark") as page:
        assert brightness(page) < 60


def contrast_below(page: Page, least: float) -> list[str]:
    """Texts whose contrast with what lies behind them is below a ratio, by WCAG 2.1's formula."""
    return page.evaluate(f"""(() => {{
        const canvas = document.createElement('canvas').getContext('2d');
        const rgba = colour => {{
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        }};
        const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const luminance = colour => {{
            const [r, g, b] = rgba(colour).map(value => linear(value / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }};
        const behind = element => {{
            for (let one = element; one; one = one.parentElement) {{
                const colour = getComputedStyle(one).backgroundColor;
                if (rgba(colour)[3] > 250) return colour;
            }}
            return 'white';
        }};
        const found = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {{
            const element = walker.currentNode.parentElement;
            const text = walker.currentNode.textContent.trim();
            if (!text || element.closest('script, svg, [hidden], .skip, .sr')) continue;
            const pair = [getComputedStyle(element).color, behind(element)].map(luminance).sort();
            const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            if (ratio < {least}) found.push(`${{ratio.toFixed(2)}} ${{text.slice(0, 40)}}`);
        }}
        return found;
    }})()""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(browser, pages, scheme):
    """4.5 is what WCAG 2.1 asks of text of normal size (AA)."""
    with browser.page(pages["full"], scheme=scheme) as page:
        assert contrast_below(page, 4.5) == []
        assert contrast_below(page, 22), "no contrast is above 21, so all texts are looked at"


def test_the_page_prints_with_what_is_folded_away_on_the_screen(browser, pages):
    with browser.page(pages["full"]) as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")
        assert page.pdf().startswith(b"%PDF")
