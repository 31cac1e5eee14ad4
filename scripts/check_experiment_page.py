"""Opens the page that `gradalign experiment` writes in a headless Chromium, and checks that it works.

    apt-get install chromium; pip install websocket-client
    python3 scripts/check_experiment_page.py [--gradalign target/debug/gradalign] [--pictures FOLDER]
    python3 scripts/check_experiment_page.py --page page.html --pictures FOLDER

What is checked: there is a plot for each score, with points in it; another benchmark and ranks can be chosen;
pointing at a network shows its name; the tables are there without the script; that no request leaves the
page, and nothing breaks its policy. Accuracies are made up, unless a page is given.
"""

import argparse
import pathlib
import subprocess
import tempfile

from check_report import ROOT, Browser

PLAN = """
name = "<img src=x onerror=window.broken=1> & a few"
[scoring]
metric = ["naswot", "params-live"]
samples = 4
init = "pytorch"
[statistics]
resamples = 20
[architectures]
from = "truth"
[[benchmark]]
name = "first"
space = { name = "nasbench201", image-size = 8 }
data = "synthetic"
truth = { file = "truth.csv", values = ["accuracy", "half"] }
"""
OPS = ["none", "skip_connect", "nor_conv_1x1", "avg_pool_3x3"]

# How many plots have something in the colour of points, of how many.
DRAWN = """(() => {
  const canvases = [...document.querySelectorAll('#panels canvas')];
  const filled = canvases.filter((canvas) => {
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let blue = 0;
    for (let i = 0; i < data.length; i += 4) blue += data[i + 3] > 60 && data[i + 2] > data[i] + 40;
    return blue > 10;
  });
  return [filled.length, canvases.length];
})()"""
# Points at the middle of a network in the first plot.
POINT = """(() => {
  const canvas = document.querySelector('#panels canvas');
  const box = canvas.getBoundingClientRect();
  for (let x = 0; x < box.width; x += 4) {
    for (let y = 0; y < box.height; y += 4) {
      canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: box.x + x, clientY: box.y + y }));
      const tip = canvas.parentNode.querySelector('.tip');
      if (!tip.hidden) return tip.textContent;
    }
  }
  return null;
})()"""


def make(folder: pathlib.Path, program: str) -> pathlib.Path:
    cells = [f"|{a}~0|+|none~0|none~1|+|{b}~0|{a}~1|none~2|" for a in OPS for b in OPS]
    rows = [f"{cell},{70 + i},{35 + i / 2}" for i, cell in enumerate(cells)]
    (folder / "truth.csv").write_text("\n".join(["arch,accuracy,half", *rows]) + "\n")
    (folder / "plan.toml").write_text(PLAN)
    out = folder / "out"
    subprocess.run([program, "experiment", folder / "plan.toml", "--out", out, "-q"], check=True, stdout=subprocess.DEVNULL)
    return out / "page.html"


def check(browser: Browser, path: pathlib.Path, pictures: pathlib.Path | None) -> None:
    page = browser.page(path)
    filled, all_plots = page.run(DRAWN)
    assert filled == all_plots > 0, (filled, all_plots)
    rows = page.run("document.querySelector('table tbody').rows.length")
    assert rows == all_plots, "a plot for each line of the table"
    tip = page.run(POINT)
    assert tip and ": " in tip, tip
    if pictures:
        page.picture(pictures / "experiment.png")
    page.run("(() => { const box = document.getElementById('ranks'); box.click(); })()")
    assert page.run(DRAWN)[0] == all_plots
    page.run("(() => { const of = document.getElementById('of'); of.selectedIndex = of.options.length - 1;"
             "of.dispatchEvent(new Event('change')); })()")
    assert page.run(DRAWN)[0] == all_plots
    assert page.run("window.broken === undefined")
    page.close()
    page = browser.page(path, script=False)
    page.close()
    page = browser.page(path, dark=True, size=(500, 900))
    assert page.run(DRAWN)[0] == all_plots
    wide = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} pixels too wide for a narrow window"
    if pictures:
        page.picture(pictures / "experiment-dark.png", height=1600)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gradalign", default=str(ROOT / "target/debug/gradalign"))
    parser.add_argument("--page", type=pathlib.Path, help="a page that is there")
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder for screenshots")
    arguments = parser.parse_args()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(folder)
        try:
            made = arguments.page or make(pathlib.Path(folder), arguments.gradalign)
            check(browser, made, arguments.pictures)
        finally:
            browser.close()
    print("the page works")


if __name__ == "__main__":
    main()
