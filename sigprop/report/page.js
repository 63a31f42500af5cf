/* Tables that sort by a column, and modules that fold. One listener serves all reports on a page, as in a notebook. */
if (!window.sigpropTables) {
  window.sigpropTables = true;
  const value = (row, column) => {
    const cell = row.cells[column], number = cell.dataset.v;
    return number === undefined ? cell.textContent.trim() : number === "" ? NaN : Number(number);
  };
  const compare = (a, b) => {
    if (typeof a === "string") return a.localeCompare(b);
    return Number.isNaN(a) ? (Number.isNaN(b) ? 0 : 1) : Number.isNaN(b) ? -1 : a < b ? -1 : a > b ? 1 : 0;
  };
  const sort = (head) => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const rows = [...body.rows];
    rows.forEach((row, k) => { row.dataset.place ??= k; });
    const now = head.getAttribute("aria-sort");
    const next = column === 0 && table.dataset.tree !== undefined ? "none" : now === "descending" ? "ascending" : now === "ascending" ? "none" : "descending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", other === head ? next : "none");
    table.classList.toggle("sorted", next !== "none");
    rows.sort((a, b) => a.dataset.place - b.dataset.place);
    if (next !== "none") {
      const sign = next === "descending" ? -1 : 1;
      const known = (row) => !row.classList.contains("module");
      const last = (row) => Number.isNaN(value(row, column)) ? 1 : 0;
      const data = rows.filter(known).sort((a, b) => last(a) - last(b) || sign * compare(value(a, column), value(b, column)));
      rows.splice(0, rows.length, ...data, ...rows.filter((row) => !known(row)));
    }
    body.append(...rows);
  };
  const fold = (row) => {
    const shut = row.classList.toggle("shut"), depth = Number(row.dataset.depth);
    row.querySelector("button").setAttribute("aria-expanded", String(!shut));
    for (let next = row.nextElementSibling; next && Number(next.dataset.depth) > depth; next = next.nextElementSibling) {
      next.classList.toggle("folded", shut);
      if (next.classList.contains("module")) next.classList.toggle("shut", shut);
    }
  };
  document.addEventListener("click", (event) => {
    const head = event.target.closest(".sigprop th button"), module = event.target.closest(".sigprop tr.module button");
    if (head) sort(head.closest("th"));
    if (module) fold(module.closest("tr"));
  });
}
