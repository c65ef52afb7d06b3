// The leaderboard: one line a configuration, the trade-off beside it, and both as text to take along.
const NETS = { key: "nets", title: "Nets", num: true, value: (item) => item.runs.length, text: (item) => String(item.runs.length), cell: netsCell };
const BOARD = [...FIRST, ...NUMBERS.filter((column) => !FIRST.includes(column)), NETS];
const USUAL = ["macs_removed", "params_removed", "delta", "nets"];
const subjectName = ({ model, dataset }) => `${model} on ${dataset}`;
const ALL = "all";
const TOP = 15; // lines at first, so that the plot beside them ends where they do

function netsCell(item) {
  const again = D.repeats[item.first.id] ?? [];
  return again.length ? el("span", { title: `the same net again: seed ${again.join(", ")}` }, `${item.runs.length}*`) : String(item.runs.length);
}

// What is on the board: the configurations of one net on one data set, or of all.
function subjects(items, name = ({ first }) => subjectName(first)) {
  return [...groupBy(items, name)].sort(ownThenMost);
}

function onBoard(list) {
  const items = averaged(list);
  const found = subjects(items);
  const known = (other) => other === ALL || found.some(([subject]) => subject === other);
  // what was shown stays as long as a filter leaves something of it
  const name = [state.on, onBoard.current].find((other) => other && known(other)) ?? found[0]?.[0] ?? ALL;
  return { name, found, items: name === ALL ? items : items.filter(({ first }) => subjectName(first) === name) };
}

const headline = (items) => HEADLINES.find(({ value }) => items.some((item) => value(item) !== null)) ?? null;
const order = (items) => {
  const best = headline(items);
  return state.sort ?? (best ? (best.better === "lower" ? best.key : `-${best.key}`) : "method");
};

// The columns that are shown: those that were chosen, else the quality of these nets and the usual ones.
function chosenColumns(items) {
  const wanted = state.columns ?? [headline(items)?.key, ...USUAL].filter(Boolean);
  return BOARD.filter(({ key, value }) => wanted.includes(key) && (state.columns || items.some((item) => value(item) !== null)));
}

function boardName(item) {
  const { method, label, row, schedule, model, dataset } = item.first;
  const where = onBoard.current === ALL ? `${model} on ${dataset}, ` : "";
  const more = [row ? `row ${row}` : "", label, `${where}${schedule}`].filter(Boolean).join(" · ");
  return [el("span", { class: "first-line" }, el("a", { href: link(item.first), class: "name" }, method), chip(worst(item)), originChip(originOf(item))),
    el("span", { class: "below", title: more }, more)];
}
const NAME = { key: "method", title: "Method", value: ({ first }) => first.method.toLowerCase(), cell: boardName };

function drawBoard(list) {
  const { name, found, items } = onBoard(list);
  onBoard.current = name;
  onBoard.first = found[0]?.[0] ?? ALL;
  const select = $("#on");
  select.replaceChildren(...found.map(([other, members]) => el("option", { value: other }, `${other} (${members.length})`)),
    ...(found.length === 1 ? [] : [el("option", { value: ALL }, `all nets and data sets (${whole(found.reduce((sum, [, members]) => sum + members.length, 0))})`)]));
  select.value = name;
  const columns = [NAME, ...chosenColumns(items)];
  const now = order(items);
  const all = sorted(items, now, [NAME, ...BOARD]);
  const best = bests(all, columns);
  const table = $("#board");
  $("thead", table).replaceChildren(el("tr", {}, heads(columns, (column) => { state.sort = turned(now, column); drawBoard(filtered()); remember(); })));
  sortMarks(table, now);
  $("tbody", table).replaceChildren(...all.slice(0, drawBoard.limit).map((item) => el("tr", {}, columns.map((column) =>
    el("td", { class: [column.num ? "num" : "", isBest(best, column, item) ? "best" : ""].join(" ").trim() || null }, column.cell(item))))));
  $("#board-count").textContent = `${plural(all.length, "configuration")}${all.length > drawBoard.limit ? `, ${drawBoard.limit} shown` : ""}`;
  offerMore($("#board-more"), all.length - drawBoard.limit);
  drawBoard.shown = { name, items: all, columns: columns.slice(1), best };
  drawPicker(items);
  drawChart(items, name);
}
drawBoard.limit = TOP;

// The best mean of each column that has a good direction, as it is shown: what looks the same is equally good.
function bests(items, columns) {
  const found = new Map();
  for (const column of columns.filter(({ better }) => better)) {
    const values = items.map(column.value).filter((value) => value !== null);
    if (values.length > 1) found.set(column.key, column.better === "higher" ? values.reduce((a, b) => Math.max(a, b)) : values.reduce((a, b) => Math.min(a, b)));
  }
  return found;
}
const isBest = (best, column, item) => best.has(column.key) && column.value(item) === best.get(column.key);

function drawPicker(items) {
  const shown = chosenColumns(items).map(({ key }) => key);
  const possible = BOARD.filter(({ value }) => items.some((item) => value(item) !== null));
  $("#picker").replaceChildren(...possible.map(({ key, title }) => {
    const box = el("input", { type: "checkbox", checked: shown.includes(key), change: () => {
      state.columns = BOARD.map((column) => column.key).filter((other) => (other === key ? box.checked : shown.includes(other)));
      drawBoard(filtered());
      remember();
    } });
    return el("label", {}, box, ` ${title}`);
  }));
}

