// The filters, the columns, the table of all runs, and what ended without numbers.
const PAGE = 50;

// A button that shows more of a table, where so many lines are left.
function offerMore(button, left) {
  button.hidden = left <= 0;
  button.textContent = `Show ${Math.min(left, 2 * PAGE)} more`;
}
const FAILED = 100;
const QUALITY = D.metrics.filter(({ place, shown }) => place === "metrics" && shown === "summary");
const DELTA = number("Δ dense", "delta", (found) => withSpread(found, points), "higher");
const NUMBERS = [
  ...QUALITY.filter(({ nested }) => !nested).map((metric) => ofFinal(metric)),
  ofRun("macs_removed", "MACs −%"), // narrower than the metrics' own titles: there are many columns
  ofRun("params_removed", "Params −%"),
  DELTA,
  number("Masked %", "masked", (found) => percent(found.mean, 1)),
  ...CLOCKS.flatMap((metric) => [ofFinal(metric), ofRun(`speedup.${metric.key.slice(0, -3)}`)]),
  ...QUALITY.filter(({ nested }) => nested).map((metric) => ofFinal(metric)),
  ...["macs", "params"].map((key) => ofFinal(METRICS.get(key), (found) => short(found.mean))),
].filter(({ name }) => name === "delta" || COLUMN.has(name));
const HEADLINES = NUMBERS.filter(({ metric }) => metric?.headline);
// method, quality and size first: more than that a phone does not show
const FIRST = [...HEADLINES, ...NUMBERS.filter(({ key }) => key === "macs_removed")];
const COLUMNS = [
  { key: "method", title: "Method", value: ({ first }) => first.method.toLowerCase(), cell: nameCell },
  ...FIRST,
  { key: "net", title: "Net and data", value: ({ first }) => `${first.dataset} ${first.model} ${first.schedule}`, cell: netCell },
  { key: "seed", title: "Seed", num: true, value: ({ first }) => first.seed, cell: ({ first }) => String(first.seed) },
  ...NUMBERS.filter((column) => !FIRST.includes(column)),
  { key: "status", title: "Status", value: ({ first }) => first.status, cell: ({ first }) => [chip(first.status), " ", originChip(first.origin)] },
];

const state = { picked: {}, search: "", on: "", sort: null, columns: null, x: "macs", y: "", range: "", under: "", clock: CLOCKS[0]?.key ?? "", only: new Set(),
  runs: "method", limit: PAGE };

function number(title, name, form, better = null, metric = null) {
  const text = (item) => (item.get(name) ? form(item.get(name)) : NOTHING);
  return { key: metric?.key ?? name, title, name, num: true, better, metric, value: (item) => item.mean(name), text, cell: text };
}

// A metric of the final net; fractions have the spread over seeds beside the mean.
function ofFinal(metric, form = null) {
  const text = (value) => show(metric, value);
  return number(metric.title + metric.mark, `final.${metric.key}`,
    form ?? (metric.scale === 100 ? (found) => withSpread(found, text) : (found) => text(found.mean)), metric.better, metric);
}

// A metric of the whole run.
function ofRun(key, title = null) {
  const metric = METRICS.get(key);
  return number(title ?? metric.title + metric.mark, key, (found) => show(metric, found.mean), metric.better);
}

function nameCell(item) {
  const { method, label, row } = item.first;
  const more = [row ? `row ${row}` : "", label].filter(Boolean).join(" · ");
  const name = el("a", { href: link(item.first), class: "name", title: more ? `${method} · ${more}` : method }, method);
  return more ? [name, el("br"), el("span", { class: "name setting" }, more)] : name;
}

function netCell({ first }) {
  return [el("span", { class: "one-line" }, `${first.model} on ${first.dataset}`), el("span", { class: "below" }, first.schedule)];
}

const worst = (item) => item.all.map((run) => run.status)
  .sort((a, b) => Object.keys(STATUS).indexOf(b) - Object.keys(STATUS).indexOf(a))[0];
const originOf = (item) => {
  const found = [...new Set(item.all.map((run) => run.origin))];
  return found.length > 1 ? "both" : found[0];
};
// Of [name, items] pairs those with runs of one's own come first, of these the larger ones.
const isOwn = (item) => originOf(item) !== "published";
const ownThenMost = (a, b) => Number(b[1].some(isOwn)) - Number(a[1].some(isOwn)) || b[1].length - a[1].length;

// ------------------------------------------------------------------------------------------- filters
const FILTERS = [["dataset", "Data set"], ["model", "Model"], ["method", "Method"], ["schedule", "Schedule"],
  ["seed", "Seed"], ["status", "Status"], ["origin", "Own or published"]];
const FILTER_VALUES = new Map(FILTERS.map(([name]) => [name, [...new Set(runs.map((run) => run[name]))]
  .sort((a, b) => (name === "seed" ? a - b : String(a).localeCompare(String(b))))]));

function buildFilters() {
  const form = $("#filters");
  for (const [name, title] of FILTERS) {
    const shown = (value) => (name === "status" ? STATUS[value][1] : String(value));
    const select = el("select", { name, change: () => { state.picked[name] = select.value; changed(); } },
      el("option", { value: "" }, "all"), FILTER_VALUES.get(name).map((value) => el("option", { value: String(value) }, shown(value))));
    form.append(el("label", {}, title, select));
  }
  const search = el("input", { type: "search", name: "search", placeholder: "words, e.g. fpgm 0.4",
    input: () => { state.search = search.value; changed(); } });
  form.append(el("label", { class: "wide" }, "Search", search));
  form.addEventListener("submit", (event) => event.preventDefault());
  $("#clear").addEventListener("click", () => { state.picked = {}; state.search = ""; showFilters(); changed(); });
}

