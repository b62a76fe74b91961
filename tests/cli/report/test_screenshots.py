"""Pictures of the page for people to look at, in build/report/: kept as artefacts of a test run."""

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "build/report"
PARTS = {
    "leaderboard": "#leaderboard",
    "pictures": "#tradeoff",
    "phases": "#phases",
    "browser": "#samples&suite=forgetting&changed=worse&row=full&score=right",
}
DEVICES = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_of_the_page(opened, quickstart, device):
    """Each part comes into sight whole enough to be told from an empty page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    one = opened(quickstart, PARTS["browser"], **DEVICES[device])
    one.see_all()
    for name, fragment in PARTS.items():
        part = one.page.locator(fragment.partition("&")[0])
        part.evaluate("element => element.scrollIntoView({behavior: 'instant'})")
        picture = one.page.screenshot(path=FOLDER / f"{device}-{name}.png", animations="disabled")
        assert len(picture) > 15_000
        assert part.evaluate("element => element.getBoundingClientRect().height") > 200
