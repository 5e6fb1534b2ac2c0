"use strict";
const MOST_ROWS = 300;

/* Figures in the order of `way`, then texts in it: dashes stay at the end. */
function compare(a, b, way) {
  const [x, y] = [Number.parseFloat(a), Number.parseFloat(b)];
  const [isText, isOther] = [Number.isNaN(x), Number.isNaN(y)];
  if (isText !== isOther) return isText - isOther;
  return way * (isText ? String(a).localeCompare(String(b)) : x - y);
}

function sorting(head, sort) {
  head.querySelectorAll("th").forEach((cell, column) => {
    cell.onclick = () => {
      const way = cell.dataset.way === "-1" ? 1 : -1;
      head.querySelectorAll("th").forEach(other => delete other.dataset.way);
      cell.dataset.way = way;
      sort(column, way);
    };
  });
}

document.querySelectorAll("table.sortable").forEach(table => sorting(table.tHead, (column, way) => {
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(a.cells[column].textContent, b.cells[column].textContent, way));
  table.tBodies[0].append(...rows);
}));

{
  const table = document.getElementById("all");
  const filter = document.getElementById("filter");
  const {header, lines} = data.rows;
  table.tHead.append(element("tr", {}, ...header.map((name, i) => element("th", {className: i > 2 && i < header.length - 1 ? "n" : ""}, name))));
  const draw = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = lines.filter(line => { const text = line.join(" ").toLowerCase(); return words.every(word => text.includes(word)); });
    document.getElementById("count").textContent = found.length > MOST_ROWS ? `${found.length} rows, the first ${MOST_ROWS} are shown` : `${found.length} rows`;
    table.tBodies[0].replaceChildren(...found.slice(0, MOST_ROWS).map(line =>
      element("tr", {}, ...line.map((value, i) => element("td", {className: typeof value === "number" ? "n" : ""}, value === null ? "–" : String(value))))));
  };
  filter.oninput = draw;
  sorting(table.tHead, (column, way) => { lines.sort((a, b) => compare(a[column] ?? "", b[column] ?? "", way)); draw(); });
  draw();
}
document.body.dataset.ready = "yes";
