"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = JSON.parse(byId("points").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const format = (v) => (v === null ? "–" : Math.abs(v) >= 1e6 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(Number(v.toPrecision(5))));

  // Ranks from the lowest up; equal values share the mean of their ranks.
  const ranks = (values) => {
    const order = values.map((v, i) => i).filter((i) => values[i] !== null).sort((a, b) => values[a] - values[b]);
    const found = values.map(() => null);
    for (let from = 0; from < order.length;) {
      let to = from;
      while (to < order.length && values[order[to]] === values[order[from]]) to += 1;
      for (let i = from; i < to; i += 1) found[order[i]] = (from + to + 1) / 2;
      from = to;
    }
    return found;
  };
  const steps = (lo, hi, count) => {
    const rough = (hi - lo) / count;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough) || rough;
    const ticks = [];
    for (let i = Math.ceil(lo / step); i * step <= hi + step * 1e-9; i += 1) ticks.push(Number((i * step).toPrecision(12)));
    return ticks;
  };
  const range = (values) => {
    const known = values.filter((v) => v !== null);
    const [lo, hi] = [known.reduce((a, b) => Math.min(a, b), Infinity), known.reduce((a, b) => Math.max(a, b), -Infinity)];
    const pad = (hi - lo) * 0.05 || Math.abs(hi) * 0.1 || 1;
    return [lo - pad, hi + pad];
  };

  const draw = (panel, set, hit) => {
    const { canvas, xs } = panel;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const c = canvas.getContext("2d");
    c.scale(ratio, ratio);
    c.font = "11px system-ui, sans-serif";
    const frame = { left: 44, right: width - 8, top: 8, bottom: height - 24 };
    const [x0, x1] = range(xs);
    const [y0, y1] = range(set.accuracies);
    const across = (v) => frame.left + ((v - x0) / (x1 - x0)) * (frame.right - frame.left);
    const up = (v) => frame.bottom - ((v - y0) / (y1 - y0)) * (frame.bottom - frame.top);
    c.strokeStyle = colour("--line");
    c.fillStyle = colour("--muted");
    for (const tick of steps(x0, x1, 4)) {
      c.beginPath(); c.moveTo(across(tick), frame.top); c.lineTo(across(tick), frame.bottom); c.stroke();
      c.textAlign = "center";
      c.fillText(format(tick), across(tick), frame.bottom + 15);
    }
    for (const tick of steps(y0, y1, 4)) {
      c.beginPath(); c.moveTo(frame.left, up(tick)); c.lineTo(frame.right, up(tick)); c.stroke();
      c.textAlign = "right";
      c.fillText(format(tick), frame.left - 5, up(tick) + 4);
    }
    c.fillStyle = colour("--accent");
    c.globalAlpha = xs.length > 1000 ? 0.35 : 0.6;
    const radius = xs.length > 1000 ? 1.6 : 2.6;
    panel.points = [];
    xs.forEach((v, i) => {
      if (v === null) return;
      const [x, y] = [across(v), up(set.accuracies[i])];
      panel.points.push({ x, y, i });
      c.beginPath(); c.arc(x, y, radius, 0, 7); c.fill();
    });
    c.globalAlpha = 1;
    if (hit !== undefined) {
      const at = panel.points.find((p) => p.i === hit);
      if (at) { c.strokeStyle = colour("--text"); c.lineWidth = 2; c.beginPath(); c.arc(at.x, at.y, 5, 0, 7); c.stroke(); }
    }
  };

  let panels = [];
  let set = null;
  const build = () => {
    set = all[Number(byId("of").value)];
    panels = set.scores.map(({ score, tau, values }) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const note = document.createElement("span");
      const missing = values.filter((v) => v === null).length;
      note.textContent = ` tau-b ${tau === null ? "not defined" : tau.toFixed(3)}${missing ? `, ${missing} without a score` : ""}`;
      caption.append(score, note);
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${set.truth} against ${score}: ${note.textContent.trim()}`);
      const tip = document.createElement("div");
      tip.className = "tip";
      tip.hidden = true;
      figure.append(caption, canvas, tip);
      const panel = { figure, canvas, tip, score, values, xs: byId("ranks").checked ? ranks(values) : values, points: [] };
      canvas.addEventListener("pointermove", (event) => point(panel, event));
      canvas.addEventListener("pointerleave", () => show(undefined));
      return panel;
    });
    byId("panels").replaceChildren(...panels.map((panel) => panel.figure));
    byId("plots-note").textContent = `${set.truth} of ${set.names.length} networks${set.of > set.names.length ? `, evenly taken from ${set.of}` : ""}.`
      + " Point at a network to find it in all plots.";
    show(undefined);
  };
  // Shows which network is pointed at, in all plots.
  const show = (hit, from) => {
    for (const panel of panels) {
      draw(panel, set, hit);
      panel.tip.hidden = panel !== from;
    }
  };
  const point = (panel, event) => {
    const box = panel.canvas.getBoundingClientRect();
    const far = (p) => (p.x - event.clientX + box.left) ** 2 + (p.y - event.clientY + box.top) ** 2;
    const near = panel.points.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    if (!near || far(near) > 18 ** 2) { show(undefined); return; }
    const name = document.createElement("b");
    name.textContent = set.names[near.i];
    const line = document.createElement("div");
    line.textContent = `${panel.score}: ${format(panel.values[near.i])} · ${set.truth}: ${format(set.accuracies[near.i])}`;
    panel.tip.replaceChildren(name, line);
    show(near.i, panel);
    const left = near.x + 12 + panel.tip.offsetWidth > panel.canvas.clientWidth ? near.x - 12 - panel.tip.offsetWidth : near.x + 12;
    panel.tip.style.left = `${Math.max(0, left)}px`;
    panel.tip.style.top = `${panel.canvas.offsetTop + Math.max(0, near.y - 16)}px`;
  };

  if (!all.length) return;
  all.forEach(({ title }, at) => byId("of").append(new Option(title, String(at))));
  document.querySelectorAll(".script").forEach((part) => { part.hidden = false; });
  byId("of").addEventListener("change", build);
  byId("ranks").addEventListener("change", build);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(undefined));
  build();
  new ResizeObserver(() => show(undefined)).observe(byId("panels"));
})();