// The controls as the state says, which the address may have set.
function showFilters() {
  for (const [name] of FILTERS) $(`#filters [name="${name}"]`).value = state.picked[name] ?? "";
  $("#filters [name=search]").value = state.search;
  if (state.search || Object.values(state.picked).some(Boolean)) $("#filter-fold").open = true;
}

function filtered() {
  const wanted = FILTERS.map(([name]) => [name, state.picked[name]]).filter(([, value]) => value);
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length && !words.length) return runs;
  return runs.filter((run) => wanted.every(([name, value]) => String(run[name]) === value) && words.every((word) => run.text.includes(word)));
}

// ------------------------------------------------------------------------------------------- table
function heads(columns, sort) {
  return columns.map((column) => el("th", { scope: "col", class: column.num ? "num" : null, "data-key": column.key },
    el("button", { type: "button", click: () => sort(column) }, column.title)));
}

// The order after a click on a column: "key" rises, "-key" falls; numbers fall first.
function turned(now, { key, num, better }) {
  const first = num && better !== "lower" ? `-${key}` : key;
  return now === first ? (first === key ? `-${key}` : key) : first;
}

function sorted(items, order, columns) {
  const column = columns.find(({ key }) => key === order.replace(/^-/, "")) ?? columns[0];
  const values = new Map(items.map((item) => [item, column.value(item)]));
  return [...items].sort((a, b) => compare(values.get(a), values.get(b), order.startsWith("-")));
}

function sortMarks(table, order) {
  for (const head of $$("thead th", table)) {
    if (head.dataset.key === order.replace(/^-/, "")) head.setAttribute("aria-sort", order.startsWith("-") ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function buildTable() {
  $("#more").addEventListener("click", () => {
    const before = state.limit;
    state.limit += 2 * PAGE;
    drawTable(filtered());
    $(`#all tbody tr:nth-child(${before + 1}) a`)?.focus();
  });
}

// Missing values come last in both directions.
function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : WORD_ORDER.compare(String(a), String(b));
  return down ? -order : order;
}
const WORD_ORDER = new Intl.Collator("en", { numeric: true });

// The heads of the table of all runs; they stay the same nodes, with the focus, as long as the columns do.
function showHeads(columns) {
  const wanted = columns.map(({ key }) => key).join();
  if (showHeads.shown === wanted) return;
  showHeads.shown = wanted;
  $("#all thead").replaceChildren(el("tr", {}, heads(columns, (column) => { state.runs = turned(state.runs, column); drawTable(filtered()); remember(); })));
}

function drawTable(list) {
  const items = sorted(list.map((run) => new Item([run])), state.runs, COLUMNS);
  // of the runs that pass the filters, not of the lines on the page: columns must not appear with more lines
  const columns = COLUMNS.filter((column) => !column.num || items.some((item) => column.value(item) !== null));
  showHeads(columns);
  sortMarks($("#all"), state.runs);
  const rows = items.slice(0, state.limit).map((item) => el("tr", {}, columns.map((column) =>
    el("td", { class: column.num ? "num" : null }, column.cell(item)))));
  $("#all tbody").replaceChildren(...rows);
  $("#shown").textContent = items.length > rows.length ? `${rows.length} of ${whole(items.length)} shown` : "";
  offerMore($("#more"), items.length - rows.length);
  $("#count").textContent = list.length === runs.length ? plural(runs.length, "run") : `${whole(list.length)} of ${plural(runs.length, "run")}`;
  $("#clear").hidden = list.length === runs.length;
}

// ------------------------------------------------------------------------------------------- failed
function drawFailed(list) {
  const failed = list.filter((run) => !run.measured);
  $("#failed-runs").replaceChildren(...failed.slice(0, FAILED).map(failure),
    ...(failed.length > FAILED ? [el("p", { class: "muted small" }, `${FAILED} of ${whole(failed.length)} are shown; filter them.`)] : []),
    ...(failed.length ? [] : [el("p", { class: "muted" }, "No run that fits the filters has failed.")]));
}

function failure(run) {
  const trace = el("pre", {});
  const said = (run.error || "it ended without a message").split("\n");
  const open = async () => { await unfold(); trace.textContent = run.more.traceback || "No traceback was recorded."; };
  return el("details", { class: "failure", toggle: open }, el("summary", {}, chip("failed"), " ", el("b", {}, run.method), run.label ? ` ${run.label}` : "",
    el("span", { class: "muted" }, ` · ${run.model} on ${run.dataset}, ${run.schedule}, seed ${run.seed}`), el("span", { class: "said" }, said[0])),
  said.length > 1 ? el("pre", {}, run.error) : null, trace, el("p", {}, el("a", { href: link(run) }, "the run")));
}

function changed() {
  state.limit = PAGE;
  drawBoard.limit = TOP;
  const list = filtered();
  drawBoard(list);
  drawSubjects(list);
  drawTable(list);
  drawFailed(list);
  remember();
}
