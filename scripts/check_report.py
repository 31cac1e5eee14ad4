"""Opens the pages that `--report` writes in a headless Chromium, and checks that they work.

    apt-get install chromium; pip install websocket-client
    python3 scripts/check_report.py [--gradalign target/debug/gradalign] [--pictures FOLDER]

What is checked: headers sort, by number and with missing values last; the filter; the axes of the plot and
its tip; that the JSON is saved as it was; that the page is a table without its script; that no request
leaves the page, and nothing breaks its policy; names that look like HTML; and how long frames take while
500 models are scrolled. Accuracies are made up. `--pictures` keeps screenshots and a print.
"""

import argparse
import base64
import csv
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import websocket

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCORES = "gradalign-1,gradalign-2,naswot,synflow,te-nas,zen"
EVIL = "<img src=x onerror=window.broken=1>.onnx"


class Browser:
    """A Chromium without a window, by its DevTools protocol."""

    def __init__(self, folder):
        self.folder = folder
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                 "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}/profile"]
        program = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("no chromium found")
        self.process = subprocess.Popen([program, *flags, "about:blank"], stderr=subprocess.DEVNULL)
        port = pathlib.Path(folder, "profile", "DevToolsActivePort")
        for _ in range(300):
            if port.exists() and port.read_text().strip():
                break
            time.sleep(0.1)
        self.port = port.read_text().split()[0]

    def page(self, path, **options):
        return Page(self, path, **options)

    def close(self):
        self.process.terminate()
        self.process.wait()


class Page:
    """A page that is open, and what it did."""

    def __init__(self, browser, path, dark=False, script=True, size=(1200, 900)):
        asked = urllib.request.Request(f"http://127.0.0.1:{browser.port}/json/new?about:blank", method="PUT")
        target = json.load(urllib.request.urlopen(asked))
        self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60)
        self.last, self.requests, self.complaints = 0, [], []
        for domain in ["Page", "Network", "Runtime", "Log"]:
            self.call(f"{domain}.enable")
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1,
                  mobile=False)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(browser.folder))
        self.url = path.resolve().as_uri()
        self.call("Page.navigate", url=self.url)
        self.wait(0.8)

    def call(self, method, **parameters):
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.last:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.note(answer)

    def note(self, event):
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        elif event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(event["params"])[:600])

    def wait(self, seconds):
        """Lets the page work, and takes note of what it does."""
        end = time.time() + seconds
        while time.time() < end:
            time.sleep(0.05)
            self.call("Page.getNavigationHistory")

    def run(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector):
        at = self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
                      "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
                      "return [b.x + b.width / 2, b.y + b.height / 2]; })()")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def picture(self, path, full=True, height=None):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip} if full else {}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"]))

    def print(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", landscape=True)["data"]))

    def close(self):
        """Nothing has left the page, and nothing has gone wrong."""
        outside = [url for url in self.requests if url != self.url and not url.startswith(("data:", "blob:"))]
        assert not outside, outside
        assert not self.complaints, self.complaints
        self.socket.close()


COLUMN = """(() => {
  const head = document.querySelectorAll('#models thead th')[%d];
  return [head.getAttribute('aria-sort'),
    [...document.querySelectorAll('#models tbody tr')].map((row) => row.cells[%d].textContent)];
})()"""
CHOOSE = """(() => {
  for (const [id, title] of Object.entries(%s)) {
    const select = document.getElementById(id);
    select.value = [...select.options].find((option) => option.text === title).value;
    select.dispatchEvent(new Event('change'));
  }
  return [document.querySelectorAll('#chart circle').length,
    [...document.querySelectorAll('#chart text.title')].map((text) => text.textContent),
    document.getElementById('chart-note').textContent];
})()"""
SCROLL = """new Promise((done) => {
  const box = document.querySelector('.scroll');
  const times = [];
  let last = null;
  const frame = (now) => {
    if (last !== null) times.push(now - last);
    last = now;
    box.scrollTop += 90;
    if (times.length < 150) requestAnimationFrame(frame); else done(times);
  };
  requestAnimationFrame(frame);
})"""


def first_numbers(cells):
    """The value in each cell; None where there is none."""
    found = [re.match(r"-?[\d.,]+(e-?\d+)?", cell) for cell in cells]
    return [float(match[0].replace(",", "")) if match else None for match in found]


def is_sorted(values, descending):
    known = [value for value in values if value is not None]
    missing_last = values[len(known):] == [None] * (len(values) - len(known))
    return missing_last and known == sorted(known, reverse=descending)


def check_table(page, report):
    titles = page.run("[...document.querySelectorAll('#models thead th')].map((th) => th.textContent)")
    for title in ["naswot", "te-nas", "accuracy", "flops"]:
        at = titles.index(title)
        for order in ["descending", "ascending"]:
            page.click(f"#models thead th:nth-child({at + 1}) button")
            sort, cells = page.run(COLUMN % (at, at))
            assert sort == order, (title, sort)
            assert is_sorted(first_numbers(cells), order == "descending"), (title, cells)
    # By keyboard, too.
    page.run("document.querySelector('#models thead th button').focus()")
    for kind in ["keyDown", "keyUp"]:
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                  windowsVirtualKeyCode=13)
    sort, cells = page.run(COLUMN % (0, 0))
    assert sort == "ascending" and cells == sorted(cells), cells

    page.run("document.getElementById('filter').focus()")
    page.call("Input.insertText", text="keras CNN")
    shown = page.run("[...document.querySelectorAll('#models tbody tr')].filter((row) => !row.hidden)"
                     ".map((row) => row.cells[0].textContent)")
    assert shown == ["keras-cnn.onnx"], shown
    page.run("(() => { const f = document.getElementById('filter'); f.value = '';"
             "f.dispatchEvent(new Event('input')); })()")


