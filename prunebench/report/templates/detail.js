// One run: its numbers, charts and facts, in a dialog that the address names (#run/<id>/<seed>).
const STAGED = D.metrics.filter((metric) => metric.staged);

async function openRun(id, seed) {
  const found = byId.get(id) ?? [];
  await unfold();
  const run = found.find((item) => String(item.seed) === seed) ?? found[0];
  const dialog = $("#detail");
  const body = run ? describe(run, found) : [el("p", {}, "This report has no such run.")];
  $("#detail-title").replaceChildren(run ? run.method : "Unknown run");
  $("#detail-subtitle").textContent = run ? [`${run.model} on ${run.dataset}`, run.schedule, run.label].filter(Boolean).join(" · ") : "";
  $("#detail-body").replaceChildren(...body.filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function describe(run, found) {
  return [
    el("div", { class: "seeds" }, chip(run.status), originChip(run.origin), el("span", { class: "muted" }, "seed"),
      found.map((other) => el("a", { href: link(other), "aria-current": other === run ? "true" : null }, String(other.seed)))),
    run.error ? el("div", { class: "alert" }, el("pre", {}, run.error),
      run.more.traceback ? el("details", { class: "small" }, el("summary", {}, "Traceback"), el("pre", {}, run.more.traceback)) : null) : null,
    run.measured ? numbersTable(run) : null,
    run.points.length ? pointsTable(run) : null,
    el("div", { class: "charts" }, charts(run)),
    layers(run),
    el("section", { class: "panel" }, el("h4", {}, "How to repeat it"), el("pre", { class: "command" }, run.fact("command") ?? NOTHING)),
    el("section", { class: "panel" }, el("h4", {}, "Facts"), facts(run)),
  ];
}

function numbersTable(run) {
  const stages = D.stages.filter(({ name }) => STAGED.some(({ key }) => run.get(`${name}.${key}`) !== null));
  return metricsTable("Numbers of this run", stages.map(({ name, label, meaning }) => ({ label, meaning, get: (key) => run.get(`${name}.${key}`) })));
}

// The further operating points of the trained net, each measured like the final one.
function pointsTable(run) {
  return el("section", {}, el("h4", {}, "Operating points of the trained net"),
    metricsTable("Operating points of this run", run.points.map(({ name, get }) => ({ label: name, meaning: null, get }))));
}

// Metrics down, what was measured across; a column gives the value of a metric by its key.
function metricsTable(title, columns) {
  const rows = STAGED.map((metric) => [metric, columns.map(({ get }) => get(metric.key))])
    .filter(([, values]) => values.some((value) => value !== null));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, el("table", {},
    el("thead", {}, el("tr", {}, el("td"), columns.map(({ label, meaning }) => el("th", { scope: "col", class: "num", title: meaning }, label)))),
    el("tbody", {}, rows.map(([metric, values]) => el("tr", {}, el("th", { scope: "row" }, metric.label),
      values.map((value) => el("td", { class: "num" }, show(metric, value))))))));
}

// -------------------------------------------------------------------------------------------- facts
function facts(run) {
  const list = el("dl", { class: "facts" });
  const add = (title, value) => {
    if (value !== null && value !== undefined && value !== "") list.append(el("dt", {}, title), el("dd", {}, value));
  };
  const guarantee = run.fact("guarantee") ?? {};
  const interval = guarantee.accuracy_interval_95;
  const over = D.estimates[run.id];
  const versions = run.fact("versions") ?? {};
  const git = run.fact("git");
  const expected = run.fact("expected");
  add("Row of a paper", run.row);
  add("The paper's values", expected && [el("div", {}, `${expected.source}, in the units of the store:`), ...pairs(Object.entries(expected.reported)) ?? []]);
  add("Accuracy, 95 % interval", interval ? `${percent(interval[0])} to ${percent(interval[1])} % (Clopper–Pearson, this net, this test set)` : null);
  add("Over seeds", over && over[3] > 1 ? `${percent(over[0])} ± ${percent(over[1])} % (sample sd, ${over[3]} seeds); 95 % t interval of the mean ± ${percent(over[2])}` : null);
  add("Selection", guarantee.selection && `${guarantee.selection}; the test set was evaluated ${guarantee.test_evaluations} times`);
  add("Objective", guarantee.objective);
  const test = guarantee.against;
  add("Against its dense net", test && `${points(test.difference)} points, 95 % interval ${points(test.interval_95[0])} to ${points(test.interval_95[1])}; ${test.b} test examples right only in the final net, ${test.c} only in the dense one, McNemar p ${test.p < 0.001 ? "< 0.001" : plain(test.p, 3)}; a drop of at most ${plain(100 * test.margin, 1)} points is ${test.noninferior ? "" : "not "}shown`);
  add("Guarantee of this run alone", guarantee.level && `${guarantee.level.replace("_", " ")}${(guarantee.missing ?? []).length ? `; for more: ${guarantee.missing.join("; ")}` : ""}`);
  add("Zeroed against removed", run.get("max_abs_diff") === null ? null : `largest difference of the outputs ${run.get("max_abs_diff").toExponential(1)}`);
  add("Masked", run.get("masked") && `${percent(run.get("masked"))} % of the parameters that are left are zero but still there: nothing is smaller or faster by them`);
  add("Removed", run.measured ? `MACs ${percent(run.get("macs_removed"))} %, parameters ${percent(run.get("params_removed"))} %` : null);
  const { per_sample: perSample, ...cost } = run.fact("cost") ?? {};
  add("MACs per sample", perSample && `mean ${whole(perSample.mean)}, sd ${whole(perSample.sd)}, from ${whole(perSample.min)} to ${whole(perSample.max)} over ${whole(perSample.num_samples)} test samples`);
  add("About the cost", pairs(spoken(cost)));
  add("Not pruned", pairs((run.fact("not_pruned") ?? []).map(({ layer, reason }) => [layer, reason])));
  add("Target", pairs(spoken(run.fact("budget") ?? {})));
  add("Settings", pairs(Object.entries(run.fact("settings") ?? {})));
  add("Phases", pairs((run.fact("phases") ?? []).map((p) => [p.name, `${p.epochs} epochs, ${plain(p.seconds ?? null, 0)} s, ${short(p.train_macs ?? null)}MACs of training`])));
  add("Pretrained weights", run.more.checkpoint && `SHA-256 ${run.more.checkpoint}`);
  add("Data", pairs(spoken(run.fact("data") ?? {})));
  add("Latency measured on", run.machine);
  add("Hardware", pairs(spoken(run.fact("hardware") ?? {})));
  const published = run.fact("published");
  add("Published", published && [el("div", {}, `measured again with the same numbers by ${published.commit}`), ...pairs(Object.entries({ ...published.measured_again, declared: published.declared })) ?? []]);
  add("Code", git ? `${git.commit}${git.dirty ? ", with uncommitted changes" : ""}` : null);
  add("Versions", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", "));
  add("Started", `${run.more.started}${run.get("seconds") === null ? "" : `, ${whole(run.get("seconds"))} s`}`);
  add("Folder", el("code", {}, run.more.place));
  add("Id", el("code", {}, run.id));
  return list;
}

