"""--mode=demo in headless Chromium, with a real upload; collected where Chromium is installed."""

import os

import tiny_run
from browser import CHROMIUM
from demo_server import served
from image_folder import jpeg
from playwright.sync_api import expect, sync_playwright


def test_an_uploaded_photo_is_named_with_bars_and_explained_and_nothing_comes_from_outside(
    tmp_path, model, config
):
    """DEMO_SCREENSHOT keeps what it looked like."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg(99, 60, 80))
    asked = []
    with served(tmp_path, model, config) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        expect(page.get_by_text("From the data set")).to_be_visible(timeout=60_000)
        assert page.locator(".gallery button, .gallery-item").count() == 6
        page.locator("input[type=file]").first.set_input_files(str(photo))
        page.wait_for_function(
            "() => [...document.querySelectorAll('textarea, input')]"
            ".some(field => /ms for decoding/.test(field.value))",
            timeout=60_000,
        )
        shown = page.inner_text("body")
        assert sum(f"kind {number}" in shown for number in range(tiny_run.CLASSES)) >= 5
        assert page.locator("img[src*='/file=']").count() >= 2  # The photo and Grad-CAM.
        page.screenshot(path=os.environ.get("DEMO_SCREENSHOT", str(tmp_path / "page.png")))
        browser.close()
    outside = [x for x in asked if not x.startswith((url, "data:", "blob:"))]
    assert outside == []