def check_plot(page, report):
    scored = [model for model in report["models"] if not model["error"]]
    with_naswot = [m for m in scored if m["scores"]["naswot"]["value"] is not None]
    circles, titles, note = page.run(CHOOSE % json.dumps({"x": "parameters", "y": "naswot"}))
    assert circles == len(with_naswot) and "left out" in note, (circles, note)
    assert set(titles) == {"parameters", "naswot"}, titles
    circles, titles, note = page.run(CHOOSE % json.dumps({"x": "gradalign-1", "y": "accuracy"}))
    assert circles == len(scored), circles
    tau = report["correlation"]["gradalign-1"]["kendall_tau"]
    assert f"{tau:.3f}" in note, (tau, note)

    page.run("document.getElementById('chart').scrollIntoView({block: 'center'})")
    at = page.run("(() => { const b = document.querySelector('#chart circle').getBoundingClientRect();"
                  "return [b.x + b.width / 2, b.y + b.height / 2]; })()")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=at[0] + 2, y=at[1])
    tip = page.run("(() => { const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.textContent; })()")
    assert ".onnx" in tip and "accuracy" in tip, tip
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert page.run("document.getElementById('tip').hidden")
    page.run("document.getElementById('x-log').click()")
    assert page.run("document.querySelector('#chart text.title').textContent") != titles[0]
    page.run("document.getElementById('x-log').click()")


def check_saving(browser, page, report):
    page.click("#download")
    saved = pathlib.Path(browser.folder, "gradalign.json")
    for _ in range(50):
        if saved.exists() and saved.stat().st_size:
            break
        page.wait(0.1)
    assert json.loads(saved.read_text()) == report, "the JSON that is saved is another one"


