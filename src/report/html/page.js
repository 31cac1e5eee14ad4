"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const ranking = JSON.parse(byId("ranking").textContent);
  const accuracies = JSON.parse(byId("accuracies").textContent);
  const body = byId("models").tBodies[0];
  const heads = [...byId("models").tHead.rows[0].cells];
  document.querySelectorAll(".script").forEach((part) => { part.hidden = false; });

  // Names are taken from the table, where active characters are escaped.
  const models = [...body.rows].map((row, position) => {
    const index = Number(row.dataset.i);
    const entry = ranking.models[index];
    return {
      row, position, entry, name: row.cells[0].textContent, accuracy: accuracies ? accuracies[index] : null,
      text: `${row.cells[0].textContent}\n${entry.path}`.toLowerCase(), shown: true,
    };
  });

  const number = (value) => {
    if (value === null) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en");
    const text = value.toPrecision(6);
    return text.includes("e") || !text.includes(".") ? text : text.replace(/\.?0+$/, "");
  };
  const value = (column, model) => {
    switch (column.field) {
      case "name": return model.name;
      case "score": { const score = model.entry.scores[column.score]; return score ? score.value : null; }
      case "accuracy": return model.accuracy;
      default: return model.entry[column.field];
    }
  };

  // Sorting. Models without a value stay last, whichever way the others go.
  const sort = (column, descending) => {
    const sign = descending ? -1 : 1;
    const keyed = models.map((model) => ({ model, key: value(column, model) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.model.position - b.model.position;
      const order = typeof a.key === "string" ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key;
      return sign * order || a.model.position - b.model.position;
    });
    body.append(...keyed.map(({ model }) => model.row));
  };
  const columns = heads.map((head) => ({ ...head.dataset, title: head.textContent, head }));
  for (const column of columns) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...column.head.childNodes[0].childNodes);
    column.head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = column.head.getAttribute("aria-sort");
      const first = column.field === "name" ? "ascending" : "descending";
      const next = now === null ? first : now === "ascending" ? "descending" : "ascending";
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      column.head.setAttribute("aria-sort", next);
      sort(column, next === "descending");
    });
  }

  // Filtering: every word must be in the name or the path.
  const filter = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const model of models) {
      model.shown = words.every((word) => model.text.includes(word));
      model.row.hidden = !model.shown;
    }
    const shown = models.filter((model) => model.shown).length;
    byId("count").textContent = words.length ? `${shown} of ${models.length}` : "";
    draw();
  };
  byId("filter").addEventListener("input", filter);

  byId("download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([byId("ranking").textContent, "\n"], { type: "application/json" }));
    link.download = "gradalign.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  // The plot.
  const axes = columns.filter((column) => column.field !== "name");
  const chart = byId("chart");
  const tip = byId("tip");
  const svg = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const positive = (axis) => models.map((m) => value(axis, m)).filter((v) => v !== null && v > 0);
  const spread = (values) => values.reduce((a, b) => Math.max(a, b), 0) / values.reduce((a, b) => Math.min(a, b), Infinity);
  const choose = (which, at) => {
    byId(which).value = String(at);
    const values = positive(axes[at]);
    const all = models.every((m) => { const v = value(axes[at], m); return v === null || v > 0; });
    byId(`${which}-log`).checked = all && values.length > 1 && spread(values) > 30;
  };
  const steps = (lo, hi, count) => {
    const rough = (hi - lo) / count;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough) || rough;
    const ticks = [];
    for (let i = Math.ceil(lo / step); i * step <= hi + step * 1e-9; i += 1) ticks.push(Number((i * step).toPrecision(12)));
    return ticks;
  };
  const decades = (lo, hi, count) => {
    const [first, last] = [Math.floor(lo), Math.ceil(hi)];
    const stride = Math.max(1, Math.ceil((last - first) / count));
    const factors = last - first > 3 ? [1] : last - first > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
    const ticks = [];
    for (let e = first; e <= last; e += stride) {
      for (const f of factors) {
        const log = e + Math.log10(f);
        if (log >= lo && log <= hi) ticks.push(Number(`${f}e${e}`));
      }
    }
    return ticks;
  };
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
  const label = (v) => {
    const size = Math.abs(v);
    if (size !== 0 && (size < 1e-3 || size >= 1e15)) return v.toExponential().replace("e+", "e");
    return size >= 1e4 ? compact.format(v) : String(v);
  };
  const scale = (values, log, from, to) => {
    const seen = values.map((v) => (log ? Math.log10(v) : v));
    let [lo, hi] = [Math.min(...seen), Math.max(...seen)];
    const pad = (hi - lo) * 0.06 || Math.abs(hi) * 0.1 || 1;
    [lo, hi] = [lo - pad, hi + pad];
    const count = Math.max(2, Math.round(Math.abs(to - from) / 95));
    const place = (v) => from + (((log ? Math.log10(v) : v) - lo) / (hi - lo)) * (to - from);
    return { place, ticks: log ? decades(lo, hi, count) : steps(lo, hi, count) };
  };
  // Kendall's tau-b of a few hundred points: all pairs.
  const tau = (points) => {
    let [difference, x, y] = [0, 0, 0];
    for (let i = 0; i < points.length; i += 1) {
      for (let j = 0; j < i; j += 1) {
        const dx = Math.sign(points[i].x - points[j].x);
        const dy = Math.sign(points[i].y - points[j].y);
        [difference, x, y] = [difference + dx * dy, x + dx * dx, y + dy * dy];
      }
    }
    return x && y ? difference / Math.sqrt(x) / Math.sqrt(y) : null;
  };

  let points = [];
  let current = null;
  const draw = () => {
    const [x, y] = ["x", "y"].map((which) => ({ axis: axes[Number(byId(which).value)], log: byId(`${which}-log`).checked }));
    const fits = (v, log) => v !== null && Number.isFinite(v) && (!log || v > 0);
    points = models.map((model) => ({ model, x: value(x.axis, model), y: value(y.axis, model) }))
      .filter((p) => fits(p.x, x.log) && fits(p.y, y.log));
    point(null);
    const [width, height] = [chart.clientWidth || 1000, chart.clientHeight || 440];
    const frame = { left: 76, right: width - 14, top: 12, bottom: height - 52 };
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    chart.replaceChildren();
    const missing = models.length - points.length;
    const left = missing ? ` ${missing} without a value${x.log || y.log ? " above 0" : ""} ${missing === 1 ? "is" : "are"} left out.` : "";
    if (!points.length) {
      chart.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No model has both values."));
      byId("chart-note").textContent = left;
      return;
    }
    const across = scale(points.map((p) => p.x), x.log, frame.left, frame.right);
    const up = scale(points.map((p) => p.y), y.log, frame.bottom, frame.top);
    for (const tick of across.ticks) {
      const at = across.place(tick);
      chart.append(svg("line", { class: "grid", x1: at, x2: at, y1: frame.top, y2: frame.bottom }));
      chart.append(svg("text", { x: at, y: frame.bottom + 18, "text-anchor": "middle" }, label(tick)));
    }
    for (const tick of up.ticks) {
      const at = up.place(tick);
      chart.append(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: at, y2: at }));
      chart.append(svg("text", { x: frame.left - 8, y: at + 4, "text-anchor": "end" }, label(tick)));
    }
    chart.append(svg("path", { class: "frame", d: `M${frame.left} ${frame.top}V${frame.bottom}H${frame.right}` }));
    const title = ({ axis, log }) => axis.title + (log ? " (log)" : "");
    chart.append(svg("text", { class: "title", x: (frame.left + frame.right) / 2, y: height - 12, "text-anchor": "middle" }, title(x)));
    chart.append(svg("text", { class: "title", transform: `translate(15 ${(frame.top + frame.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, title(y)));
    const many = points.length > 60;
    for (const p of points) {
      [p.cx, p.cy] = [across.place(p.x), up.place(p.y)];
      p.circle = svg("circle", { cx: p.cx, cy: p.cy, r: many ? 4 : 5.5, class: p.model.shown ? "" : "off" });
      chart.append(p.circle);
    }
    if (points.length <= 40) names(frame);
    points.sort((a, b) => a.cx - b.cx);
    const found = tau(points);
    byId("chart-note").textContent = `${points.length} models. Kendall's tau-b between the two axes: ${found === null ? "not defined" : found.toFixed(3)}.${left}`
      + " Point at a model for its values, or step through them with the arrow keys.";
  };
  // A name beside each point where there is room.
  const names = (frame) => {
    const taken = points.map((p) => [p.cx - 6, p.cy - 6, p.cx + 6, p.cy + 6]);
    const free = (box, own) => box[0] >= frame.left && box[2] <= frame.right && box[1] >= 0 && box[3] <= frame.bottom
      && taken.every((other, i) => i === own || box[2] < other[0] || other[2] < box[0] || box[3] < other[1] || other[3] < box[1]);
    points.forEach((p, own) => {
      if (!p.model.shown) return;
      const text = svg("text", { class: "name" }, p.model.name.replace(/\.onnx$/, ""));
      chart.append(text);
      const length = text.getComputedTextLength();
      const places = [
        [p.cx + 9, p.cy + 4], [p.cx - 9 - length, p.cy + 4], [p.cx - length / 2, p.cy - 10], [p.cx - length / 2, p.cy + 18],
      ];
      const place = places.find(([left, base]) => free([left, base - 11, left + length, base + 3], own));
      if (!place) { text.remove(); return; }
      taken.push([place[0], place[1] - 11, place[0] + length, place[1] + 3]);
      text.setAttribute("x", place[0]);
      text.setAttribute("y", place[1]);
    });
  };
  // Shows which model is pointed at, in the plot and in the table.
  const point = (next) => {
    if (current === next) return;
    if (current) [current.circle, current.model.row].forEach((part) => part.classList.remove("on"));
    current = next;
    tip.hidden = !next;
    if (!next) return;
    [next.circle, next.model.row].forEach((part) => part.classList.add("on"));
    const name = document.createElement("b");
    name.textContent = next.model.name;
    const line = (which, v) => {
      const text = document.createElement("div");
      text.textContent = `${axes[Number(byId(which).value)].title}: ${number(v)}`;
      return text;
    };
    tip.replaceChildren(name, line("x", next.x), line("y", next.y));
    const [width, height] = [chart.clientWidth, chart.clientHeight];
    const left = next.cx + 14 + tip.offsetWidth > width ? next.cx - 14 - tip.offsetWidth : next.cx + 14;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, Math.min(next.cy - 20, height - tip.offsetHeight))}px`;
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const far = (p) => (p.cx - event.clientX + box.left) ** 2 + (p.cy - event.clientY + box.top) ** 2;
    const near = points.filter((p) => p.model.shown).reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    point(near && far(near) < 24 ** 2 ? near : null);
  });
  chart.addEventListener("pointerleave", () => point(null));
  chart.addEventListener("blur", () => point(null));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const shown = points.filter((p) => p.model.shown);
    if (event.key === "Escape") point(null);
    if (!step || !shown.length) return;
    event.preventDefault();
    const at = current ? shown.indexOf(current) + step : step > 0 ? 0 : shown.length - 1;
    point(shown[Math.max(0, Math.min(at, shown.length - 1))]);
  });
  body.addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr");
    points.forEach((p) => p.circle.classList.toggle("on", p.model.row === row));
  });
  body.addEventListener("pointerleave", () => points.forEach((p) => p.circle.classList.remove("on")));

  axes.forEach((axis, at) => {
    for (const which of ["x", "y"]) byId(which).append(new Option(axis.title, String(at)));
  });
  const find = (field) => axes.findIndex((axis) => axis.field === field);
  const scores = axes.map((axis, at) => [axis.field, at]).filter(([field]) => field === "score").map(([, at]) => at);
  const x = scores.length ? scores[0] : find("parameters");
  const y = find("accuracy") >= 0 ? find("accuracy") : scores.length > 1 ? scores[1] : find("parameters");
  choose("x", x);
  choose("y", y);
  for (const which of ["x", "y"]) {
    byId(which).addEventListener("change", () => { choose(which, Number(byId(which).value)); draw(); });
    byId(`${which}-log`).addEventListener("change", draw);
  }
  if (!models.length) byId("plot").hidden = true;
  else new ResizeObserver(() => draw()).observe(chart);
})();
