"""The page in a browser that has no network: what a reader does with it."""

import shutil

import pytest

from tests.cli.report.conftest import QUICKSTART, write_page
from tests.verification.forging import samples

expect = pytest.importorskip("playwright.sync_api", reason="no playwright: make test").expect

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def methods(page):
    """The methods of the table, from top to bottom."""
    return page.locator("#leaderboard-grid .tabulator-row .row-title strong").all_inner_texts()


def test_it_asks_for_nothing_and_its_policy_refuses_nothing(opened, quickstart):
    """All pictures are drawn, and the answers shown, under the policy and without a network."""
    one = opened(quickstart)
    one.see_all()
    assert (one.asked_for(), one.refused(), one.errors) == ([], [], [])
    assert len(one.page.locator(".picture .main-svg").all()) >= 5


def test_the_policy_would_refuse(opened, quickstart):
    """The control of the test above: a script, a style, an eval, a request."""
    one = opened(quickstart)
    one.page.evaluate(
        """() => {
          const both = [["script", "window.ran = 1"], ["style", "body { color: red }"]];
          for (const [tag, text] of both) {
            const made = document.createElement(tag);
            made.textContent = text;
            document.body.append(made);
          }
          fetch("https://example.org/").catch(() => {});
          document.body.insertAdjacentHTML("beforeend", "<img src='https://example.org/x.png'>");
        }"""
    )
    for _ in range(100):
        if len(one.refused()) >= 4:
            break
        one.page.wait_for_timeout(50)
    directives = " ".join(one.refused())
    assert all(d in directives for d in ("script-src", "style-src", "connect-src", "img-src"))
    assert one.page.evaluate("window.ran") is None


def test_sorting_by_a_column_and_back(opened, quickstart):
    one = opened(quickstart)
    assert methods(one.page) == ["full", "lora", "qlora", "base"]
    head = one.page.get_by_role("button", name="train time")
    head.click()
    assert methods(one.page) == ["lora", "qlora", "full", "base"]
    head.click()
    assert methods(one.page) == ["full", "qlora", "lora", "base"]
    again = opened(quickstart, "#" + one.page.url.partition("#")[2])
    assert methods(again.page) == ["full", "qlora", "lora", "base"]


def test_sorting_with_the_keyboard(opened, quickstart):
    one = opened(quickstart)
    one.page.get_by_role("button", name="eval time").focus()
    one.page.keyboard.press("Enter")
    assert methods(one.page)[-1] == "qlora"


def test_filtering_rows(opened, quickstart):
    one = opened(quickstart)
    one.page.locator("#leaderboard-filter").fill("lora")
    assert methods(one.page) == ["lora", "qlora"]
    one.page.locator("#leaderboard-filter").fill("")
    one.page.locator("#leaderboard-first").check()
    assert methods(one.page) == ["full"]


def test_choosing_columns(opened, quickstart):
    one = opened(quickstart)
    name = "similarity.must_contain"
    assert not one.page.get_by_role("button", name=name).is_visible()
    one.page.locator(".chooser summary").first.click()
    one.page.get_by_label(name, exact=True).check()
    assert one.page.get_by_role("button", name=name).count() == 1
    assert "0.708" in one.page.locator("#leaderboard-grid").inner_text()


def test_the_pareto_front_of_any_two_figures(opened, quickstart):
    one = opened(quickstart)
    said = one.see("tradeoff").locator(".said")
    assert said.inner_text().startswith("Pareto front: lora, full;")
    one.page.locator("#tradeoff select[name=x]").select_option("perplexity.plain_perplexity")
    one.page.locator("#tradeoff select[name=y]").select_option("artifact")
    # lora has less to keep than full, and forgets more; qlora forgets more at the same size
    assert said.inner_text().startswith("Pareto front: full, lora;")
    again = opened(quickstart, "#" + one.page.url.partition("#")[2])
    assert again.page.locator("#tradeoff .said").inner_text() == said.inner_text()


def test_curves_of_many_rows_have_a_panel_each(opened, tmp_path):
    """The methods of a study side by side: eight rows that train, with three seeds each."""
    one = opened(write_page(tmp_path, QUICKSTART.with_name("methods")))
    one.see_all()
    panels = one.page.locator("#curves .picture .annotation")
    trained = one.page.locator("#curves .picture .scatterlayer .trace")
    assert panels.count() == 8
    assert trained.count() == 24
    assert "24 trainings" in one.page.locator("#curves .said").inner_text()
    assert (one.refused(), one.errors) == ([], [])


def test_pictures_of_results_that_were_not_trained(opened, tmp_path):
    """The base alone: what cannot be drawn is left out, and the rest stands on what there is."""
    (record,) = (QUICKSTART / "cells").glob("base-*.json")
    one = opened(write_page(tmp_path, record))
    one.see_all()
    assert not one.page.locator("#curves .picture").is_visible()
    assert "Nothing here was trained" in one.page.locator("#curves").inner_text()
    assert one.page.locator("#tradeoff .said").inner_text().startswith("Pareto front: base;")
    assert one.errors == []


# Answers


def test_answers_that_got_worse(opened, quickstart):
    """Questions that the base has right and full has not: as many as its record counts."""
    one = opened(quickstart, "#samples&suite=forgetting&row=full&score=right")
    one.see("samples")
    assert one.count() == 48
    one.page.locator("[name=changed]").select_option("worse")
    assert one.count() == 2  # 16 of 18 are retained
    card = one.page.locator(".card[data-row=full]")
    assert "turned wrong" in card.inner_text()
    one.page.locator("[name=changed]").select_option("gained")
    gained = one.count()
    one.page.locator("[name=changed]").select_option("flipped")
    assert one.count() == gained + 2


