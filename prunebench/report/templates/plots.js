// Trade-off plots: one card per data set, model and schedule, three panels each.
const SUBJECTS = 3;
const SIZE = { width: 380, height: 260, left: 40, right: 8, top: 22, bottom: 38 };
const Y = QUALITY.filter(({ better, key }) => better && COLUMN.has(`final.${key}`));
const X = [...["macs", "params", "nonzero_params"].map((key) => METRICS.get(key)).filter(Boolean), ...CLOCKS];
const methodIndex = new Map(D.methods.map((method, i) => [method, i]));
const plots = { limit: SUBJECTS };
const CROWD = 24; // points; more than that are drawn smaller, with their whiskers in the background
const quality = () => Y.find(({ key }) => key === state.y) ?? Y[0];

const colour = (i) => `s${i % 8}`;
const shapeOf = (i) => (i + Math.floor(i / 8)) % 8;

// Eight shapes that stay distinct without colour; r is about the radius.
function shapePath(kind, x, y, r) {
  const polygon = (list) => `M${list.map(([dx, dy]) => `${x + dx * r} ${y + dy * r}`).join("L")}Z`;
  const turn = (count, inner, start) => polygon([...Array(count * (inner ? 2 : 1)).keys()].map((k) => {
    const radius = inner && k % 2 ? inner : 1.25;
    const angle = start + (2 * Math.PI * k) / (count * (inner ? 2 : 1));
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  }));
  const plus = [[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1],
    [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]];
  const half = Math.SQRT1_2;
  return [
    () => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    () => polygon([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    () => turn(3, 0, -Math.PI / 2),
    () => turn(4, 0, 0),
    () => turn(3, 0, Math.PI / 2),
    () => polygon(plus),
    () => polygon(plus.map(([a, b]) => [half * (a - b), half * (a + b)])),
    () => turn(5, 0.55, -Math.PI / 2),
  ][kind]();
}
const marker = (i, x, y, r = 4.5) => svg("path", { class: "shape", d: shapePath(shapeOf(i), x, y, r) });

function ticks(low, high, wanted = 5) {
  const raw = (high - low) / wanted || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= raw * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) + (Math.abs(step / unit - 2.5) < 1e-9 ? 1 : 0);
  const list = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) list.push(k * step);
  return list.map((value) => [value, fixed(value, digits)]);
}