def check_names(browser, gradalign, folder):
    place = folder / "names"
    place.mkdir()
    shutil.copy(ROOT / "models/mlp.onnx", place / EVIL)
    shutil.copy(ROOT / "fixtures/broken/truncated.onnx", place / f"b{EVIL}")
    gradalign(place, "--metric", "params", "--report", folder / "names.html", code=1)
    page = browser.page(folder / "names.html")
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("window.broken") is None
    assert page.run("document.querySelector('#models tbody th').textContent") == EVIL
    page.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradalign", default=ROOT / "target/debug/gradalign", type=pathlib.Path)
    parser.add_argument("--pictures", type=pathlib.Path)
    parser.add_argument("--models", default=500, type=int, help="how many models the long page has")
    options = parser.parse_args()
    program = options.gradalign.resolve()

    def gradalign(*arguments, code=0):
        line = [program, "rank", *arguments, "--data", "synthetic", "--samples", "16", "--format", "json"]
        ran = subprocess.run([str(word) for word in line], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, check=False)
        assert ran.returncode == code, ran.returncode
        return json.loads(ran.stdout)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pictures = options.pictures or folder / "pictures"
        pictures.mkdir(exist_ok=True)
        truth = folder / "truth.csv"
        with truth.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["model", "accuracy"])
            sizes = sorted((path.stat().st_size, path.name) for path in (ROOT / "models").glob("*.onnx"))
            rows.writerows([model, 80 + 13 * (i * 5 % 14) / 14 * 0.4 + i] for i, (_, model) in enumerate(sizes))
        report = gradalign("models", "fixtures/broken/unsupported-op.onnx", "--metric", SCORES, "--truth", truth,
                           "--aggregate", "--report", folder / "report.html", code=1)
        browser = Browser(folder)
        try:
            page = browser.page(folder / "report.html")
            page.picture(pictures / "light.png")
            page.print(pictures / "print.pdf")
            check_table(page, report)
            check_plot(page, report)
            check_saving(browser, page, report)
            page.close()
            for dark, script, picture in [(True, True, "dark"), (False, False, "without-script")]:
                page = browser.page(folder / "report.html", dark=dark, script=script)
                page.picture(pictures / f"{picture}.png")
                page.close()
            page = browser.page(folder / "report.html", size=(390, 800))
            page.picture(pictures / "narrow.png")
            page.close()
            check_names(browser, gradalign, folder)
            print("the page of models/: all as it should be, and no request")
            check_long(browser, gradalign, folder, pictures, options.models)
        finally:
            browser.close()


def check_long(browser, gradalign, folder, pictures, count):
    """A page of many models with 13 scores: copies, as their values do not matter."""
    place = folder / "many"
    place.mkdir()
    small = ["mlp", "sklearn-mlp", "plain-cnn", "keras-separable", "jax-cnn"]
    for i in range(count):
        shutil.copy(ROOT / f"models/{small[i % len(small)]}.onnx", place / f"{small[i % len(small)]}-{i:03}.onnx")
    gradalign(place, "--metric", "paper,params", "--ntk-samples", "2", "--report", folder / "many.html")
    size = (folder / "many.html").stat().st_size
    page = browser.page(folder / "many.html", size=(1400, 900))
    rows = page.run("document.querySelectorAll('#models tbody tr').length")
    assert rows == count, rows
    loaded = page.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    page.picture(pictures / "many.png", full=False)
    times = page.run(SCROLL)
    sort = page.run("(() => { const b = document.querySelectorAll('#models thead button')[3];"
                    "const s = performance.now(); b.click(); document.body.offsetHeight; return performance.now() - s; })()")
    find = page.run("(() => { const f = document.getElementById('filter'); f.value = 'cnn 1'; const s = performance.now();"
                    "f.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - s; })()")
    page.picture(pictures / "many-filtered.png")
    page.close()
    ordered = sorted(times)
    median, late = statistics.median(times), ordered[int(len(ordered) * 0.95)]
    print(f"{count} models, {size / 1e6:.2f} MB: loaded in {loaded:.0f} ms; a frame of scrolling takes {median:.1f} ms, "
          f"95 % less than {late:.1f} ms; sorted in {sort:.0f} ms, filtered in {find:.0f} ms")
    assert median < 34, "scrolling is slow"


if __name__ == "__main__":
    main()