function pairs(list) {
  const known = list.filter(([, value]) => value !== null && value !== undefined);
  return known.length ? known.map(([name, value]) => el("div", {}, el("span", { class: "muted" }, `${name} `), shown(value))) : null;
}

// The store's names of facts in words; those of settings stay what one types.
const FACT_WORDS = { macs: "MACs", flops: "FLOPs", params: "parameters", num: "number of", sha256: "SHA-256", id: "ID", val: "validation", lr: "rate" };
const spoken = (facts) => Object.entries(facts).map(([name, value]) => [name.split("_").map((word) => FACT_WORDS[word] ?? word).join(" "), value]);

function shown(value) {
  if (typeof value === "object") return JSON.stringify(value);
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(5))) : String(value);
}

// -------------------------------------------------------------------------------------------- charts
const CHART = { width: 460, height: 250, left: 40, right: 10, top: 24, bottom: 40 };
const figure = (title, node, caption) => el("figure", { class: "panel" }, el("h4", {}, title), node,
  caption ? el("figcaption", {}, caption) : null);

// The metric that a curve watches on the validation split.
const watched = (name) => (name.startsWith(D.validation) ? METRICS.get(name.slice(D.validation.length)) : undefined);

function charts(run) {
  const detail = run.more.detail;
  if (!run.measured) return [];
  if (!detail) return [el("p", { class: "muted small" }, `Curves and the reliability diagram are embedded for ${D.limits.details} runs only; those of this run lie in its folder.`)];
  const made = detail.bins ? [reliability(run, detail.bins)] : [];
  const counts = run.fact("cost")?.per_sample?.histogram;
  if (counts?.edges && counts.counts) made.push(perSampleCost(counts));
  made.push(...[shareCurve(run)].filter(Boolean));
  for (const [name, found] of Object.entries(run.fact("distributions") ?? {})) made.push(distribution(name, found));
  const names = [...new Set(detail.curves.flatMap((phase) => Object.keys(phase.series)))];
  const shares = names.filter((name) => watched(name)?.scale === 100);
  for (const name of shares) made.push(curve(`Validation ${(watched(name).title + watched(name).mark).toLowerCase()}`, detail.curves, [name], 100));
  const losses = names.filter((name) => name !== "lr" && !shares.includes(name));
  for (const [title, chosen] of [["Losses", losses], ["Learning rate", names.filter((name) => name === "lr")]]) {
    if (chosen.length) made.push(curve(title, detail.curves, chosen, 1));
  }
  return made;
}

