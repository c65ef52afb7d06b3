// What is shown, in the address: #<place>?<filters, order, columns, axes>, so that a link opens the same view.
function queryOf() {
  const query = new URLSearchParams();
  const add = (name, value) => { if (value) query.set(name, value); };
  for (const [name] of FILTERS) add(name, state.picked[name]);
  add("search", state.search);
  add("on", state.on || (onBoard.current === onBoard.first ? "" : onBoard.current));
  add("sort", state.sort);
  if (state.columns) query.set("columns", state.columns.join(","));
  add("x", state.x === "macs" ? "" : state.x);
  add("y", state.y);
  add("range", state.range);
  add("under", state.under);
  add("clock", state.clock === CLOCKS[0]?.key ? "" : state.clock);
  add("only", [...state.only].join(","));
  add("runs", state.runs === "method" ? "" : state.runs);
  return query.toString();
}

// Only what exists is taken over: an old link must not empty the page.
function restore(text) {
  const query = new URLSearchParams(text);
  const among = (name, known, otherwise) => (known.includes(query.get(name) ?? "") ? query.get(name) : otherwise);
  for (const [name] of FILTERS) state.picked[name] = among(name, FILTER_VALUES.get(name).map(String), "");
  state.search = query.get("search") ?? "";
  state.on = query.get("on") ?? "";
  onBoard.current = "";
  const ordered = (columns) => columns.flatMap(({ key }) => [key, `-${key}`]);
  state.sort = among("sort", ordered([NAME, ...BOARD]), null);
  state.columns = query.has("columns") ? query.get("columns").split(",").filter((key) => BOARD.some((column) => column.key === key)) : null;
  state.x = among("x", X.map(({ key }) => key), "macs");
  state.y = among("y", Y.map(({ key }) => key), "");
  state.range = among("range", ["10"], "");
  state.under = among("under", FILTER_VALUES.get("schedule"), "");
  state.clock = among("clock", CLOCKS.map(({ key }) => key), CLOCKS[0]?.key ?? "");
  state.only = new Set((query.get("only") ?? "").split(",").filter((method) => D.methods.includes(method)));
  state.runs = among("runs", ordered(COLUMNS), "method");
  showFilters();
  showAxes();
}

const inAddress = () => {
  const [place, ...query] = location.hash.slice(1).split("?");
  return { place: decodeURIComponent(place), query: query.length ? query.join("?") : null };
};

// Write the state behind the place where the reader is.
function remember(place = inAddress().place) {
  const query = queryOf();
  const hash = place || query ? `#${place}${query ? `?${query}` : ""}` : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
}

function route() {
  const { place, query } = inAddress();
  if (query !== null && query !== queryOf()) {
    restore(query);
    changed();
  }
  const [, id, seed] = /^run\/([^/]+)(?:\/(\d+))?$/.exec(place) ?? [];
  if (id) openRun(id, seed);
  else if ($("#detail").open) $("#detail").close();
  if (/^paper-/.test(place)) showPaper(document.getElementById(place));
  else if (query !== null && place && !id) document.getElementById(place)?.scrollIntoView();
  remember();
}

function showPaper(found) {
  for (let node = found; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  found?.scrollIntoView();
}