// An empty chart with ticks; gives the drawing and its two scales. domain: {x: [low, high], y: [low, high]}
function frame(domain, { label, xLabel, yLabel, size = SIZE, xTicks = 5, yTicks = 5 }) {
  const { width, height, left, right, top, bottom } = size;
  const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  const x = scale(domain.x, left, width - right);
  const y = scale(domain.y, height - bottom, top);
  const node = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  for (const [value, text] of ticks(...domain.y, yTicks)) {
    node.append(svg("line", { class: "tick", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  for (const [value, text] of ticks(...domain.x, xTicks)) {
    node.append(svg("line", { class: "tick", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
      svg("text", { x: x(value), y: height - bottom + 15, "text-anchor": "middle" }, text));
  }
  node.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
  if (yLabel) node.append(svg("text", { x: 2, y: top - 10 }, yLabel));
  return { node, x, y };
}

function padded(values, { share = 0.06, least = -Infinity, most = Infinity } = {}) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * share;
  return [Math.max(least, low - room), Math.min(most, high + room)];
}

// The points (x, y) that no other beats, by rising x; best is +1 if more y is better.
function front(list, best) {
  const kept = [];
  for (const point of [...list].sort((a, b) => a.x - b.x || best * (b.y - a.y))) {
    if (!kept.length || best * point.y > best * kept.at(-1).y) kept.push(point);
  }
  return kept;
}

function panel(items, { key, axis: xLabel, factor, place }, title, metric, size = SIZE) {
  const { axis: yLabel, factor: times } = metric;
  const [name, good, isShare] = [`final.${key}`, `final.${metric.key}`, metric.scale === 100];
  const timed = place === "latency" ? commonMachine(items) : null;
  const all = items.filter((item) => item.get(name) && item.get(good) && (!timed || item.first.machine === timed))
    .map((item) => ({ item, x: item.mean(name) * factor, y: item.mean(good) * times,
      sd: (item.get(good).sd ?? 0) * times, wide: place === "latency" ? spreadOf(item, name) : 0 }));
  if (!all.length) return el("figure", {}, el("figcaption", {}, `${xLabel}: not measured`));
  const dense = summarise(items.map((item) => item.mean(`dense.${metric.key}`)).filter((v) => v !== null));
  const denseX = summarise(all.map(({ item }) => item.mean(`dense.${key}`)).filter((v) => v !== null));
  const known = dense && denseX ? { x: denseX.mean * factor, y: dense.mean * times } : null;
  const lowest = state.range && isShare && metric.better === "higher" && known ? known.y - Number(state.range) : -Infinity;
  const list = all.filter((p) => p.y >= lowest);
  const further = timed === null ? furtherPoints(all, { key, factor }, metric).filter((p) => p.y >= lowest) : [];
  const below = all.length - list.length;
  if (!list.length) return el("figure", {}, el("figcaption", {}, `${xLabel}: all ${below} configurations lie farther below`));
  const chart = frame({
    x: padded([...list.flatMap((p) => [Math.max(0, p.x - p.wide), p.x + p.wide]), ...further.map((p) => p.x), ...(known ? [known.x] : [])], { least: 0 }),
    y: padded([...list.flatMap((p) => [p.y - p.sd, p.y + p.sd]), ...further.map((p) => p.y), ...(known ? [known.y] : [])], { most: isShare ? 100 : Infinity }),
  }, { label: `${yLabel} against ${xLabel}, ${title}: ${list.length} configurations`, xLabel, yLabel, size });
  drawFront(chart, list, known, metric);
  drawFurther(chart, further, metric, xLabel);
  drawPoints(chart, list, metric, xLabel, timed === null);
  const others = timed ? items.filter((item) => item.get(name) && item.get(good)).length - all.length : 0;
  const notes = [timed, others ? `${others} measured on other machines left out` : "", below ? `${below} farther below left out` : ""];
  const alone = list.every(({ item }) => item.runs.length === 1) ? "one net each: no spread over nets is known" : "";
  const timings = list.some((p) => p.wide) ? "horizontal whiskers: spread of the repeated timings" : "";
  const note = [alone, timings, ...notes].filter(Boolean).join("; ");
  return el("figure", {}, chart.node, note ? el("figcaption", {}, note) : null);
}

// Where the trained nets of the configurations lie at their further operating points.
function furtherPoints(list, { key, factor }, metric) {
  return list.flatMap(({ item }) => item.runs.flatMap((run) => run.points.map(({ name, get }) => ({ run, name, cost: get(key), quality: get(metric.key) }))))
    .filter(({ cost, quality }) => cost !== null && quality !== null)
    .map(({ run, name, cost, quality }) => ({ run, name, x: cost * factor, y: quality * metric.factor }));
}

function drawFurther({ node, x, y }, further, metric, xLabel) {
  for (const [run, found] of groupBy(further, (p) => p.run)) {
    const index = methodIndex.get(run.method);
    node.append(svg("g", { class: `further ${colour(index)}` }, found.map((p) => explain(marker(index, x(p.x), y(p.y), 3),
      [`${run.method}, operating point ${p.name} of seed ${run.seed}`, `${metric.axis} ${plain(p.y, metric.digits)}`, `${xLabel} ${plain(p.x)}`].join("\n")))));
  }
}

// Half the width of a point's horizontal whisker: the spread of the repeated timings of a run.
function spreadOf(item, name) {
  return (item.mean(name.replace("_ms", "_spread_ms")) ?? 0) / 2;
}

function commonMachine(items) {
  const counts = groupBy(items.filter((item) => item.first.machine), (item) => item.first.machine);
  return [...counts].sort((a, b) => b[1].length - a[1].length)[0]?.[0] ?? "";
}

function drawFront({ node, x, y }, list, known, metric) {
  const steps = front(list, metric.better === "higher" ? 1 : -1);
  const path = steps.map((p, i) => (i ? `H${x(p.x)}V${y(p.y)}` : `M${x(p.x)} ${y(p.y)}`)).join("");
  if (steps.length > 1) node.append(svg("path", { class: "front", d: path }));
  if (!known) return;
  const [from, to] = [x(Math.min(...list.map((p) => p.x))), x(known.x)];
  node.append(svg("line", { class: "dense", x1: from, x2: to, y1: y(known.y), y2: y(known.y) }),
    svg("text", { x: to, y: y(known.y) - 6, "text-anchor": "end" }, "dense"));
}

function drawPoints({ node, x, y }, list, metric, xLabel, joined) {
  const crowded = list.length > CROWD;
  // times of nets that differ little go to and fro: a line through them says nothing
  const lines = joined ? groupBy(list, ({ item: { first } }) => JSON.stringify([first.method, first.schedule, first.dataset, first.model, first.origin, first.row !== ""])) : new Map();
  for (const found of lines.values()) {
    const path = [...found].sort((a, b) => a.item.mean("macs_removed") - b.item.mean("macs_removed")).map((p, i) => `${i ? "L" : "M"}${x(p.x)} ${y(p.y)}`).join("");
    if (found.length > 1) node.append(svg("g", { class: colour(methodIndex.get(found[0].item.first.method)) }, svg("path", { class: "thin", d: path })));
  }
  const whiskers = (p) => [
    p.sd ? svg("line", { class: "whisker", x1: x(p.x), x2: x(p.x), y1: y(p.y - p.sd), y2: y(p.y + p.sd) }) : null,
    p.wide ? svg("line", { class: "whisker", x1: x(Math.max(0, p.x - p.wide)), x2: x(p.x + p.wide), y1: y(p.y), y2: y(p.y) }) : null,
  ];
  const made = [...list].sort((a, b) => a.x - b.x).map((p, i) => {
    const { first, runs: own } = p.item;
    const index = methodIndex.get(first.method);
    const text = [`${first.method}${first.label ? ` · ${first.label}` : ""}`,
      `${metric.axis} ${plain(p.y, metric.digits)}${p.sd ? ` ± ${plain(p.sd, metric.digits)}` : ""} (${plural(own.length, "net")})`,
      `${xLabel} ${plain(p.x)}`, `${first.schedule}, MACs removed ${percent(p.item.mean("macs_removed"), 1)} %`].join("\n");
    return explain(svg("a", { href: link(first), class: `point ${colour(index)}`, tabindex: i ? -1 : 0, "aria-label": text },
      whiskers(p), marker(index, x(p.x), y(p.y), crowded ? 3.4 : 4.5)), text);
  });
  node.append(svg("g", { class: crowded ? "crowd" : null }, made));
  rove(node, made);
}

// One stop of the tab key per plot; the arrow keys walk along the points.
function rove(node, made) {
  node.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const at = made.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = made[(at + step + made.length) % made.length];
    made[at].setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
}

// What the plots of these runs show: the chosen quality; beside the first headline that of nets of another task.
function metricOf(list) {
  const wanted = state.y ? [quality()] : Y.filter(({ headline }) => headline);
  return wanted.find((metric) => list.some((run) => run.get(`final.${metric.key}`) !== null)) ?? null;
}

// What a click on the legend has picked out; a plot without any of it shows all.
const isolated = (items) => (items.some(({ first }) => state.only.has(first.method)) ? items.filter(({ first }) => state.only.has(first.method)) : items);

function legend(items) {
  const methods = [...groupBy(items, (item) => item.first.method)].sort((a, b) => methodIndex.get(a[0]) - methodIndex.get(b[0]));
  return el("ul", { class: "legend", "aria-label": "Methods; a click shows one alone" }, methods.map(([method, found]) => {
    const i = methodIndex.get(method);
    const faded = isolated(items).length < items.length && !state.only.has(method);
    return el("li", { class: `${colour(i)}${faded ? " faded" : ""}` }, el("button", { type: "button", "aria-pressed": String(state.only.has(method)),
      title: "show it alone, or all again; with Ctrl or Shift: beside the others", click: (event) => isolate(method, event.ctrlKey || event.shiftKey || event.metaKey) },
    svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, marker(i, 7, 7)), el("span", {}, `${method} (${found.length})`)));
  }));
}

function isolate(method, beside) {
  const alone = state.only.size === 1 && state.only.has(method);
  if (!beside) state.only = new Set(alone ? [] : [method]);
  else if (!state.only.delete(method)) state.only.add(method);
  redraw();
}

function drawSubjects(list) {
  const items = averaged(list.filter((run) => run.measured && metricOf([run]) !== null));
  // what was trained after the cut and what was not are two questions: each schedule has its own plots
  const found = subjects(items, ({ first }) => `${subjectName(first)}, ${first.schedule}`);
  const cards = found.slice(0, plots.limit).map(([name, members]) => subject(name, members));
  $("#subjects").replaceChildren(...(cards.length ? cards : [el("p", { class: "muted" }, "No measured run fits these filters.")]));
  const rest = found.length - cards.length;
  $("#more-subjects").hidden = rest <= 0;
  $("#more-subjects").textContent = rest > 2 * SUBJECTS ? `Show ${2 * SUBJECTS} of ${rest} more data sets, models and schedules` : `Show ${rest} more`;
}

function subject(name, items) {
  const metric = metricOf(items.map((item) => item.first));
  // where single weights are pruned the parameters stay as many as they were
  const isSparse = items.some((item) => item.get("final.nonzero_params") && item.mean("final.nonzero_params") < item.mean("final.params"));
  const shown = ["macs", isSparse ? "nonzero_params" : "params", state.clock].map((key) => METRICS.get(key)).filter(Boolean);
  return el("article", { class: "subject" }, el("h4", {}, name), legend(items),
    el("div", { class: "panels" }, shown.map((axis) => panel(isolated(items), axis, name, metric))));
}

// Both kinds of plots; the tables do not depend on the axes.
function redraw() {
  const list = filtered();
  drawBoard(list);
  drawSubjects(list);
  remember();
}

function showAxes() {
  $("#metric").value = quality()?.key ?? "";
  $("#range").value = state.range;
  $("#clock").value = state.clock;
  $("#x-axis").value = state.x;
  $("#under").value = state.under;
}

function buildPlots() {
  for (const { key, axis } of Y) $("#metric").append(el("option", { value: key }, axis));
  for (const { key, axis } of CLOCKS) $("#clock").append(el("option", { value: key }, axis));
  for (const { key, axis } of X) $("#x-axis").append(el("option", { value: key }, axis));
  for (const name of FILTER_VALUES.get("schedule")) $("#under").append(el("option", { value: name }, name));
  const follow = (selector, name) => $(selector).addEventListener("change", (event) => { state[name] = event.target.value; redraw(); });
  for (const [selector, name] of [["#metric", "y"], ["#range", "range"], ["#clock", "clock"], ["#x-axis", "x"], ["#under", "under"]]) follow(selector, name);
  $("#more-subjects").addEventListener("click", () => { plots.limit += 2 * SUBJECTS; drawSubjects(filtered()); });
  showAxes();
}
