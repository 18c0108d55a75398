// Sorting, filtering and paging of the table, and the read-out of the map. Without this script the
// page shows everything, unsorted.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const table = $("table"), body = table.tBodies[0], atOnce = Number(table.dataset.atOnce);
  const headers = [...table.tHead.rows[0].cells];
  let rows = [...body.rows], limit = atOnce;
  const place = (title) => headers.findIndex((cell) => cell.textContent === title);
  const columns = { op: place("operator"), precision: place("compiled") };
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  const wanted = () => {
    const words = $("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const op = $("filter-op").value, precision = $("filter-precision")?.value;
    const heavy = $("filter-heavy").checked;
    return (row) =>
      (!heavy || "heavy" in row.dataset) &&
      (!op || row.cells[columns.op].textContent === op) &&
      (!precision || row.cells[columns.precision].firstChild.textContent === precision) &&
      words.every((word) => text.get(row).includes(word));
  };

  const show = () => {
    const matches = rows.filter(wanted());
    const shown = new Set(matches.slice(0, limit));
    for (const row of rows) row.hidden = !shown.has(row);
    $("count").value = `${matches.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    $("more").hidden = matches.length <= limit;
  };
  const restart = () => { limit = atOnce; show(); };

  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const shown = cell.textContent.trim();
    if (shown === "–") return null;
    return column === 0 ? Number(shown) : shown.toLowerCase();
  };
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const sort = (column) => {
    const up = headers[column].getAttribute("aria-sort") !== "ascending";
    for (const cell of headers) cell.removeAttribute("aria-sort");
    headers[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = rows.map((row, index) => ({ row, index, key: key(row, column) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return (up ? 1 : -1) * compare(a.key, b.key) || a.index - b.index;
    });
    rows = keyed.map((entry) => entry.row);
    body.append(...rows);
    restart();
  };

  headers.forEach((cell, column) =>
    cell.querySelector("button").addEventListener("click", () => sort(column)));
  $("filters").addEventListener("input", restart);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("more").firstElementChild.addEventListener("click", () => { limit += atOnce; show(); });

  const strip = $("strip"), readout = $("readout"), kernels = [...strip.children];
  let current = -1;
  const select = (index) => {
    if (current >= 0) kernels[current].setAttribute("aria-selected", "false");
    current = Math.max(0, Math.min(kernels.length - 1, index));
    const kernel = kernels[current];
    kernel.setAttribute("aria-selected", "true");
    strip.setAttribute("aria-activedescendant", kernel.id);
    readout.textContent = `${current + 1} of ${kernels.length}: ${kernel.getAttribute("aria-label")}`;
    kernel.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const find = (kernel) => {
    $("filter-text").value = kernel.dataset.node;
    restart();
    $("layers").scrollIntoView();
  };
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10,
                  Home: -Infinity, End: Infinity };
  strip.addEventListener("keydown", (event) => {
    if (event.key in moves) select(current + moves[event.key]);
    else if (event.key === "Enter" && current >= 0) find(kernels[current]);
    else return;
    event.preventDefault();
  });
  const column = (event) => kernels.indexOf(event.target.closest("i"));
  strip.addEventListener("pointerover", (event) => { if (column(event) >= 0) select(column(event)); });
  strip.addEventListener("click", (event) => { if (column(event) >= 0) find(kernels[column(event)]); });

  // What is folded away would be missing on paper, and so would the target of a link into it.
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  const reveal = () => {
    const target = location.hash.length > 1 && $(location.hash.slice(1));
    const folded = target && target.closest("details");
    if (folded) { folded.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  reveal();
  show();
})();