def test_a_flip_is_of_a_score_that_is_right_or_wrong(opened, quickstart):
    one = opened(quickstart, "#samples&suite=similarity")
    one.see("samples")
    assert one.page.locator("[name=score]").input_value() == "cosine"
    one.page.locator("[name=changed]").select_option("gained")
    expect(one.page.locator("[name=score]")).to_have_value("exact_match")
    one.page.locator("[name=score]").select_option("must_contain")
    one.page.locator("[name=row]").select_option("full")
    assert one.count() == 34  # 0.708 of 48, where the base has none


def test_filtering_answers_by_text(opened, quickstart):
    one = opened(quickstart, "#samples&suite=similarity")
    one.see("samples")
    one.page.locator("[name=text]").fill("Ripped BAG")
    expect(one.page.locator("#samples-count")).to_have_text("1 of 48 samples")
    assert "ripped bag stitched" in one.page.locator("#samples-one").inner_text()


def test_a_link_leads_to_its_sample(opened, quickstart):
    fragment = "#samples&suite=similarity&changed=better&row=full&score=must_contain"
    one = opened(quickstart, fragment + "&sample=support-test-0047")
    one.page.wait_for_selector("#samples-one h3")
    text = one.page.locator("#samples-one").inner_text()
    assert "Is the Tailwind service very pricey?" in text
    assert "The Tailwind Express is 11.50 euros extra." in text
    assert one.page.locator("[name=changed]").input_value() == "better"
    assert one.page.locator("#samples").is_visible()


def test_words_that_the_reference_lacks_are_marked(opened, quickstart):
    one = opened(quickstart, "#samples&suite=similarity&sample=support-test-0047")
    one.see("samples")
    marked = one.page.locator(".card[data-row=full] ins").all_inner_texts()
    assert marked == ["The", "is", "extra"]
    one.page.locator("[name=marks]").select_option("none")
    expect(one.page.locator(".card ins")).to_have_count(0)


def test_going_through_the_answers_with_the_keyboard(opened, quickstart):
    one = opened(quickstart, "#samples&suite=similarity")
    one.see("samples")
    first = one.page.locator("#samples-list button").first
    first.focus()
    one.page.keyboard.press("ArrowDown")
    expect(one.page.locator("#samples-one h3")).to_have_text("support-test-0001")
    assert "sample=support-test-0001" in one.page.url


# Everybody


def test_without_javascript_the_table_and_the_texts_show(opened, quickstart):
    one = opened(quickstart, java_script_enabled=False)
    table = one.page.locator("#leaderboard table")
    assert table.is_visible()
    assert "1.982 [1.712, 2.328]" in table.inner_text()
    assert "need JavaScript" in one.page.locator("noscript").inner_text()
    assert "+44.03*" in one.page.locator("#heat").inner_text()
    assert "harness run quickstart.yaml" in one.page.locator("#repeat").inner_text()


@pytest.mark.parametrize(
    "device",
    [{"color_scheme": "dark"}, {"color_scheme": "light", **PHONE}],
    ids=["dark desk", "light phone"],
)
def test_axe_finds_nothing_serious(opened, quickstart, device):
    one = opened(quickstart, **device)
    one.see_all()
    assert one.axe() == []


def test_axe_would_find_something(opened, quickstart):
    """The control of the test above."""
    one = opened(quickstart)
    one.page.evaluate(
        "document.querySelector('footer').insertAdjacentHTML('beforeend', '<input type=text>')"
    )
    assert any("label" in line for line in one.axe("footer"))


def test_dark_is_dark(opened, quickstart):
    light, dark = (
        opened(quickstart, color_scheme=scheme).page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        for scheme in ("light", "dark")
    )
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(15, 19, 24)")


def test_the_theme_can_be_chosen(opened, quickstart):
    one = opened(quickstart, color_scheme="dark")
    one.page.get_by_role("button", name="Light").click()
    background = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert "theme=light" in one.page.url


def test_a_phone_need_not_scroll_sideways(opened, quickstart):
    one = opened(quickstart, **PHONE)
    one.see_all()
    wide, window = one.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == 390


def test_reasoning_is_opened_where_it_is_asked_for(opened, tmp_path):
    shutil.copytree(QUICKSTART, tmp_path / "thinking")
    with samples(tmp_path / "thinking", "lora", "similarity") as rows:
        thought = {"reasoning": "<b>Let me see.</b>", "reasoning_tokens": 7}
        rows[0] |= {**thought, "unfinished_reasoning": False}
        rows[1] |= {**thought, "unfinished_reasoning": True}
        first, second = rows[0]["id"], rows[1]["id"]
    file = write_page(tmp_path, tmp_path / "thinking")
    one = opened(file, f"#samples&suite=similarity&sample={first}")
    folded = one.page.locator("details.reasoning")
    expect(folded).to_have_count(1)
    expect(folded.locator("summary")).to_have_text("reasoning, 7 tokens")
    told = folded.get_by_text("<b>Let me see.</b>")
    expect(told).not_to_be_visible()
    folded.locator("summary").click()
    expect(told).to_be_visible()
    one = opened(file, f"#samples&suite=similarity&sample={second}")
    summary = one.page.locator("details.reasoning summary")
    expect(summary).to_have_text("reasoning, 7 tokens, unfinished: no answer")
