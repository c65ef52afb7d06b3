// Data of the page, elements, numbers as text. Text reaches the page through text nodes and attributes only.
const D = JSON.parse(document.getElementById("data").textContent);
const FIELDS = ["id", "seed", "status", "method", "model", "dataset", "schedule", "row", "label", "origin", "machine", "error", "numbers"];
const WORDS = new Set(["status", "method", "model", "dataset", "schedule", "row", "label", "origin", "machine", "error"]);
const COLUMN = new Map(D.names.map((name, i) => [name, i]));
const METRICS = new Map(D.metrics.map((metric) => [metric.key, metric]));
const CLOCKS = D.metrics.filter(({ key, place }) => place === "latency" && key.endsWith("_ms")); // engines and batches

class Run {
  constructor(values) {
    FIELDS.forEach((field, i) => { this[field] = WORDS.has(field) ? D.words[values[i]] : values[i]; });
    this.key = `${this.id}/${this.seed}`;
    this.points = (D.points[this.key] ?? []).map(([name, numbers, settings]) => ({ name, settings, get: (key) => numbers[key] ?? null }));
    this.more = null; // what is folded, see unfold
  }
  get text() {
    return (this.words ??= [this.method, this.label, this.model, this.dataset, this.schedule, this.row, this.status, this.origin, this.id]
      .join(" ").toLowerCase());
  }
  get(name) { return (COLUMN.has(name) ? this.numbers[COLUMN.get(name)] : this.more?.numbers.get(name)) ?? null; }
  fact(name) { return this.more && name in this.more.facts ? this.more.pool[this.more.facts[name]] : null; }
  get measured() { return this.status !== "failed"; }
  get delta() {
    const [final, dense] = [this.get("final.accuracy"), this.get("dense.accuracy")];
    return final === null || dense === null ? null : final - dense;
  }
}

// Runs of one configuration; a value is the mean over those that have it, with the sample standard deviation.
class Item {
  constructor(runs, all = runs) { this.runs = runs; this.all = all; this.first = runs[0]; this.cache = new Map(); }
  get(name) {
    if (!this.cache.has(name)) {
      const timed = name.includes("batch_");
      const values = this.runs.filter((run) => !timed || run.machine === this.first.machine)
        .map((run) => (name === "delta" ? run.delta : run.get(name))).filter((value) => value !== null);
      this.cache.set(name, summarise(values));
    }
    return this.cache.get(name);
  }
  mean(name) { return this.get(name)?.mean ?? null; }
}

function summarise(values) {
  const n = values.length;
  if (!n) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const sd = n > 1 ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1)) : null;
  return { mean, sd, n };
}

function groupBy(list, key) {
  const found = new Map();
  for (const item of list) {
    const name = key(item);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(item);
  }
  return found;
}

const runs = D.runs.map((values) => new Run(values));
const byId = groupBy(runs, (run) => run.id);

// Runs that end with the same net are one sample: the one with the lowest seed stands for all.
function distinct(list) {
  const kept = list.filter((run) => !D.repeats[run.id]?.includes(run.seed));
  return kept.length ? kept : list.slice(0, 1);
}
const averaged = (list) => [...groupBy(list, (run) => run.id).values()]
  .map((all) => [distinct(all.filter((run) => run.measured)), all]).filter(([kept]) => kept.length).map(([kept, all]) => new Item(kept, all));

// What only single runs show lies compressed in the page, until somebody asks for it.
let unfolding = null;
const unfold = () => (unfolding ??= unfolded());
async function unfolded() {
  const bytes = Uint8Array.from(atob($("#folded").textContent.trim()), (letter) => letter.charCodeAt(0));
  const found = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  runs.forEach((run, i) => {
    const [place, started, checkpoint, traceback, facts, kept, numbers] = found.runs[i];
    const values = new Map(found.names.map((name, k) => [name, numbers[k] ?? null]));
    run.more = { place, started, checkpoint, traceback, facts, kept, numbers: values, pool: found.pool, detail: found.details[run.key] };
  });
}

// ------------------------------------------------------------------------------------------ elements
function $(selector, root = document) { return root.querySelector(selector); }
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// ------------------------------------------------------------------------------------------- numbers
const NOTHING = "–";
const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
const percent = (value, digits = 2) => (value === null ? NOTHING : fixed(100 * value, digits));
const plain = (value, digits = 2) => (value === null ? NOTHING : fixed(value, digits));
const whole = (value) => (value === null ? NOTHING : Math.round(value).toLocaleString("en"));
const signed = (value, digits = 2) => {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
};
const points = (value) => (value === null ? NOTHING : signed(100 * value));
const short = (value) => {
  if (value === null) return NOTHING;
  const size = Math.abs(value);
  for (const [limit, letter] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
    if (size >= limit) return `${plain(value / limit)} ${letter}`;
  }
  return size >= 1e4 ? `${plain(value / 1e3, 1)} k` : whole(value);
};
// Four digits that matter, as Python's .4g.
const significant = (value) => {
  const [mantissa, power] = value.toExponential(3).split("e").map(Number);
  const text = power >= -4 && power < 4 ? String(Number(value.toPrecision(4)))
    : `${mantissa}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  return text.replace(/^-/, "−");
};
// A value of a metric, in the unit of the store, as in all tables.
const show = ({ scale, digits }, value) => {
  if (value === null) return NOTHING;
  if (digits === null) return significant(value * scale);
  return digits ? fixed(value * scale, digits) : whole(value * scale);
};
const withSpread = (found, form) => (found.sd === null ? form(found.mean) : `${form(found.mean)} ± ${fixed(100 * found.sd, 2)}`);
const STATUS = { complete: ["good", "complete"], missed_target: ["warn", "missed target"], failed: ["bad", "failed"] };
const chip = (status) => el("span", { class: `chip ${STATUS[status][0]}` }, STATUS[status][1]);
const ORIGIN = { published: ["info", "in the open store: made by a commit, measured again"], own: ["off", "in your own folder of runs"], both: ["info", "some seeds are in the open store, some in your own folder"] };
const originChip = (name) => el("span", { class: `chip ${ORIGIN[name][0]}`, title: ORIGIN[name][1] }, name === "both" ? "own and published" : name);
const link = (run) => `#run/${run.id}/${run.seed}`;
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

// ------------------------------------------------------------------------------------------- tooltip
const tip = el("div", { class: "tip", role: "tooltip", hidden: true });
document.body.append(tip);
function explain(node, text) {
  const show = () => {
    tip.textContent = text;
    tip.hidden = false;
    ($("dialog[open]") ?? document.body).append(tip);
    const box = node.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const name of ["mouseenter", "focus"]) node.addEventListener(name, show);
  for (const name of ["mouseleave", "blur"]) node.addEventListener(name, hide);
  return node;
}
