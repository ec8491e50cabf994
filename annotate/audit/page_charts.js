"use strict";
// Charts are drawn from the report's figures: bars as plain boxes, the rest as small inline SVG.

function bar(name, value, max, label, kind, onclick) {
  const parts = [
    el("span", { class: "name", title: name }, name),
    el("span", { class: "track" }, el("span", { class: "fill", width: (max ? (100 * value) / max : 0).toFixed(2) + "%" })),
    el("span", { class: "num" }, el("b", {}, whole(value)), label),
  ];
  return onclick
    ? el("button", { type: "button", class: "bar " + (kind || ""), onclick }, parts)
    : el("div", { class: "bar " + (kind || "") }, parts);
}

function histogram(h, { width = 420, height = 130, label = "" } = {}) {
  const top = Math.max(1, ...h.counts);
  const step = (width - 20) / h.counts.length;
  const bars = h.counts.map((count, i) => {
    const tall = (count / top) * (height - 34);
    const low = h.low + ((h.high - h.low) * i) / h.counts.length;
    return svg("rect", { x: (10 + i * step + 1).toFixed(1), y: (height - 20 - tall).toFixed(1), width: (step - 2).toFixed(1), height: tall.toFixed(1), rx: 2, fill: "var(--accent)" },
      svg("title", {}, `from ${low.toFixed(2)}: ${whole(count)} records`));
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((t) =>
    svg("text", { x: 10 + t * (width - 20), y: height - 5, "text-anchor": t === 0 ? "start" : t === 1 ? "end" : "middle" }, figure(h.low + (h.high - h.low) * t)));
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("line", { class: "axis", x1: 10, x2: width - 10, y1: height - 20, y2: height - 20 }), bars, ticks);
}

function heatmap(tags, pairs, onpick) {
  const size = 17, left = 150, top = 112, right = 84;
  const used = tags.map((tag, i) => i).filter((i) => pairs[i][i] > 0);
  const width = left + used.length * size + right, height = top + used.length * size + 4;
  const out = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Share of records of the row's tag that also carry the column's tag" });
  used.forEach((i, a) => {
    out.append(svg("text", { x: left - 6, y: top + a * size + 12.5, "text-anchor": "end" }, tags[i].name));
    const turn = `translate(${left + a * size + 12},${top - 6}) rotate(-50)`;
    out.append(svg("text", { transform: turn }, clip(tags[i].name, 21)));
    used.forEach((j, b) => {
      const part = pairs[i][j] / pairs[i][i];
      const cell = svg("rect", { x: left + b * size, y: top + a * size, width: size - 1.5, height: size - 1.5, rx: 3, class: part > 0 ? "some" : "none" },
        svg("title", {}, `${percent(part)} of ${tags[i].name} (${whole(pairs[i][j])} records) also carry ${tags[j].name}`));
      if (part > 0) cell.style.opacity = (0.08 + 0.92 * part).toFixed(3);
      cell.addEventListener("click", () => onpick(tags[i].id, tags[j].id));
      out.append(cell);
    });
  });
  return el("div", { class: "heat" }, out);
}

// An estimate with its interval on a fixed axis.
function interval(e, { low = 0, high = 1, width = 150 } = {}) {
  const x = (v) => (4 + ((Math.min(Math.max(v, low), high) - low) / (high - low)) * (width - 8)).toFixed(1);
  const out = svg("svg", { viewBox: `0 0 ${width} 14`, width, height: 14, "aria-hidden": "true" },
    svg("line", { class: "axis", x1: 4, x2: width - 4, y1: 7, y2: 7 }));
  if (e.value !== null) {
    out.append(svg("line", { x1: x(e.low), x2: x(e.high), y1: 7, y2: 7, stroke: "var(--accent)", "stroke-width": 3, "stroke-linecap": "round", opacity: 0.45 }));
    out.append(svg("circle", { cx: x(e.value), cy: 7, r: 4, fill: "var(--accent)" }));
  }
  return out;
}

function reliabilityPlot(bins) {
  const side = 280, pad = 34;
  const at = (v) => pad + v * (side - pad - 10);
  const up = (v) => side - pad - v * (side - pad - 10);
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  const out = svg("svg", { class: "chart square", viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": "Reliability: stated probability against observed share" });
  for (const t of [0, 0.25, 0.5, 0.75, 1]) {
    out.append(svg("line", { class: "grid-line", x1: at(0), x2: at(1), y1: up(t), y2: up(t) }));
    out.append(svg("text", { x: pad - 6, y: up(t) + 4, "text-anchor": "end" }, t));
    out.append(svg("text", { x: at(t), y: side - pad + 16, "text-anchor": "middle" }, t));
  }
  out.append(svg("line", { x1: at(0), y1: up(0), x2: at(1), y2: up(1), stroke: "var(--faint)", "stroke-dasharray": "5 4" }));
  for (const bin of bins) {
    const x = at(bin.mean_probability);
    out.append(svg("line", { x1: x, x2: x, y1: up(bin.observed.low), y2: up(bin.observed.high), stroke: "var(--accent)", "stroke-width": 2, opacity: 0.45 }));
    out.append(svg("circle", { cx: x, cy: up(bin.observed.value), r: (3 + 5 * Math.sqrt(bin.count / most)).toFixed(1), fill: "var(--accent)" },
      svg("title", {}, `stated ${figure(bin.mean_probability)}, observed ${between(bin.observed)}, ${whole(bin.count)} answers`)));
  }
  out.append(svg("text", { x: at(0.5), y: side - 3, "text-anchor": "middle" }, "stated probability"));
  out.append(svg("text", { transform: `translate(9,${up(0.5)}) rotate(-90)`, "text-anchor": "middle" }, "observed share"));
  return out;
}