function reliability(run, bins) {
  const size = { ...CHART, height: 290, bottom: 76 };
  const { node, x, y } = frame({ x: [0, 1], y: [0, 1] }, { label: "Reliability: accuracy against confidence", xLabel: "confidence", size });
  const base = size.height - size.bottom;
  const most = Math.max(...bins.map(([, count]) => count));
  for (const [index, count, confidence, accuracy] of bins) {
    const [left, right] = [x(index / D.limits.bins) + 0.75, x((index + 1) / D.limits.bins) - 0.75];
    const [top, ideal] = [y(accuracy), y(confidence)];
    const text = `confidence ${plain(confidence)}\naccuracy ${plain(accuracy)}\n${whole(count)} examples`;
    const bar = svg("g", {}, svg("rect", { class: "kept", x: left, width: right - left, y: top, height: Math.max(0, base - top) }),
      svg("rect", { class: "gap", x: left, width: right - left, y: Math.min(top, ideal), height: Math.abs(top - ideal) }),
      svg("rect", { class: "amount", x: left, width: right - left, y: base + 20, height: Math.max(1, (28 * count) / most) }));
    node.append(explain(bar, text));
  }
  node.append(svg("path", { class: "front", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }));
  const error = METRICS.get(D.calibration);
  return figure(`Reliability · ${error.title} ${show(error, run.get(`final.${error.key}`))}${error.mark}`, node, "Accuracy per bin of confidence; the shaded part is the gap to the mean confidence. Below: examples per bin.");
}

function perSampleCost({ edges, counts }) {
  const { node, x, y } = frame({ x: [edges[0], edges.at(-1)], y: [0, Math.max(...counts, 1)] },
    { label: "Test samples by their cost", xLabel: "MACs of the sample, share of the dense net", size: CHART });
  counts.forEach((count, i) => node.append(explain(svg("rect", { class: "kept", x: x(edges[i]) + 0.75, y: y(count),
    width: Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 1.5), height: y(0) - y(count) }), `${plain(edges[i])} to ${plain(edges[i + 1])}\n${whole(count)} samples`)));
  return figure("Cost per sample", node, "How many test samples cost how much.");
}

