// A click on a header sorts its table by that column; groups stay as they are.
for (const table of document.querySelectorAll(".table table")) {
  const body = table.tBodies[0];
  if (body.querySelector(".group") || body.rows.length < 3) continue;
  const number = (text) =>
    parseFloat(text.replace(/−/g, "-").replace(/·10([⁻⁰-⁹¹²³]+)/, (all, power) =>
      "e" + [...power].map((c) => "-0123456789"["⁻⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c)]).join("")));
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    header.style.cursor = "pointer";
    header.title = "sort";
    header.onclick = () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].innerText.trim();
      const order = (a, b) => {
        const [x, y] = [number(key(a)), number(key(b))];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || key(a).localeCompare(key(b));
        return x - y;
      };
      const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * order(a, b));
      body.append(...rows);
    };
  });
}