// ------------------------------------------------------------------------------------------- chart
const WIDE = { width: 560, height: 420, left: 44, right: 10, top: 26, bottom: 40 };

function drawChart(items, name) {
  const metric = metricOf(items.map((item) => item.first));
  const some = items.filter(({ first }) => metricOf([first]) === metric);
  if (!metric || !some.length) return void $("#chart").replaceChildren(el("p", { class: "muted" }, "No measured run fits these filters."));
  const schedules = [...groupBy(some, ({ first }) => first.schedule)].sort(ownThenMost);
  // one schedule at a time: right after a cut and after a training behind it are not one cloud
  const [under, shown] = schedules.find(([schedule]) => schedule === state.under) ?? schedules[0];
  $("#under").value = under;
  for (const option of $("#under").options) {
    const count = schedules.find(([schedule]) => schedule === option.value)?.[1].length ?? 0;
    option.textContent = `${option.value} (${count})`;
    option.disabled = !count;
  }
  const title = `${name === ALL ? "all nets and data sets" : name}, ${under}`;
  $("#chart").replaceChildren(legend(shown), panel(isolated(shown), METRICS.get(state.x), title, metric, WIDE));
}

// ------------------------------------------------------------------------------------------- text to take along
function boardText(kind) {
  const { name, items, columns, best } = drawBoard.shown;
  const several = name === ALL;
  const head = ["Method", ...(several ? ["Net and data"] : []), "Schedule", "Setting", ...columns.map(({ title }) => title)];
  const body = items.map((item) => [
    ...[item.first.method, ...(several ? [subjectName(item.first)] : []), item.first.schedule, [item.first.row, item.first.label].filter(Boolean).join(", ") || NOTHING]
      .map((text) => ({ text, bold: false })),
    ...columns.map((column) => ({ text: column.text(item), bold: isBest(best, column, item) })),
  ]);
  const numeric = head.map((_, i) => i >= head.length - columns.length);
  if (kind === "csv") return csvText(items, columns);
  if (kind === "md") return markdown(head, body, numeric);
  return latex(several ? "all nets and data sets" : name, head, body, numeric);
}

const oneLine = (text) => String(text).replace(/\s+/g, " ").trim();

function markdown(head, body, numeric) {
  const safe = (text) => oneLine(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/([\\|`*_[\]~])/g, "\\$1");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return `${[line(head.map(safe)), line(numeric.map((right) => (right ? "---:" : "---"))),
    ...body.map((row) => line(row.map(({ text, bold }) => (bold ? `**${safe(text)}**` : safe(text)))))].join("\n")}\n`;
}

const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "−": "$-$", "–": "--", "×": "$\\times$", "Δ": "$\\Delta$" };
function latex(name, head, body, numeric) {
  const safe = (text) => oneLine(text).replace(/[\\~^±−–×Δ&%$#_{}]/g, (sign) => LATEX[sign] ?? `\\${sign}`);
  const rows = body.map((row) => `${row.map(({ text, bold }) => (bold ? `\\textbf{${safe(text)}}` : safe(text))).join(" & ")} \\\\`);
  return ["\\begin{table}", "\\centering", `\\caption{${safe(name)}. Mean $\\pm$ sample standard deviation over nets; the best of each column is bold.}`,
    `\\begin{tabular}{${numeric.map((right) => (right ? "r" : "l")).join("")}}`, "\\toprule", `${head.map(safe).join(" & ")} \\\\`, "\\midrule", ...rows,
    "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
}

// Numbers in the units of the store, as in the files beside the page.
function csvText(items, columns) {
  const quote = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  const measured = columns.filter(({ name }) => name);
  const head = ["method", "model", "dataset", "schedule", "row", "setting", "id", "nets", "status", "origin",
    ...measured.flatMap(({ key }) => [key, `${key}_sd`, `${key}_n`])];
  const rows = items.map((item) => [...["method", "model", "dataset", "schedule", "row", "label", "id"].map((name) => item.first[name]), item.runs.length,
    worst(item), originOf(item), ...measured.flatMap(({ name }) => { const found = item.get(name); return [found?.mean, found?.sd, found?.n]; })]);
  return `${[head, ...rows].map((row) => row.map(quote).join(",")).join("\n")}\n`;
}

async function copyBoard(kind) {
  const text = boardText(kind);
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page from the disk may not ask for the clipboard
    const area = el("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("#taken").textContent = `${plural(drawBoard.shown.items.length, "line")} copied`;
}

function downloadBoard(kind) {
  const address = URL.createObjectURL(new Blob([boardText(kind)], { type: "text/plain" }));
  el("a", { href: address, download: `leaderboard.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  $("#taken").textContent = `leaderboard.${kind} saved`;
}

function buildBoard() {
  for (const [kind, title] of [["csv", "CSV"], ["md", "Markdown"], ["tex", "LaTeX"]]) {
    $("#copy").append(el("button", { type: "button", class: "button small", "data-copy": kind, click: () => copyBoard(kind) }, title));
    $("#download").append(el("button", { type: "button", class: "button small", "data-download": kind, click: () => downloadBoard(kind) }, title));
  }
  $("#on").addEventListener("change", (event) => { state.on = event.target.value; drawBoard(filtered()); remember(); });
  $("#board-more").addEventListener("click", () => { drawBoard.limit += 2 * PAGE; drawBoard(filtered()); });
}
