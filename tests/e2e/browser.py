"""A headless Chromium that opens the pages of Prefect's UI and reads what a person sees there."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

WITHIN_S = 120.0
CHANGING = (ElementClickInterceptedException, NoSuchElementException, StaleElementReferenceException)
"""What a page answers that moves while it is asked: it is asked again."""
WIDTH, HEIGHT = 1280, 800
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it does not start as root otherwise
    "--disable-dev-shm-usage",  # a container's /dev/shm is small
    "--disable-gpu",
    "--force-prefers-reduced-motion",  # two cores draw slowly
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing else than loopback has an address
)
INSTALL = "apt-get install chromium chromium-driver"
LABEL = "./div[contains(@class, 'p-label__header')]//span[normalize-space(.) = '{}']"

T = TypeVar("T")


def _installed(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"{' or '.join(names)} is not installed; {INSTALL}")
    return found


@contextmanager
def browser(profile: Path, pictures: Path) -> Iterator["Browser"]:
    """A browser, until the block ends; skips the test where none is installed."""
    options = Options()
    options.binary_location = _installed("chromium", "chromium-browser", "google-chrome")
    for flag in (*FLAGS, f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    # With both paths given, selenium looks for nothing and downloads nothing.
    service = Service(_installed("chromedriver"), env={**os.environ, "HOME": str(profile)})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver, pictures)
    finally:
        driver.quit()


class Browser:
    """One window. Everything is waited for, since every page fills itself bit by bit."""

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures
        self.root = ""

    def open(self, path: str, *, height: int = HEIGHT) -> None:
        """Go to a page, in a window of this height."""
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self.root + path)

    def until(self, condition: Callable[[], T], what: str, within_s: float = WITHIN_S) -> T:
        """What the condition gives as soon as it gives something; it may look at what has just changed."""
        wait = WebDriverWait(self.driver, within_s, 0.2, CHANGING)
        try:
            return wait.until(lambda _: condition())
        except TimeoutException:
            self.picture("not-shown")
            said = f"{what}: not shown within {within_s:g} s on {self.driver.current_url}:\n{self.text()}"
        pytest.fail(said, pytrace=False)

    def picture(self, name: str) -> None:
        """What the window shows, as NAME.png."""
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def text(self) -> str:
        """All that can be read on the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def heading(self) -> str:
        """Name, state and facts on top of a page."""
        return self.driver.find_element(By.CSS_SELECTOR, "header.page-heading").text

    def rows(self) -> list[list[str]]:
        """The cards of a list of runs, each as its lines."""
        return [row.text.split("\n") for row in self._all(".state-list-item") if row.text]

    def table(self) -> list[list[str]]:
        """The cells of the table, row by row; its head comes first."""
        rows = self._all("table tr")
        return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in rows if row.text]

    def images(self) -> list[WebElement]:
        """The pictures that are there, not only asked for."""
        return [one for one in self._all("img") if one.is_displayed() and one.get_property("naturalWidth")]

    def press(self, words: str) -> bool:
        """Click the button or link with these words; False where there is none yet."""
        return self._click(By.XPATH, f"//*[self::a or self::button][normalize-space(.) = '{words}']")

    def turned(self, tab: str) -> bool:
        """Whether this tab is open; if not, it is clicked: a page that still fills itself may turn back."""
        found = self.driver.find_element(By.XPATH, f"//li[contains(@class, 'p-tab')][normalize-space(.) = '{tab}']")
        if "p-tab__active" in (found.get_attribute("class") or ""):
            return True
        found.click()
        return False

    def followed(self, address: str) -> bool:
        """Whether this is the page of such an address; if not, the first link to one is clicked."""
        if address in self.driver.current_url:
            return True
        self._click(By.CSS_SELECTOR, f"a[href^='{address}']")
        return False

    def field(self, label: str) -> "Field":
        """The field of a form with this label."""
        xpath = f"//div[contains(@class, 'schema-form-property')][{LABEL.format(label)}]"
        return Field(self.until(lambda: self.driver.find_element(By.XPATH, xpath), label))

    def pixels(self, css: str) -> np.ndarray:
        """The pixels of a drawing, (N, 3)."""
        drawing = self.driver.find_element(By.CSS_SELECTOR, css).screenshot_as_png
        return np.asarray(Image.open(io.BytesIO(drawing)).convert("RGB"), dtype=np.int64).reshape(-1, 3)

    def _click(self, by: str, which: str) -> bool:
        shown = [one for one in self.driver.find_elements(by, which) if one.is_displayed()]
        if shown:
            shown[0].click()
        return bool(shown)

    def _all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)


class Field:
    """A field of a form: label, description and a control."""

    def __init__(self, element: WebElement) -> None:
        self.element = element

    def text(self) -> str:
        """Label, description, and what is wrong with the value."""
        return self.element.text

    def value(self) -> str:
        """What the control holds; on or off for a switch."""
        switch = self.element.find_elements(By.CSS_SELECTOR, "[role=switch]")
        if switch:
            return "on" if switch[0].get_attribute("aria-checked") == "true" else "off"
        return self._control().get_attribute("value") or ""

    def choices(self) -> list[str]:
        """What a list offers."""
        return [option.text for option in self._control().find_elements(By.TAG_NAME, "option")]

    def fill(self, text: str) -> None:
        """Replace what the control holds."""
        self._control().send_keys(Keys.CONTROL, "a")
        self._control().send_keys(text)

    def choose(self, text: str) -> None:
        """Take this one of a list."""
        Select(self._control()).select_by_visible_text(text)

    def _control(self) -> WebElement:
        return self.element.find_element(By.CSS_SELECTOR, "textarea, select, input")