function curve(title, phases, names, factor) {
  let offset = 0;
  const starts = phases.map((phase) => { const at = offset; offset += (phase.epochs.at(-1) ?? 0) + 1; return at; });
  const values = phases.flatMap((phase) => names.flatMap((name) => phase.series[name] ?? [])).filter((v) => v !== null).map((v) => v * factor);
  // one wild epoch would press all others flat; a schedule is meant as it is
  const sorted = [...values].sort((a, b) => a - b);
  const usual = sorted[Math.floor(0.9 * (sorted.length - 1))];
  const most = title !== "Learning rate" && sorted.length > 4 && sorted.at(-1) > 4 * usual && usual > 0 ? 1.5 * usual : Infinity;
  const { node, x, y } = frame({ x: [1, Math.max(2, offset)], y: padded(values.map((v) => Math.min(v, most))) }, { label: title, xLabel: "epoch", size: CHART, xTicks: Math.max(1, Math.min(5, offset - 1)) });
  phases.forEach((phase, k) => {
    if (k) node.append(svg("line", { class: "boundary", x1: x(starts[k] + 0.5), x2: x(starts[k] + 0.5), y1: CHART.top - 8, y2: CHART.height - CHART.bottom }));
    node.append(svg("text", { x: x(starts[k] + (k ? 0.5 : 1)) + (k ? 4 : 0), y: CHART.top - 10 }, phase.phase));
    names.forEach((name, i) => {
      const series = phase.series[name] ?? [];
      const at = (v, j) => [x(starts[k] + phase.epochs[j] + 1), y(Math.min(v * factor, most))];
      const d = series.map((v, j) => (v === null ? "" : `${j && series[j - 1] !== null ? "L" : "M"}${at(v, j).join(" ")}`)).join("");
      // what has no neighbour to be joined with, as in a phase of one epoch, is a point
      const lone = series.flatMap((v, j) => (v !== null && (series[j - 1] ?? null) === null && (series[j + 1] ?? null) === null ? [at(v, j)] : []));
      // a phase may know nothing of a series
      if (d) node.append(svg("g", { class: `${colour(i)} d${i % 4}` }, svg("path", { class: "line", d }), lone.map((place) => marker(i, ...place, 3))));
    });
  });
  const lines = names.map((name, i) => el("li", { class: colour(i) }, lineKey(i), el("span", {}, name)));
  const caption = most < Infinity ? el("figcaption", {}, `Cut off at ${Number(most.toPrecision(3))}; the highest value is ${Number(sorted.at(-1).toPrecision(3))}.`) : null;
  return el("figure", { class: "panel" }, el("h4", {}, title), node, caption, factor === 1 && names[0] !== "lr" || names.length > 1 ? el("ul", { class: "legend" }, lines) : null);
}

// Colour and dashes of a series.
const lineKey = (i) => svg("svg", { class: `d${i % 4}`, viewBox: "0 0 22 14", "aria-hidden": "true" }, svg("path", { class: "line", d: "M0 7H22" }));

function layers(run) {
  const names = run.fact("layers") ?? [];
  if (!names.length) return null;
  const size = { width: 980, height: 210, left: 40, right: 6, top: 10, bottom: 40 };
  const widths = names.map(([, , dense], i) => dense ?? run.more.kept[i] ?? 0);
  const { node, x, y } = frame({ x: [0, names.length], y: [0, Math.max(...widths)] }, { label: "Kept channels per layer", xLabel: "layer, in the order of execution", size, xTicks: 10 });
  names.forEach(([name, kind, dense], i) => {
    const kept = run.more.kept[i] ?? 0;
    const gap = Math.min(1, 0.1 * (x(1) - x(0)));
    const bar = (value, kindOfBar) => svg("rect", { class: kindOfBar, x: x(i) + gap, width: x(i + 1) - x(i) - 2 * gap, y: y(value), height: y(0) - y(value) });
    const text = `${name} (${kind})\n${kept}${dense ? ` of ${dense}` : ""} channels kept`;
    node.append(explain(svg("g", {}, dense ? bar(dense, "gone") : null, bar(kept, "kept")), text));
  });
  const rows = names.map(([name, kind, dense], i) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, name)), el("td", {}, kind),
    el("td", { class: "num" }, String(run.more.kept[i] ?? NOTHING)), el("td", { class: "num" }, String(dense ?? NOTHING))));
  const table = el("table", {}, el("thead", {}, el("tr", {}, ["Layer", "Kind", "Kept", "Dense"].map((title, i) => el("th", { scope: "col", class: i > 1 ? "num" : null }, title)))), el("tbody", {}, rows));
  const wide = el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Kept channels per layer" }, node);
  return el("section", { class: "panel" }, el("h4", {}, "Kept channels per layer"), wide,
    el("details", { class: "small" }, el("summary", {}, "As a table"), el("div", { class: "scroll" }, table)));
}
