"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [DOMINATED, ON_FRONT, INFEASIBLE, NOT_DEPLOYABLE] = [0, 1, 2, 3];
  const SYMBOLS = ["circle", "circle", "circle-open", "diamond-open"];
  const FRONT_MARGIN = { l: 62, r: 16, t: 34, b: 50 };
  const COLOURS = 8; // further students share one grey
  // Only these buttons: one that plotly adds by itself would send the chart to its makers' server.
  const tools = { displaylogo: false, responsive: true, plotlyServerURL: "", showSendToCloud: false };
  const config = { ...tools, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
  const bare = { ...tools, displayModeBar: false };
  const narrow = () => document.documentElement.clientWidth < 640;
  const at = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads a few HTML tags in its texts; names must show as they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const colour = (index) => (index < COLOURS ? css(`--c${index}`) : css("--other"));

  const digits = (v) => (v >= 1000 ? Math.round(v).toLocaleString("en") : v >= 100 ? v.toFixed(1) : v.toPrecision(3));
  const prefixed = (v, base, unit) => {
    const names = ["", base === 1024 ? "Ki" : "k", "M", "G", "T"].map((n, i) => (base === 1024 && i > 1 ? n + "i" : n));
    let power = 0;
    while (v >= 0.9995 * base && power < 4) { v /= base; power += 1; }
    return `${power ? v.toFixed(v >= 100 ? 0 : v >= 10 ? 1 : 2) : v} ${names[power]}${unit}`;
  };
  // As edgesearch.search.study.duration says them.
  const duration = (s) => (s < 1 ? `${(1000 * s).toFixed(0)} ms` : s < 120 ? `${s.toFixed(1)} s` : s < 7200 ? `${(s / 60).toFixed(1)} min` : `${(s / 3600).toFixed(1)} h`);
  const FIGURES = {
    accuracy: (v) => `accuracy ${(100 * v).toFixed(2)} %`,
    fps: (v) => `${digits(v)} FPS`,
    latency_ms: (v) => `${digits(v)} ms`,
    size_bytes: (v) => prefixed(v, 1024, "B"),
    macs: (v) => `${prefixed(v, 1000, "MAC")}`,
    parameters: (v) => `${prefixed(v, 1000, "")} parameters`,
  };

  const t = data.trials;
  const hover = (i) => {
    const lines = [`<b>trial ${t.number[i]}</b>${t.number[i] === data.knee ? ", the knee" : ""}`, plain(t.recipe[i])];
    const shown = Object.keys(FIGURES).filter((name) => t.figures[name][i] !== null).map((name) => FIGURES[name](t.figures[name][i]));
    lines.push(shown.slice(0, 3).join(", "), shown.slice(3).join(", "));
    const misses = t.misses[t.number[i]];
    if (misses) lines.push(`misses ${Object.entries(misses).map(([name, by]) => `${plain(name)} by ${by}`).join(", ")}`);
    if (t.kind[i] === NOT_DEPLOYABLE) lines.push("for analysis only: the DPU cannot run it");
    return lines.filter(Boolean).join("<br>");
  };

  const base = () => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--soft") },
    hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--ink"), size: 13 }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent") },
    margin: { l: 62, r: 16, t: 10, b: 46 }, hovermode: "closest",
  });
  const axis = (more) => ({
    gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, automargin: true, ticks: "outside",
    tickcolor: css("--line"), ticklen: 4, ...more,
  });
  const metricAxis = (a, range) => axis({
    title: { text: plain(a.title) + (a.log ? " (log scale)" : ""), standoff: 8 }, type: a.log ? "log" : "linear", range,
    ...(a.share ? { tickformat: ",.3~%" } : a.log ? { dtick: "D2", tickformat: ",~r" } : { tickformat: ",~r" }),
  });

  // --- the front
  const extent = (values, a, room) => {
    const scaled = a.log ? values.map(Math.log10) : values;
    let [low, high] = scaled.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, -Infinity]);
    const gap = high > low ? room * (high - low) : 0.05 * Math.abs(high) || 1;
    [low, high] = [low - gap, high + gap];
    return [a.share ? Math.max(low, -0.005) : low, a.share ? Math.min(high, 1.005) : high];
  };
  const pick = (values, indices) => indices.map((i) => values[i]);
  const indices = t.number.map((_, i) => i);
  const members = indices.filter((i) => t.kind[i] === ON_FRONT);
  const rangeOf = (which) => {
    const close = which === "front" && members.length > 0;
    const chosen = close ? members : indices, others = close ? [] : data.published;
    const room = close ? 0.12 : 0.05;
    return [extent([...pick(t.x, chosen), ...others.map((p) => p.fps)], data.x, room), extent([...pick(t.y, chosen), ...others.map((p) => p.accuracy)], data.y, room)];
  };
  let range = "all";

  const dots = () => {
    const groups = data.architectures.map(() => []);
    indices.forEach((i) => { if (t.kind[i] !== ON_FRONT) groups[t.colour[i]].push(i); });
    const crowd = indices.length > 2000 ? 0.35 : 0.6;
    return data.architectures.map((name, index) => ({
      type: "scatter", mode: "markers", name: plain(name), legendgroup: name, showlegend: false, hoverinfo: "text",
      x: pick(t.x, groups[index]), y: pick(t.y, groups[index]), text: groups[index].map(hover),
      marker: {
        color: colour(index), size: indices.length > 2000 ? 5 : 7, opacity: crowd,
        symbol: groups[index].map((i) => SYMBOLS[t.kind[i]]), line: { width: 1 },
      },
    }));
  };
  const rings = () => data.architectures.map((name, index) => {
    const own = members.filter((i) => t.colour[i] === index);
    const shown = own.length ? own : [null]; // an empty trace would have no entry in the legend
    return {
      type: "scatter", mode: "markers", name: plain(name), legendgroup: name, hoverinfo: "text",
      x: shown.map((i) => (i === null ? null : t.x[i])), y: shown.map((i) => (i === null ? null : t.y[i])),
      text: shown.map((i) => (i === null ? "" : hover(i))),
      marker: { color: colour(index), size: 12, line: { color: css("--ink"), width: 1.5 } },
    };
  });
  const kinds = [["published by others", "x-thin", (p) => !p.own], ["studies of edgesearch", "cross-thin", (p) => p.own]];
  const others = () => kinds.map(([name, symbol, is]) => [name, symbol, data.published.filter(is)]).filter(([, , points]) => points.length > 0).map(([name, symbol, points]) => ({
    type: "scatter", mode: "markers", name, hoverinfo: "text",
    x: points.map((p) => p.fps), y: points.map((p) => p.accuracy),
    text: points.map((p) => [`<b>${plain(p.name)}</b>`, plain(p.board), `${FIGURES.accuracy(p.accuracy)}, ${FIGURES.fps(p.fps)}`, plain(p.source)].join("<br>")),
    marker: { color: css("--soft"), size: 8, symbol, line: { color: css("--soft"), width: 1.6 } },
  }));
  const limits = () => {
    const line = { color: css("--warn"), width: 1.5, dash: "dash" };
    const shapes = [], labels = [];
    const where = (a) => (a.log ? Math.log10(a.limit) : a.limit);
    const word = (a) => `${a.maximise ? "min" : "max"} ${a.share ? `${+(100 * a.limit).toFixed(2)} %` : a.limit.toLocaleString("en")}`;
    const label = { showarrow: false, font: { color: css("--warn"), size: 12 }, bgcolor: css("--surface") };
    if (data.x.limit !== null) {
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: data.x.limit, x1: data.x.limit, y0: 0, y1: 1, line, layer: "below" });
      labels.push({ ...label, x: where(data.x), xref: "x", y: 0.01, yref: "paper", xanchor: "left", yanchor: "bottom", text: word(data.x) });
    }
    if (data.y.limit !== null) {
      shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: data.y.limit, y1: data.y.limit, line, layer: "below" });
      labels.push({ ...label, x: 0.005, xref: "paper", y: where(data.y), yref: "y", xanchor: "left", yanchor: "bottom", text: word(data.y) });
    }
    return { shapes, labels };
  };
  // The knee's name where it touches least: the nearest place without a point, a line or the edge under it.
  const kneeLabel = ([[left, right], [low, high]]) => {
    const i = t.number.indexOf(data.knee);
    if (data.knee === null || i < 0 || members.length < 2) return [];
    const width = at("front").clientWidth - FRONT_MARGIN.l - FRONT_MARGIN.r, height = at("front").clientHeight - FRONT_MARGIN.t - FRONT_MARGIN.b;
    const flat = (v, a) => (a.log ? Math.log10(v) : v);
    const spot = (x, y) => [((flat(x, data.x) - left) / (right - left)) * width, (1 - (flat(y, data.y) - low) / (high - low)) * height];
    const points = indices.filter((k) => k !== i).map((k) => [...spot(t.x[k], t.y[k]), t.kind[k] === ON_FRONT ? 8 : 5]);
    const corners = data.steps.map(([x, y]) => spot(x, y));
    const text = `knee: trial ${data.knee}`, half = [4 * text.length + 5, 12];
    const [px, py] = spot(t.x[i], t.y[i]);
    const cost = ([dx, dy]) => {
      const [l, r, u, d] = [px + dx - half[0], px + dx + half[0], py + dy - half[1], py + dy + half[1]];
      const outside = l < 0 || r > width || u < 0 || d > height;
      const touched = points.filter(([x, y, room]) => x > l - room && x < r + room && y > u - room && y < d + room).length;
      const crossed = corners.slice(1).filter(([x, y], k) =>
        Math.max(x, corners[k][0]) > l && Math.min(x, corners[k][0]) < r && Math.max(y, corners[k][1]) > u && Math.min(y, corners[k][1]) < d).length;
      return 1000 * outside + touched + crossed;
    };
    const [out, up] = [data.x.maximise ? 1 : -1, data.y.maximise ? -1 : 1]; // away from what the knee dominates
    const places = [1, 1.6, 2.4, 3.4].flatMap((far) => [[out, up], [0, 1.3 * up], [-out, up], [out, -up], [-out, -up]].map(([x, y]) => [
      x * (half[0] + 4) * Math.sqrt(far), y * 30 * far]));
    const costs = places.map(cost);
    const [ax, ay] = places[costs.indexOf(Math.min(...costs))];
    return [{
      x: flat(t.x[i], data.x), y: flat(t.y[i], data.y), text, ax, ay, arrowcolor: css("--soft"), arrowwidth: 1,
      arrowhead: 0, standoff: 9, font: { color: css("--ink"), size: 13 },
    }];
  };
  const annotations = (ranges) => [...limits().labels, ...kneeLabel(ranges)];
  const drawFront = () => {
    const [xRange, yRange] = rangeOf(range);
    const steps = {
      type: "scatter", mode: "lines", name: "front", hoverinfo: "skip", x: data.steps.map((p) => p[0]), y: data.steps.map((p) => p[1]),
      line: { color: css("--ink"), width: 1.5 },
    };
    const layout = {
      ...base(), xaxis: metricAxis(data.x, xRange), yaxis: metricAxis(data.y, yRange), shapes: limits().shapes, annotations: annotations([xRange, yRange]),
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant" }, margin: FRONT_MARGIN,
    };
    Plotly.react(at("front"), [...others(), ...dots(), ...(data.steps.length ? [steps] : []), ...rings()], layout, narrow() ? bare : config);
  };

  // --- the history and the times
  const drawHistory = () => {
    const { number, share } = data.history;
    const line = {
      type: "scatter", mode: number.length > 1 ? "lines" : "markers", x: number, y: share, line: { shape: "hv", color: css("--accent"), width: 2 },
      fill: "tozeroy", fillcolor: css("--wash"), marker: { color: css("--accent"), size: 8 },
      hovertemplate: "after trial %{x}: %{y:.1%}<extra></extra>",
    };
    const top = Math.min(1.02, 1.12 * Math.max(...share, 0.05));
    const layout = {
      ...base(), xaxis: axis({ title: { text: "trial", standoff: 8 }, showgrid: false, rangemode: "tozero" }),
      yaxis: axis({ tickformat: ".0%", range: [0, top] }), hovermode: "x",
    };
    Plotly.react(at("history"), [line], layout, bare);
  };
  const unitOf = (most) => (most < 300 ? ["s", 1] : most < 18000 ? ["min", 60] : ["h", 3600]);
  const drawStages = () => {
    const kinds = data.stages.map((s) => plain(s.kind));
    const [unit, seconds] = unitOf(Math.max(...data.stages.map((s) => s.spent + s.saved)));
    const bar = (name, field, marker) => ({
      type: "bar", orientation: "h", name, y: kinds, x: data.stages.map((s) => s[field] / seconds), marker,
      text: data.stages.map((s) => duration(s[field])), textposition: "none", hovertemplate: `%{y} ${name}: %{text}<extra></extra>`,
    });
    const saved = { color: css("--wash"), line: { color: css("--accent"), width: 1 }, pattern: { shape: "/", size: 6, fgcolor: css("--accent"), bgcolor: css("--surface") } };
    const layout = {
      ...base(), barmode: "stack", bargap: 0.35, xaxis: axis({ title: { text: unit, standoff: 6 }, tickformat: ",~r" }),
      yaxis: axis({ autorange: "reversed", ticks: "" }), legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal" },
      margin: { l: 80, r: 12, t: 30, b: 42 },
    };
    const any = data.stages.some((s) => s.saved > 0);
    Plotly.react(at("stages"), [bar("spent", "spent", { color: css("--accent") }), ...(any ? [bar("saved by reuse", "saved", saved)] : [])], layout, bare);
  };
  const drawBars = () => {
    const { first, label, width, seconds } = data.bars;
    const totals = first.map((_, i) => Object.values(seconds).reduce((sum, values) => sum + values[i], 0));
    const [unit, scale] = unitOf(Math.max(...totals, 0));
    const traces = Object.entries(seconds).map(([kind, values], index) => ({
      type: "bar", name: plain(kind), x: first.map((n) => n + (width - 1) / 2), width: width * 0.9, y: values.map((v) => v / scale),
      marker: { color: css(`--s${Math.min(index, 9)}`) }, customdata: values.map((v, i) => [label[i], duration(v)]),
      hovertemplate: `trial${width > 1 ? "s" : ""} %{customdata[0]}, ${plain(kind)}: %{customdata[1]}<extra></extra>`,
    }));
    const layout = {
      ...base(), barmode: "stack", xaxis: axis({ title: { text: width > 1 ? `trial, ${width} to a bar` : "trial", standoff: 6 }, showgrid: false, ...(first.length < 9 && width === 1 ? { dtick: 1 } : {}) }),
      yaxis: axis({ title: { text: unit, standoff: 6 }, tickformat: ",~r", rangemode: "tozero" }),
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal" }, margin: { l: 60, r: 12, t: 30, b: 42 },
    };
    Plotly.react(at("bars"), traces, layout, bare);
  };

  const draw = () => {
    if (at("front")) drawFront();
    if (at("history")) drawHistory();
    if (at("stages")) { drawStages(); drawBars(); }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  document.querySelectorAll("[data-range]").forEach((button) => button.addEventListener("click", () => {
    range = button.dataset.range;
    document.querySelectorAll("[data-range]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    const [xRange, yRange] = rangeOf(range);
    Plotly.relayout(at("front"), { "xaxis.range": xRange, "yaxis.range": yRange, annotations: annotations([xRange, yRange]) });
  }));

  // --- tables that sort by a click on a heading
  const compare = (a, b) => (a !== "" && b !== "" && !Number.isNaN(+a) && !Number.isNaN(+b) ? a - b : a === "" ? -1 : b === "" ? 1 : a.localeCompare(b));
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.querySelectorAll("th")];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "descending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.v || (row.cells[column].classList.contains("n") ? "" : row.cells[column].textContent);
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b)) * (rising ? 1 : -1));
      table.tBodies[0].append(...rows);
    }));
  });
  document.documentElement.dataset.drawn = "yes";
})();
