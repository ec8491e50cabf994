"""The audit's page as a person uses it: loaded from a file, filtered, reviewed by keyboard, exported and read back."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageStat
from support_audit import annotate_corpus, make_image, make_record, picture_corpus, write_run
from support_chromium import Browser
from tagmoe.annotate.audit.build import Inputs, audit
from tagmoe.annotate.audit.gold import Gold, GoldRecord, write_gold
from tagmoe.schema import Reject
from tagmoe.schema.configs.audit import AuditConfig
from tagmoe.schema.report import Report, load_report

pytestmark = pytest.mark.browser
CONFIG = AuditConfig(second_readings=0, bootstrap=100)
ATTACK = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e gnp.exe \x07 \u200b"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    corpus = picture_corpus(root / "corpus", 8, instructions=["remove the dog", ATTACK, "x" * 50_000])
    run = annotate_corpus(corpus, root / "run", probs={"local editing": 0.55})
    gold = [GoldRecord(corpus="corpus", id=f"p{i}", tags=("local editing", "object editing")) for i in range(4)]
    write_gold(root / "gold.jsonl", gold)
    audit(Inputs(run=run, gold=root / "gold.jsonl", against=run), root / "report", config=CONFIG, quiet=True)
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    (downloads := tmp_path_factory.mktemp("downloads")).mkdir(exist_ok=True)
    opened = Browser(tmp_path_factory.mktemp("profile"), downloads=downloads)
    opened.downloads = downloads
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser, folder: Path) -> Browser:
    browser.screen(1360, 900)
    browser.open(folder / "report/report.html")
    browser.run("localStorage.clear()")
    browser.open(folder / "report/report.html")
    return browser


def text(page: Browser, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).innerText")


def shown_rows(page: Browser) -> list[int]:
    return page.run("[...document.querySelectorAll('#cards .card')].map((card) => Number(card.dataset.row))")


def test_the_page_loads_from_a_file_without_error_or_request(page: Browser, folder: Path):
    report = load_report(folder / "report")
    assert page.problems() == []
    assert "owned" not in page.run("document.title")
    assert page.run("document.images.length") > 0
    page.wait(lambda: page.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)"))
    assert "8 of 8 records" in text(page, "#summary")
    sections = page.run("[...document.querySelectorAll('main > section')].map((node) => node.id)")
    assert sections == [
        "summary",
        "look",
        "tags",
        "rules",
        "gold",
        "drift",
        "plan",
        "duplicates",
        "pictures",
        "coverage",
        "gate",
        "about",
    ]
    assert text(page, "#gate-pill") == ("gate passed" if report.gate.passed else "gate failed")
    assert page.problems() == []


def test_records_are_texts_whatever_they_say(page: Browser):
    page.run("show({ text: 'onerror' })")
    assert len(shown_rows(page)) == 1
    assert "<img src=x onerror=" in text(page, "#cards .text")
    assert page.run("document.querySelectorAll('#cards .text img, #cards .text script').length") == 0
    assert page.run("[...document.querySelectorAll('#cards .ctl')].map((node) => node.title)") == [
        "U+202E",
        "U+0007",
        "U+200B",
    ]
    assert "owned" not in page.run("document.title")
    page.run("openReview(1)")
    assert "owned" not in page.run("document.title")
    assert page.problems() == []


def test_even_a_mistake_in_escaping_could_not_run_or_load(page: Browser):
    page.run(
        "document.body.insertAdjacentHTML('beforeend', `<img id='bad' src='file:///etc/hostname' onerror=\"document.title='owned'\">`)"
    )
    page.run(
        "{ const s = document.createElement('script'); s.textContent = \"document.title='owned'\"; document.body.append(s) }"
    )
    page.wait(lambda: any("Content Security Policy" in problem for problem in page.problems()))
    assert "owned" not in page.run("document.title")


def test_filters_narrow_the_records(page: Browser):
    assert len(shown_rows(page)) == 8
    page.run("document.querySelector('#by-text').focus()")
    for letter in "dog":
        page.press(letter)
    assert shown_rows(page) == [0]
    page.run("show({ text: '' })")
    page.run("document.querySelector('[data-queue=foreign_target]').click()")
    places = page.run("[...document.querySelectorAll('#cards .why')].map((node) => node.innerText.split(' ')[0])")
    assert places == [f"#{place}" for place in range(1, 9)]
    page.run("{ const s = document.querySelector('#by-tag'); s.value = '8'; s.dispatchEvent(new Event('change')) }")
    assert shown_rows(page) == []
    assert "No record" in text(page, "#cards")
    assert page.problems() == []


def test_a_bar_leads_to_its_records(page: Browser):
    page.run(
        "[...document.querySelectorAll('#tags button.bar')].find((bar) => bar.innerText.startsWith('attribute')).click()"
    )
    assert page.run("document.querySelector('#by-tag').value") == "7"
    assert len(shown_rows(page)) == 8


def test_keyboard_review_exports_gold_that_the_audit_reads(page: Browser, folder: Path):
    before = {path.name for path in page.downloads.iterdir()}
    page.run("show({ queue: 'random' })")
    rows = shown_rows(page)
    page.press("r")
    assert page.run("document.getElementById('review').open")
    for key in ("t", "1", "2"):  # object editing on, attribute editing off
        page.press(key)
    page.press("Enter")
    page.press("m")
    page.press("Enter")
    page.press("s")
    page.press("2")  # global editing replaces local editing
    page.press("p")
    page.press("5", shift=True)  # style preservation is disputed
    page.press("Enter")
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert f"row {rows[1]}" in text(page, "#review .bar-top")
    page.press("Escape", code="Escape")
    page.run("document.getElementById('review').close()")
    assert text(page, "#export") == "Export 3 verdicts"
    page.run("document.getElementById('export').click()")
    page.wait(lambda: any(p.suffix == ".jsonl" and p.name not in before for p in page.downloads.iterdir()))
    page.wait(
        lambda: any(
            e.get("method") == "Browser.downloadProgress" and e["params"]["state"] == "completed" for e in page.events
        )
    )
    exported = next(p for p in page.downloads.iterdir() if p.suffix == ".jsonl" and p.name not in before)
    first, second, third = Gold.load(exported).records
    usual = {"local editing", "background preservation", "identity preservation", "style preservation"}
    assert set(first.tags) == usual | {"object editing"}
    assert first.mismatch is None
    assert second.mismatch == "marked in review"
    assert set(third.tags) == (usual | {"global editing", "attribute editing"}) - {
        "local editing",
        "style preservation",
    }
    assert third.disputed == ("style preservation",)
    report: Report = audit(Inputs(run=folder / "run", gold=exported), folder / "again", config=CONFIG, quiet=True)
    assert report.gold is not None
    assert (report.gold.records, report.gold.unmatched, report.gold.mismatches) == (3, 0, 1)
    assert page.problems() == []


def test_verdicts_survive_a_reload_and_can_be_taken_back(page: Browser, folder: Path):
    page.press("r")
    page.press("Enter")
    page.open(folder / "report/report.html")
    assert text(page, "#export") == "Export 1 verdict"
    page.run("show({ open: true })")
    assert len(shown_rows(page)) == 7
    page.run("show({ open: false })")
    page.press("r")
    page.press("x")
    assert text(page, "#export") == "Export 0 verdicts"


def test_a_mismatch_can_be_explained_in_words(page: Browser):
    page.press("r")
    page.press("m")
    page.run("document.querySelector('#mismatch-why').focus()")
    for letter in "no dog":
        page.press(letter, code="Space" if letter == " " else None)
    page.press("Enter")
    assert page.run("[...VERDICTS.values()][0].mismatch") == "no dog"


@pytest.mark.parametrize(("width", "height", "mobile"), [(1360, 900, False), (390, 844, True), (320, 568, True)])
def test_nothing_is_wider_than_the_screen(page: Browser, folder: Path, width: int, height: int, mobile: bool):
    page.screen(width, height, mobile=mobile)
    page.open(folder / "report/report.html")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(
        "[...document.querySelectorAll('.bar .num')].every((node) => node.scrollWidth <= node.clientWidth + 1)"
    )
    page.run("openReview(2)")
    box = page.run(
        "(() => { const r = document.getElementById('review').getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom] })()"
    )
    assert box[0] >= -0.5
    assert box[1] <= width + 0.5
    assert box[2] >= -0.5
    assert box[3] <= height + 0.5
    assert page.problems() == []


def test_both_themes_are_drawn_and_readable(page: Browser, folder: Path, tmp_path: Path):
    lightness = {}
    for dark in (False, True):
        page.screen(1360, 900, dark=dark)
        page.run("localStorage.clear()")
        page.open(folder / "report/report.html")
        picture = Image.open(io.BytesIO(page.screenshot(tmp_path / f"{dark}.png"))).convert("L")
        lightness[dark] = ImageStat.Stat(picture).median[0]
        worst = page.run(CONTRAST)
        assert worst[0] >= 4.5, worst
    assert lightness[False] > 200
    assert lightness[True] < 60


CONTRAST = """(() => {
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
  const ground = (node) => { for (; node; node = node.parentElement) { const c = getComputedStyle(node).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c } return "rgb(255, 255, 255)" };
  let worst = [99, ""];
  for (const node of document.querySelectorAll("h2, h3, p, td, th, .tag, .pill, .k, .s, .n, .foot span, .why, .note, .toc a, button, .name, .num")) {
    if (!node.innerText || !node.offsetParent) continue;
    const a = light(getComputedStyle(node).color), b = light(ground(node));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, node.className + ": " + node.innerText.slice(0, 40) + getComputedStyle(node).color + ground(node)];
  }
  return worst;
})()"""


def test_hostile_names_break_neither_the_page_nor_a_phone(browser: Browser, tmp_path: Path):
    """Ids, splits, corpus names, warnings, rejects and file names, not only instructions."""
    names = [f"{ATTACK} {i} " + "w" * 300 for i in range(6)]
    images = [(make_image("source", uri=f"{name}.png"), make_image("target", key=name, uri=name)) for name in names]
    records = [
        make_record(i, id=name, corpus=name, extra={"split": f"\u202e{i % 2}<b>"}, images=shown, instruction=name * 2)
        for i, (name, shown) in enumerate(zip(names, images, strict=True))
    ]
    reject = Reject(row=9, id=names[0], stage="decode", reason="not_an_image", detail=names[1])
    run = write_run(tmp_path / "run", records, [reject], corpus=picture_corpus(tmp_path / "corpus", 1))
    audit(Inputs(run=run), tmp_path / "report", config=CONFIG, quiet=True)
    for width in (1360, 390):
        browser.screen(width, 844, mobile=width < 500)
        browser.open(tmp_path / "report/report.html")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert "owned" not in browser.run("document.title")
        assert not set("\u202e\u200b\x07") & set(browser.run("document.body.innerText"))
        assert "12 cannot be read" in text(browser, "#pictures")
        browser.run("openReview(0)")
        assert not set("\u202e\u200b\x07") & set(browser.run("document.body.innerText"))
        assert browser.run("document.querySelectorAll('main img[src=x], main script, dialog script').length") == 0
        assert browser.problems() == []


def test_a_large_audit_opens_in_two_seconds(browser: Browser, tmp_path: Path):
    """3,000 records, the page's full 600 cards, 320 of them with pictures as large as real ones."""
    corpus = picture_corpus(tmp_path / "corpus", 1)
    record = make_record(0)
    run = write_run(
        tmp_path / "run",
        [record.model_copy(update={"row": i, "id": f"r{i}", "uid": f"{i:032x}"}) for i in range(3000)],
        corpus=corpus,
    )
    audit(Inputs(run=run), tmp_path / "report", config=CONFIG, quiet=True)
    page = tmp_path / "report/report.html"
    noise = Image.effect_noise((288, 288), 60).convert("RGB")
    stream = io.BytesIO()
    noise.save(stream, "JPEG", quality=72)
    uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    blocks = "".join(
        f'<script type="application/json" id="p{i}">{json.dumps({"source": uri, "target": uri, "mask": uri})}</script>\n'
        for i in range(320)
    )
    page.write_text(
        page.read_text("utf-8").replace("</script>\n\n<script>", f"</script>\n{blocks}<script>", 1), "utf-8"
    )
    assert page.stat().st_size > 10_000_000
    browser.screen(1360, 900)
    seconds = min(browser.open(page) for _ in range(3))
    assert browser.run("document.querySelectorAll('.card').length") == 24
    assert browser.run(
        "[...document.querySelectorAll('.bar .num')].every((node) => node.scrollWidth <= node.clientWidth + 1)"
    )
    assert seconds < 2.0
    assert browser.problems() == []
