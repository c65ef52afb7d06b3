// What is known of the single weights of a run: errors over the share of them that goes, and how they are distributed.
const SHARES = { width: 460, height: 270, left: 40, right: 10, top: 24, bottom: 40 };

// Error of single draws, mean and deviation in percent, at each share by each ranking; the whole net as a band.
function shareCurve(run) {
  const found = run.points.map(({ name, settings, get }) => ({ name, ranking: settings.ranking, x: 100 * settings.prune_ratio,
    y: 100 * get("method.sample_error"), sd: 100 * (get("method.sample_error_sd") ?? 0), known: get("method.sample_error") !== null }))
    .filter(({ known, x }) => known && Number.isFinite(x));
  if (found.length < 2) return null;
  const whole = found.find(({ x }) => x === 0) ?? null;
  const lines = [...groupBy(found.filter(({ x }) => x), ({ ranking }) => String(ranking))];
  const title = "Error of single draws over pruned weights";
  const { node, x, y } = frame({ x: [0, Math.max(...found.map((p) => p.x))], y: padded(found.flatMap((p) => [p.y - p.sd, p.y + p.sd]), { least: 0 }) },
    { label: title, xLabel: "weights removed, %", yLabel: "error, %", size: SHARES });
  if (whole) {
    const [from, to] = [x(0), x(Math.max(...found.map((p) => p.x)))];
    node.append(svg("rect", { class: "band", x: from, width: to - from, y: y(whole.y + whole.sd), height: y(whole.y - whole.sd) - y(whole.y + whole.sd) }),
      svg("line", { class: "dense", x1: from, x2: to, y1: y(whole.y), y2: y(whole.y) }));
  }
  lines.forEach(([ranking, points], i) => {
    const all = [...(whole ? [whole] : []), ...points].sort((a, b) => a.x - b.x);
    const path = all.map((p, j) => `${j ? "L" : "M"}${x(p.x)} ${y(p.y)}`).join("");
    node.append(svg("g", { class: colour(i) }, svg("path", { class: "line", d: path }), points.map((p) => explain(svg("g", {},
      svg("line", { class: "whisker", x1: x(p.x), x2: x(p.x), y1: y(p.y - p.sd), y2: y(p.y + p.sd) }), marker(i, x(p.x), y(p.y), 3)),
    `${ranking}, ${plain(p.x)} % removed\nerror ${plain(p.y)} ± ${plain(p.sd)} %`))));
  });
  const legend = lines.map(([ranking], i) => el("li", { class: colour(i) }, svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, marker(i, 7, 7)), el("span", {}, rankingName(run, ranking))));
  return el("figure", { class: "panel" }, el("h4", {}, title), node, el("ul", { class: "legend" }, legend),
    whole ? el("figcaption", {}, "Mean and deviation over single draws; dotted, with its deviation: nothing removed.") : null);
}

function rankingName(run, ranking) {
  const share = (run.fact("settings") ?? {}).fisher_share;
  const names = { snr: "SNR", fisher: "Fisher", magnitude: "mag", magnitude_fisher: `mag+Fisher r=${share}` };
  return names[ranking] ?? ranking;
}

// Counts in bins as bars, and the share of all values up to each bin as a line.
function distribution(name, { edges, counts, cdf }) {
  const most = Math.max(...counts, 1);
  const { node, x, y } = frame({ x: [edges[0], edges.at(-1)], y: [0, most] }, { label: name, xLabel: name, size: SHARES });
  counts.forEach((count, i) => node.append(explain(svg("rect", { class: "kept", x: x(edges[i]) + 0.5, y: y(count),
    width: Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 1), height: y(0) - y(count) }),
  `${plain(edges[i])} to ${plain(edges[i + 1])}\n${whole(count)} weights\n${percent(cdf[i])} % up to here`)));
  const path = cdf.map((share, i) => `${i ? "L" : "M"}${x(edges[i + 1])} ${y(share * most)}`).join("");
  node.append(svg("path", { class: "front", d: path }));
  return figure(name[0].toUpperCase() + name.slice(1), node, "Before pruning: weights in each bin, and dashed the share of all up to there.");
}
