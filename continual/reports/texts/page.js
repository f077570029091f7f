"use strict";
// A page without this script lacks nothing but sorting and highlighting.
for (const table of document.querySelectorAll("table.sorted")) {
  const number = (row, column) => parseFloat(row.cells[column].dataset.value); // NaN where it is n/a or empty
  const isNumber = (cell) => "value" in cell.dataset || !cell.textContent;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (column && ![...table.tBodies[0].rows].every((row) => isNumber(row.cells[column]))) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      const text = (row) => row.cells[column].textContent;
      rows.sort((a, b) => {
        if (column === 0) return (rising ? 1 : -1) * text(a).localeCompare(text(b));
        const [x, y] = [number(a, column), number(b, column)];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // what is n/a comes last
        return rising ? x - y : y - x;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
// What a legend's buttons follow is below the same first heading: other scenarios have other methods.
const heads = [...document.querySelectorAll("h1")];
const place = (node) => heads.filter((h) => h.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING).length;
const inPlace = (selector, at) => [...document.querySelectorAll(selector)].filter((node) => place(node) === at);
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    const pressedOnes = inPlace(".legend button", place(button)).filter((b) => b.ariaPressed === "true");
    const shown = new Set(pressedOnes.map((b) => b.dataset.of));
    for (const part of inPlace("[data-method]", place(button)))
      part.classList.toggle("dim", shown.size > 0 && !shown.has(part.dataset.method));
  });
}
