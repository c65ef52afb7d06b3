// Tables that the page brings along, the filter of the papers, the theme, the address.
function sortStatic(table) {
  const body = $("tbody", table);
  const heads = $$("thead tr:last-child th", table);
  heads.forEach((head, i) => {
    const button = $("button", head);
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[i];
        if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
        return cell.textContent.trim() === NOTHING || head.classList.contains("num") ? null : cell.textContent.trim();
      };
      body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), down)));
    });
  });
}

function filterPapers() {
  const words = $("#paper-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = $("#paper-state").value;
  let shown = 0;
  for (const paper of $$(".paper")) {
    let hits = 0;
    for (const row of $$("tbody tr[data-state]", paper)) {
      const text = `${paper.dataset.text} ${row.textContent}`.toLowerCase();
      row.hidden = (wanted !== "" && row.dataset.state !== wanted) || !words.every((word) => text.includes(word));
      hits += !row.hidden;
    }
    for (const block of $$(".paper-table", paper)) block.hidden = !$("tbody tr:not([hidden])", block);
    paper.hidden = hits === 0;
    if (words.length || wanted) paper.open = true;
    shown += hits;
  }
  if ($("#waiting") && (words.length || wanted)) $("#waiting").open = true;
  $("#paper-count").textContent = plural(shown, "variant");
}

function theme() {
  const root = document.documentElement;
  const order = ["system", "light", "dark"];
  const button = $("#theme");
  const set = (name) => {
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    $("#theme-name").textContent = name;
    try { localStorage.setItem("prunebench-theme", name); } catch { /* a file may have no storage */ }
  };
  set(root.dataset.theme ?? "system");
  button.addEventListener("click", () => set(order[(order.indexOf(root.dataset.theme ?? "system") + 1) % 3]));
}

theme();
buildFilters();
buildBoard();
buildTable();
buildPlots();
restore(inAddress().query ?? "");
changed();
$$("table.sortable").forEach(sortStatic);
if ($("#paper-search")) {
  $("#paper-search").addEventListener("input", filterPapers);
  $("#paper-state").addEventListener("change", filterPapers);
}
$("#close").addEventListener("click", () => $("#detail").close());
$("#detail").addEventListener("click", (event) => { if (event.target === $("#detail")) $("#detail").close(); });
$("#detail").addEventListener("close", () => {
  // the address without the run, so that the same link opens it again
  if (inAddress().place.startsWith("run/")) remember("");
});
addEventListener("hashchange", route);
route();
