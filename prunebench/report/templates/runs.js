// The filters and the table of all runs.
const PAGE = 50;
const QUALITY = D.metrics.filter(({ place, shown }) => place === "metrics" && shown === "summary");
const DELTA = number("Δ dense", "delta", (found) => withSpread(found, points));
const COLUMNS = [
  { title: "Method", value: (item) => item.first.method.toLowerCase(), cell: nameCell },
  { title: "Net and data", value: ({ first }) => `${first.dataset} ${first.model} ${first.schedule}`, cell: netCell },
  { title: "Seed", num: true, value: (item) => item.first.seed, cell: seedCell },
  ...QUALITY.filter(({ nested }) => !nested).flatMap((metric) => (metric.key === "accuracy" ? [ofFinal(metric), DELTA] : [ofFinal(metric)])),
  ofRun("macs_removed", "MACs −%"), // narrower than the metrics' own titles: there are many columns
  ofRun("params_removed", "Params −%"),
  number("Masked %", "masked", (found) => percent(found.mean, 1)),
  ...["batch_1", "batch_64"].flatMap((batch) => [ofFinal(METRICS.get(`${batch}_ms`)), ofRun(`speedup.${batch}`)]),
  ...QUALITY.filter(({ nested }) => nested).map((metric) => ofFinal(metric)),
  ...["macs", "params"].map((key) => ofFinal(METRICS.get(key), (found) => short(found.mean))),
  { title: "Status", value: (item) => item.first.status, cell: (item) => [chip(worst(item)), item.runs.every((run) => run.origin === "published") ? origin(item.first) : null] },
].filter((column) => !column.name || column.name === "delta" || COLUMN.has(column.name));

const state = { sort: 0, down: false, limit: PAGE, mean: false, picked: {}, words: [] };

function number(title, name, form) {
  const cell = (item) => (item.get(name) ? form(item.get(name)) : NOTHING);
  return { title, name, num: true, value: (item) => item.mean(name), cell };
}

// A metric of the final net; fractions have the spread over seeds beside the mean.
function ofFinal(metric, form = null) {
  const text = (value) => show(metric, value);
  return number(metric.title + metric.mark, `final.${metric.key}`,
    form ?? (metric.scale === 100 ? (found) => withSpread(found, text) : (found) => text(found.mean)));
}

// A metric of the whole run.
function ofRun(key, title = null) {
  const metric = METRICS.get(key);
  return number(title ?? metric.title + metric.mark, key, (found) => show(metric, found.mean));
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

function seedCell(item) {
  return state.mean && item.runs.length > 1 ? `${item.runs.length} seeds` : String(item.first.seed);
}

const worst = (item) => item.runs.map((run) => run.status)
  .sort((a, b) => Object.keys(STATUS).indexOf(b) - Object.keys(STATUS).indexOf(a))[0];

// ------------------------------------------------------------------------------------------- filters
const FILTERS = [["dataset", "Data set"], ["model", "Model"], ["method", "Method"], ["schedule", "Schedule"],
  ["seed", "Seed"], ["status", "Status"], ["origin", "Own or published"]];

function buildFilters() {
  const form = $("#filters");
  for (const [name, title] of FILTERS) {
    const values = [...new Set(runs.map((run) => run[name]))];
    values.sort((a, b) => (name === "seed" ? a - b : String(a).localeCompare(String(b))));
    const show = (value) => (name === "status" ? STATUS[value][1] : String(value));
    const select = el("select", { name, change: () => { state.picked[name] = select.value; changed(); } },
      el("option", { value: "" }, "all"), values.map((value, i) => el("option", { value: i + 1 }, show(value))));
    select.values = values;
    form.append(el("label", {}, title, select));
  }
  const search = el("input", { type: "search", name: "search", placeholder: "words, e.g. fpgm 0.4", input: () => {
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    changed();
  } });
  form.append(el("label", { class: "wide" }, "Search", search));
  form.addEventListener("submit", (event) => event.preventDefault());
  $("#clear").addEventListener("click", () => {
    form.reset();
    state.picked = {};
    state.words = [];
    changed();
  });
}

function filtered() {
  const wanted = FILTERS.filter(([name]) => state.picked[name])
    .map(([name]) => [name, $(`#filters [name="${name}"]`).values[state.picked[name] - 1]]);
  return runs.filter((run) => wanted.every(([name, value]) => run[name] === value)
    && state.words.every((word) => run.text.includes(word)));
}

// ------------------------------------------------------------------------------------------- table
function buildTable() {
  const heads = COLUMNS.map((column, i) => el("th", { scope: "col", class: column.num ? "num" : null },
    el("button", { type: "button", click: () => sortBy(i) }, column.title)));
  $("#all thead").append(el("tr", {}, heads));
  $("#more").addEventListener("click", () => {
    const before = state.limit;
    state.limit += 2 * PAGE;
    drawTable(filtered());
    $(`#all tbody tr:nth-child(${before + 1}) a`)?.focus();
  });
  $("#mean").addEventListener("change", (event) => { state.mean = event.target.checked; changed(); });
  sortMarks();
}

function sortBy(column) {
  state.down = state.sort === column ? !state.down : Boolean(COLUMNS[column].num);
  state.sort = column;
  sortMarks();
  drawTable(filtered());
}

function sortMarks() {
  $$("#all thead th").forEach((head, i) => {
    if (i === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

// Missing values come last in both directions.
function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

function drawTable(list) {
  const items = state.mean ? averaged(list) : list.map((run) => new Item([run]));
  const { value } = COLUMNS[state.sort];
  items.sort((a, b) => compare(value(a), value(b), state.down));
  const rows = items.slice(0, state.limit).map((item) => el("tr", {}, COLUMNS.map((column) =>
    el("td", { class: column.num ? "num" : null }, column.cell(item)))));
  $("#all tbody").replaceChildren(...rows);
  $("#shown").textContent = items.length > rows.length ? `${rows.length} of ${whole(items.length)} shown` : "";
  $("#more").hidden = items.length <= rows.length;
  $("#count").textContent = list.length === runs.length ? `${whole(runs.length)} runs`
    : `${whole(list.length)} of ${whole(runs.length)} runs`;
  $("#clear").hidden = list.length === runs.length;
}

function changed() {
  state.limit = PAGE;
  const list = filtered();
  drawTable(list);
  drawSubjects(list);
}
