"""The page at `/` in a real browser: what it shows is what the model says, for whoever types, tabs or looks."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from page_server import FEW_WORDS, LONGEST_SOURCE, MOST_TOKENS, Served
from playwright.sync_api import Locator, Page, Route, expect

from encdec_eqx.text import constrain_to_texts

LOOKS = Path(__file__).with_name("looks.js").read_text(encoding="utf-8")
WORD = "encoder"
Visit = Callable[..., Page]

LEAST_CONTRAST = 4.5
"""Of text against what is behind it: WCAG 2, level AA."""


def look(page: Page, name: str) -> Any:
    """What a function of `looks.js` finds on a page."""
    return page.evaluate(f"{LOOKS}.{name}()")


def search(page: Page, name: str) -> None:
    page.locator("#searches").get_by_text(name, exact=True).click()


def several(page: Page) -> None:
    """Beam search with three outputs."""
    search(page, "beams")
    page.locator("[name=num_return_sequences]").fill("3")


def generate(page: Page, text: str = WORD) -> None:
    """Type, generate, and wait for the output and its alignment."""
    page.locator("#source").fill(text)
    page.keyboard.press("Control+Enter")
    expect(page.locator("body:not(.busy) #alignment:not(.stale) canvas")).to_be_visible()


def texts(page: Page) -> list[str]:
    return page.locator("#written .text").all_text_contents()


def ask(served: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The server's own answer, past the page."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{served.url}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def refuse(status: int, message: str, kind: str = "ValueError") -> Callable[[Route], None]:
    body = json.dumps({"error": {"type": kind, "message": message}})
    return lambda route: route.fulfill(status=status, content_type="application/json", body=body)


# ---- what is generated


def test_tokens_come_one_by_one_and_make_what_the_model_says(visit: Visit, served: Served):
    page = visit()
    look(page, "watch")
    with served.slowed(0.03):
        generate(page)
    said = served.speaker(WORD, max_new_tokens=MOST_TOKENS)
    seen = page.evaluate("window.seen")
    shown = list(dict.fromkeys(text for text, _ in seen if text))
    assert len(shown) > 3 and shown[-1] == said and all(said.startswith(text) for text in shown)
    counts = [tokens for _, tokens in seen]
    assert counts == sorted(counts) and set(range(len(said.split()))) <= set(counts)
    assert texts(page) == [said]
    expect(page.locator("#status")).to_have_text(re.compile(rf"^{len(said.split())} tokens in "))


@pytest.mark.parametrize(
    ("name", "typed", "options"),
    [
        ("beams", {}, {"num_beams": 4}),
        ("beams", {"length_penalty": "3"}, {"num_beams": 4, "length_penalty": 3.0}),
        ("greedy", {"max_new_tokens": "3"}, {"max_new_tokens": 3}),
        (
            "sampling",
            {"temperature": "2", "seed": "7"},
            {"do_sample": True, "temperature": 2.0, "key": jax.random.key(7)},
        ),
        ("beams", {"num_return_sequences": "3"}, {"num_beams": 4, "num_return_sequences": 3}),
    ],
)
def test_every_search_says_what_it_says_in_python(visit, served, name, typed, options):
    page = visit()
    search(page, name)
    for option, value in typed.items():
        page.locator(f"[name={option}]").fill(value)
    generate(page)
    found = served.speaker.generate([WORD], **{"max_new_tokens": MOST_TOKENS, **options})
    assert texts(page) == found.texts[0]
    scores = re.findall(r"score (\S+)", page.locator("#written").inner_text())
    assert [score.replace("\N{MINUS SIGN}", "-") for score in scores] == [f"{score:.3f}" for score in found.scores[0]]
    if name == "greedy":
        expect(page.locator("#written .note")).to_contain_text("cut at the most new tokens")


@pytest.mark.parametrize(("name", "options"), [("greedy", {}), ("beams", {"num_beams": 4})])
def test_a_constraint_holds(visit, served, name, options):
    page = visit()
    search(page, name)
    generate(page)
    free = texts(page)
    page.locator("[name=constraint]").select_option("few words")
    generate(page)
    constraint = constrain_to_texts(served.speaker, FEW_WORDS)
    bound = [served.speaker(WORD, constraint=constraint, max_new_tokens=MOST_TOKENS, **options)]
    assert texts(page) == bound != free and bound[0] in FEW_WORDS


def test_a_drawn_seed_is_told(visit, served):
    page = visit()
    search(page, "sampling")
    generate(page)
    seed = re.search(r"seed (\d+)", page.locator("#status").inner_text())
    assert seed is not None
    again = served.speaker.generate(
        [WORD], do_sample=True, max_new_tokens=MOST_TOKENS, key=jax.random.key(int(seed[1]))
    )
    assert texts(page) == again.texts[0]


def test_the_curl_command_is_the_request(visit, served):
    page = visit()
    search(page, "beams")
    page.locator("#source").fill("o'clock")
    with page.expect_request("**/generate") as sent:
        page.locator("#generate").click()
    shown = page.locator("#curl").text_content() or ""
    assert f"{served.url}/generate" in shown
    assert json.loads(shown.split("-d '", 1)[1][:-1].replace("'\\''", "'")) == sent.value.post_data_json


@pytest.mark.parametrize("by", ["keys", "button"])
def test_stop_keeps_what_has_come(visit, served, by):
    page = visit()
    with served.slowed(0.15):
        page.locator("#source").fill("incomprehensibilities")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#written .tokens li").nth(2)).to_be_visible()
        expect(page.locator("#stop")).to_be_visible()
        if by == "keys":
            page.keyboard.press("Escape")
        else:
            page.locator("#stop").click()
        expect(page.locator("#status")).to_have_text(re.compile(r"^Stopped after \d+ tokens$"))
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#source")).to_be_focused()
    whole = served.speaker("incomprehensibilities", max_new_tokens=MOST_TOKENS)
    [part] = texts(page)
    assert whole.startswith(part) and 3 <= len(part.split()) < len(whole.split())
    expect(page.locator("#alignment:not(.stale) canvas")).to_be_visible()


def test_a_search_that_does_not_stream_is_stopped_too(visit, served):
    page = visit()
    search(page, "beams")
    with served.held():
        page.locator("#source").fill(WORD)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#status")).to_have_text("Generating")
        page.keyboard.press("Escape")
        expect(page.locator("#status")).to_have_text("Stopped")
        expect(page.locator("#output")).to_be_hidden()
    generate(page)


def test_what_is_typed_is_in_the_address(visit, served):
    page = visit()
    search(page, "sampling")
    page.locator("[name=seed]").fill("3")
    generate(page, "o'clock & co")
    before = texts(page)
    page = visit(address="#" + page.url.split("#")[1])
    expect(page.locator("#source")).to_have_value("o'clock & co")
    expect(page.locator("[name=seed]")).to_have_value("3")
    page.locator("#generate").click()
    expect(page.locator("body:not(.busy) #alignment:not(.stale) canvas")).to_be_visible()
    assert texts(page) == before


def test_text_is_never_markup(visit):
    said = "<img src=x onerror=alert(1)>"
    page = visit()
    drawn = {"source_tokens": [said], "target_tokens": [said], "weights": [[1.0]]}
    _answered(page, {"generated_text": said, "tokens": [said]}, drawn)
    generate(page)
    assert texts(page) == [said] and not page.locator("main img").count()


# ---- the alignment


@pytest.mark.parametrize(("layer", "head"), [(None, None), (0, None), (1, 2)])
def test_the_alignment_shows_the_servers_numbers(visit, served, layer, head):
    page = visit(height=1400)
    generate(page)
    for select, number in (("layer", layer), ("head", head)):
        if number is not None:
            with page.expect_response("**/alignment"):
                page.locator(f"#{select}").select_option(str(number))
    expect(page.locator("#alignment:not(.stale) canvas")).to_be_visible()
    body = {"source": WORD, "target": served.speaker(WORD, max_new_tokens=MOST_TOKENS), "layer": layer, "head": head}
    told = ask(served, "alignment", body)
    weights = np.asarray(told["weights"])
    assert page.locator("#map .columns span").all_text_contents() == told["source_tokens"]
    assert page.locator("#map .rows span").all_text_contents() == told["target_tokens"]
    assert page.locator("#layer option").all_text_contents() == ["mean", *map(str, range(told["layers"]))]
    assert page.locator("#head option").all_text_contents() == ["mean", *map(str, range(told["heads"]))]

    # the words: under the pointer, by the keys and in the table
    box = page.locator("#map .plot").bounding_box()
    assert box is not None
    height, width = box["height"] / weights.shape[0], box["width"] / weights.shape[1]
    for row, column in ((0, 0), (2, 1), (weights.shape[0] - 1, weights.shape[1] - 1)):
        page.mouse.move(box["x"] + (column + 0.5) * width, box["y"] + (row + 0.5) * height)
        words = f"{told['target_tokens'][row]} looked at {told['source_tokens'][column]} {weights[row, column]:.3f}"
        expect(page.locator("#readout")).to_have_text(words)
    listed = [row.split("\t") for row in page.locator("#strongest tr").all_inner_texts()]
    best = weights.argmax(axis=1)
    assert [row[1] for row in listed] == [told["source_tokens"][at] for at in best]
    assert [row[2] for row in listed] == [f"{weight:.3f}" for weight in weights.max(axis=1)]

    # the colours: the larger the weight, the darker the cell
    shades = np.asarray(look(page, "cells")).sum(axis=-1)
    order = np.argsort(weights, axis=None)
    assert shades.shape == weights.shape and (np.diff(shades.ravel()[order]) <= 1).all()
    assert np.ptp(shades) > 300


def test_another_output_has_its_own_alignment(visit, served):
    page = visit()
    several(page)
    generate(page)
    buttons = page.locator("#written button")
    with page.expect_request("**/alignment") as sent:
        buttons.nth(1).click()
    assert sent.value.post_data_json["target"] == texts(page)[1]
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(buttons.nth(1)).to_be_focused()
    expect(page.locator("#alignment:not(.stale) canvas")).to_be_visible()
    assert page.locator("#map .rows span").all_text_contents()[:-1] == texts(page)[1].split()


def _answered(page: Page, output: dict[str, Any], alignment: dict[str, Any]) -> None:
    """Has beam search answer with these."""
    search(page, "beams")
    outputs = [{"score": None, "finish_reason": "eos", **output}]
    page.route("**/generate", lambda route: route.fulfill(json={"outputs": [outputs]}))
    page.route("**/alignment", lambda route: route.fulfill(json={"layers": 1, "heads": 1, **alignment}))


def test_tokens_are_shown_as_people_read_them(visit):
    page = visit()
    raw = ["\u0120caf", "\u00c3\u00a9", "\u0120au"]
    drawn = {"source_tokens": ["a"], "target_tokens": ["caf", "é", "au", "</s>"], "weights": [[1.0]] * 4}
    _answered(page, {"generated_text": "café au", "tokens": raw}, drawn)
    generate(page)
    tokens = page.locator("#written .tokens li")
    assert tokens.all_text_contents() == ["caf", "é", "au"]
    page.locator("#map .rows span").nth(1).hover()
    expect(tokens.nth(1)).to_have_class("on")


def test_tokens_that_the_alignment_has_otherwise_are_not_taken_for_its_rows(visit):
    page = visit()
    drawn = {"source_tokens": ["a"], "target_tokens": ["the", "error", "</s>"], "weights": [[1.0]] * 3}
    _answered(page, {"generated_text": "the error", "tokens": ["▁the", "▁er", "r", "or"]}, drawn)
    generate(page)
    tokens = page.locator("#written .tokens li")
    assert tokens.all_text_contents() == ["the", "er", "r", "or"]
    tokens.nth(1).hover()
    expect(page.locator("#map .rows .on")).to_have_count(0)
    page.locator("#map .rows span").nth(1).hover()
    expect(page.locator("#map .rows .on")).to_have_count(1)
    expect(page.locator("#written .tokens .on")).to_have_count(0)


def test_an_alignment_that_comes_too_late_is_not_shown(visit):
    page = visit()
    late: list[Route] = []
    page.route("**/alignment", lambda route: route.continue_() if late else late.append(route))
    page.locator("#source").fill(WORD)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#alignment.stale")).to_be_visible()
    generate(page, "other")
    late[0].fulfill(json=_made_up(5))
    page.wait_for_timeout(100)
    assert page.locator("#map .columns span").all_text_contents() == [*"other", "[END]"]


def test_a_pointed_token_shows_all_that_it_looked_at(visit):
    page = visit()
    generate(page)
    page.locator("#written .tokens li").nth(1).hover()
    expect(page.locator("#map .rows .on")).to_have_count(1)
    expect(page.locator("#readout")).to_contain_text("looked most at")


def _made_up(size: int) -> dict[str, Any]:
    words = ["extraordinarily", "the", "##s", "internationalisation", ".", "fox", "quick", "river"]
    tokens = [words[at % len(words)] for at in range(size)]
    weights = np.random.default_rng(0).dirichlet(np.full(size, 0.1), size)
    return {"source_tokens": tokens, "target_tokens": tokens, "layers": 1, "heads": 1, "weights": weights.tolist()}


@pytest.mark.parametrize("size", [40, 200])
def test_large_alignments_can_be_read(visit, screenshots, size):
    page = visit()
    page.route("**/alignment", lambda route: route.fulfill(json=_made_up(size)))
    generate(page)
    label = page.locator("#map .columns span").first
    assert float(label.evaluate("each => getComputedStyle(each).fontSize").removesuffix("px")) >= 12
    pitch = page.locator("#map .plot").evaluate("each => each.clientWidth") / size
    assert pitch >= 18
    frame = page.locator("#map")
    hidden = frame.evaluate("each => [each.scrollWidth - each.clientWidth, each.scrollHeight - each.clientHeight]")
    assert hidden == [0, 0] if size == 40 else min(hidden) > 1000
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # to the last cell by keys: it is seen, and so are its labels
    frame.focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("End")
    expect(page.locator("#map .columns span").last).to_have_class("on")
    outer = frame.bounding_box()
    for part in (
        page.locator("#map .cursor"),
        page.locator("#map .columns span").last,
        page.locator("#map .rows span").last,
    ):
        box = part.bounding_box()
        assert box is not None and outer is not None
        assert outer["x"] <= box["x"] + 1 and box["x"] + box["width"] <= outer["x"] + outer["width"] + 1
        assert outer["y"] <= box["y"] + 1 and box["y"] + box["height"] <= outer["y"] + outer["height"] + 1
    page.screenshot(path=screenshots / f"alignment-{size}.png", full_page=True)


# ---- errors


def test_a_source_that_is_too_long_is_refused_beside_it(visit, served):
    page = visit(refusals=(413,))
    long = "a" * LONGEST_SOURCE + "b"
    page.locator("#source").fill(long)
    page.keyboard.press("Control+Enter")
    told = ask(served, "generate", {"inputs": long})["error"]["message"]
    assert "tokens long" in told
    _is_said(page.locator("#source"), page.locator("#source-error"), told)
    page.locator("#source").fill(WORD)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#source-error")).to_be_empty()
    expect(page.locator("#source")).not_to_have_attribute("aria-invalid", "true")


def _is_said(field: Locator, place: Locator, words: str) -> None:
    expect(place).to_have_text(words)
    expect(place).to_be_visible()
    expect(place).to_have_attribute("role", "alert")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    described = field.get_attribute("aria-describedby") or ""
    assert place.get_attribute("id") in described.split()


@pytest.mark.parametrize(
    ("name", "option", "value"), [("sampling", "temperature", 0), ("greedy", "max_new_tokens", MOST_TOKENS + 1)]
)
def test_a_wrong_option_is_refused_beside_it(visit, served, name, option, value):
    page = visit(refusals=(400, 413))
    search(page, name)
    page.locator(f"[name={option}]").fill(str(value))
    page.locator("#source").fill(WORD)
    page.keyboard.press("Control+Enter")
    fixed = {"do_sample": True} if name == "sampling" else {}
    told = ask(served, "generate", {"inputs": WORD, "parameters": {**fixed, option: value}})["error"]["message"]
    _is_said(page.locator(f"[name={option}]"), page.locator(f"#p-{option}-error"), told)


def test_a_full_queue_is_told_and_tried_again(visit, served):
    page = visit(refusals=(429,))
    page.locator("#source").fill(WORD)
    batcher = served.server.batcher
    others = [threading.Thread(target=ask, args=(served, "generate", {"inputs": "other"})) for _ in range(2)]
    with served.held():
        others[0].start()
        _wait_for(lambda: batcher.running() == 1)
        others[1].start()
        _wait_for(lambda: batcher.waiting() == 1)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#error")).to_contain_text("the queue is full: 1 sources wait. Try again in ")
        expect(page.locator("#error")).to_be_visible()
    for other in others:
        other.join()
    generate(page)
    expect(page.locator("#error")).to_be_empty()


def _wait_for(met: Callable[[], bool]) -> None:
    for _ in range(1000):
        if met():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_an_error_in_a_stream_is_told(visit):
    page = visit(refusals=())
    events = 'event: token\r\ndata: {"token": "EH", "text": "EH"}\r\n\r\nevent: error\r\ndata: {"error": '
    events += '{"type": "TimeoutError", "message": "took too long"}}\r\n\r\n'
    page.route("**/generate", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    page.locator("#source").fill(WORD)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#error")).to_have_text("took too long")
    assert texts(page) == ["EH"]


def test_a_server_that_is_gone_is_told(browser, served):
    page = browser.new_page()
    page.goto(served.url)
    page.locator("#source").fill(WORD)
    page.route("**/generate", lambda route: route.abort())
    page.keyboard.press("Control+Enter")
    expect(page.locator("#error")).to_have_text("The server does not answer. Is it still running?")
    page.close()


def test_a_server_without_an_answer_is_told(browser, served):
    page = browser.new_page()
    page.route("**/info", lambda route: route.abort())
    page.goto(served.url)
    expect(page.locator("#error")).to_have_text("The server does not answer. Is it still running?")
    page.locator("#generate").click()
    assert page.url == served.url + "/"
    page.close()


def test_the_warm_up_is_told_and_waited_for(visit):
    asked: list[int] = []

    def warming(route: Route) -> None:
        asked.append(1)
        route.continue_() if len(asked) > 1 else route.fulfill(status=503, json={"status": "warming up"})

    page = visit(refusals=(503,), before=lambda page: page.route("**/health", warming))
    expect(page.locator("#status")).to_contain_text("warming up")
    expect(page.locator("#status")).to_be_empty()
    generate(page)


# ---- keys and readers


def test_everything_is_done_by_keys(visit, served):
    page = visit()
    expect(page.locator("#source")).to_be_focused()
    page.keyboard.type(WORD)
    order = []
    focused = "[document.activeElement].map(at => at.id || at.name || at.tagName)[0]"
    while page.keyboard.press("Tab") or page.evaluate(focused) != "BODY":
        order.append(page.evaluate(focused))
        ring = page.evaluate(
            "(() => { const at = document.activeElement; const seen = at.type === 'radio' ? at.nextElementSibling : at;"
            " return getComputedStyle(seen).outlineStyle; })()"
        )
        assert ring in ("solid", "auto"), order
    assert order[:2] == ["generate", "search"] and "p-max_new_tokens" in order

    page.locator("#generate").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[name=seed]")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[name=length_penalty]")).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(page.locator("body:not(.busy) #alignment:not(.stale) canvas")).to_be_visible()
    assert texts(page) == [served.speaker(WORD, num_beams=4, max_new_tokens=MOST_TOKENS)]

    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "map":
            break
    first = page.locator("#readout").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert re.match(r"\S+ looked at n 0\.\d{3}$", page.locator("#readout").inner_text())
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    expect(page.locator("#readout")).to_have_text(first)
    for _ in range(30):
        page.keyboard.press("ArrowUp")  # stays at the edge
    expect(page.locator("#readout")).to_have_text(first)
    page.keyboard.press("Tab")
    expect(page.locator("#map")).not_to_be_focused()


def test_everything_has_a_name_for_those_who_listen(visit):
    page = visit()
    several(page)
    generate(page)
    page.locator("summary").first.click()
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "spinbutton", "combobox", "radio", "link", "region", "application", "image")
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles
    ]
    assert {"button", "textbox", "spinbutton", "combobox", "radio", "application", "image"} <= {
        role for role, _ in found
    }
    assert [role for role, name in found if not name] == []
    for place in ("#written", "#readout"):
        expect(page.locator(place)).to_have_attribute("aria-live", "polite")
    expect(page.locator("#status")).to_have_attribute("role", "status")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1


def test_reduced_motion_holds_still(visit, served):
    page = visit(reduced_motion="reduce")
    generate(page)
    moving = (
        "[...document.querySelectorAll('*')].filter(each => getComputedStyle(each).animationName !== 'none').length"
    )
    with served.slowed(0.2):
        page.keyboard.press("Control+Enter")
        expect(page.locator("body.busy #written .tokens li").nth(1)).to_be_visible()
        assert page.evaluate(moving) == 0
        page.keyboard.press("Escape")
    expect(page.locator("body:not(.busy)")).to_be_visible()


# ---- looks


def test_the_scheme_is_the_systems_until_one_is_chosen_and_kept(visit):
    page = visit(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(paper)
    assert sum(_rgb(light)) > 700 and sum(_rgb(dark)) < 120
    generate(page)
    drawn = look(page, "cells")
    page.locator("#scheme").get_by_text("Dark").click()
    assert page.evaluate(paper) == dark
    assert look(page, "cells") != drawn
    page.reload()
    expect(page.locator("#scheme [value=dark]")).to_be_checked()
    assert page.evaluate(paper) == dark
    page.locator("#scheme").get_by_text("Auto").click()
    assert page.evaluate(paper) == light


def _rgb(colour: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", colour)][:3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(visit, scheme):
    page = visit(color_scheme=scheme, refusals=(413,))
    several(page)
    generate(page)
    page.locator("summary").first.click()
    page.locator("#map").focus()
    page.keyboard.press("ArrowDown")
    pale = [each for each in look(page, "contrasts") if each[1] < LEAST_CONTRAST]
    assert not pale
    page.locator("#source").fill("a" * 40)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#source-error")).to_be_visible()
    page.locator("#source").fill("")
    measured = dict(look(page, "contrasts"))
    assert len(measured) > 20 and "source's placeholder" in measured and min(measured.values()) >= LEAST_CONTRAST


@pytest.mark.parametrize("width", [1280, 768, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits(visit, screenshots, scheme, width):
    page = visit(width=width, color_scheme=scheme)
    several(page)
    generate(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.locator(
        "button:visible, input:visible:not([type=radio]), select:visible, label:visible:has([type=radio])"
    )
    if width < 400:
        heights = small.evaluate_all("each => each.map(one => one.getBoundingClientRect().height)")
        assert heights and min(heights) >= 24  # WCAG 2.2: what is touched
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    path = screenshots / f"page-{width}-{scheme}.png"
    path.unlink(missing_ok=True)
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000


def test_the_documentations_picture(visit, screenshots):
    """`docs/serving_page.png` is this one, in 64 colours."""
    page = visit(width=1160, height=1320, device_scale_factor=2)
    generate(page, "phonetically")
    page.locator("#source").blur()
    plot = page.locator("#map .plot")
    plot.hover(position={"x": 10, "y": 10})
    expect(page.locator("#readout")).to_contain_text("F looked at p")
    page.screenshot(path=screenshots / "serving_page.png", full_page=True)
