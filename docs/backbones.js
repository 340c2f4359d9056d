// Makes a table of backbones.csv that can be searched, and sorted by a click on a column's head.
(function () {
  const link = document.querySelector('article a[href$="backbones.csv"]');
  if (!link) return;

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  // Names and numbers hold no comma and no quote: benchmarks/backbones_page.py refuses them.
  const rowsOf = (text) => text.trim().split(/\r?\n/).map((line) => line.split(","));

  const show = ([heads, ...rows]) => {
    const input = element("input", {
      type: "search", placeholder: "Search: resnet, vit 224, ...", className: "backbones-search",
    });
    input.setAttribute("aria-label", "Search backbones");
    const count = element("p", { className: "backbones-count" });
    count.setAttribute("role", "status");
    const body = element("tbody");
    const lines = rows.map((cells) => ({
      cells,
      text: cells.join(" ").toLowerCase(),
      line: element("tr", {}, ...cells.map((cell) => element("td", { textContent: cell }))),
    }));
    let sortedBy = -1;
    let down = false;

    const find = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = lines.filter(({ text }) => words.every((word) => text.includes(word)));
      body.replaceChildren(...found.map(({ line }) => line));
      count.textContent = `${found.length} of ${lines.length}`;
    };
    const compare = (a, b) => {
      const [x, y] = [a.cells[sortedBy], b.cells[sortedBy]];
      const numeric = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
      return (down ? -1 : 1) * (numeric ? x - y : x.localeCompare(y));
    };
    const head = element("tr", {}, ...heads.map((name, column) => {
      const button = element("button", { type: "button", textContent: name });
      const cell = element("th", { scope: "col" }, button);
      button.addEventListener("click", () => {
        down = sortedBy === column && !down;
        sortedBy = column;
        for (const other of head.children) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        lines.sort(compare);
        find();
      });
      return cell;
    }));
    input.addEventListener("input", find);
    const table = element("table", { className: "backbones" }, element("thead", {}, head), body);
    link.closest("p").after(input, count, element("div", { className: "backbones-scroll" }, table));
    find();
  };

  fetch(link.href)
    .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
    .then((text) => show(rowsOf(text)))
    .catch(() => {}); // the link to the file is still there
})();
