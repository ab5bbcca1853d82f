"use strict";
// One handler for each map, none for tokens: a cell is found by its place in its chunk, its values in the map's JSON.
for (const map of document.querySelectorAll(".map")) {
  const text = map.querySelector(".text");
  const panel = map.querySelector(".values");
  const chunks = [...text.querySelectorAll(".chunk")];
  const firsts = chunks.map((chunk) => Number(chunk.dataset.first));
  const total = chunks.length ? firsts[firsts.length - 1] + chunks[chunks.length - 1].children.length : 0;
  let data = null;
  let now = null;
  let pinned = false;

  const load = () => {
    if (data === null) {
      data = JSON.parse(document.getElementById(map.dataset.values).textContent);
      if (data.count) {
        let sum = 0;
        data.starts = data.count.map((n) => (sum += n) - n);
      }
    }
    return data;
  };
  const make = (name, content, className) => {
    const element = document.createElement(name);
    if (content !== undefined) element.textContent = content;
    if (className) element.className = className;
    return element;
  };
  const list = (pairs) => {
    const dl = make("dl", undefined, pairs.length > 4 ? "many" : "");
    for (const [name, value] of pairs) dl.append(make("dt", name), make("dd", value));
    return dl;
  };
  const percent = (p) => (p >= 0.0995 ? (100 * p).toFixed(1) : (100 * p).toPrecision(2)) + " %";
  const bits = (nats) => (nats / Math.LN2).toFixed(2);

  const number = (cell) => Number(cell.parentElement.dataset.first) + [...cell.parentElement.children].indexOf(cell);
  const at = (index) => {
    let low = 0, high = chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (firsts[middle] <= index) low = middle;
      else high = middle - 1;
    }
    return chunks[low].children[index - firsts[low]];
  };

  const alternatives = (token) => {
    const top = data.top[token], half = top.length / 2;
    const table = make("table"), head = make("tr"), body = make("tbody");
    head.append(make("th", "likeliest"), make("th", "probability"));
    for (let k = 0; k < half; k++) {
      const row = make("tr", undefined, data.rank[token] === k ? "true" : "");
      const name = make("td"), p = Math.exp(top[half + k]), bar = make("span", undefined, "bar");
      name.append(make("bdi", spaced(data.strings[top[k]])), data.rank[token] === k ? " ✓" : "");
      bar.style.width = 100 * p + "%";
      name.append(bar);
      row.append(name, make("td", percent(p)));
      body.append(row);
    }
    table.append(head, body);
    return table;
  };
  const spaced = (string) => string.replaceAll(" ", "␣").replaceAll("\n", "");
  const tokenValues = (index) => {
    const shown = [];
    const first = data.starts[index], last = first + data.count[index];
    if (first === last) shown.push(make("p", "No token holds this text."));
    else if (last - first > 1) shown.push(make("p", last - first + " tokens share this."));
    for (let token = first; token < last; token++) {
      const nll = data.nll[token], pairs = [];
      if (data.bytes[token] !== undefined) pairs.push(["bytes", data.bytes[token] || "none"]);
      if (nll === null) pairs.push(["loss", "not scored"]);
      else {
        pairs.push(["loss", nll.toFixed(4) + " nats"], ["surprisal", bits(nll) + " bits"], ["probability", percent(Math.exp(-nll))]);
        if (data.times[token]) pairs.push(["scored", data.times[token] + " times, the mean"]);
        if (data.rank && data.rank[token] !== null)
          pairs.push(["rank", String(data.rank[token] + 1)],
            ["entropy", data.entropy[token].toFixed(4) + " nats"]);
        pairs.push(["predicted from", data.fed[token] + (data.fed[token] === 1 ? " token" : " tokens")]);
      }
      pairs.push(["token id", String(data.id[token])]);
      shown.push(list(pairs));
      if (data.top && data.top[token] && data.top[token].length) shown.push(alternatives(token));
    }
    return shown;
  };
  const differenceValues = (index) => {
    const a = data.a[index], b = data.b[index];
    if (a === null || b === null) return [make("p", "Not scored by both.")];
    const gap = b - a, sign = gap > 0 ? "+" : gap < 0 ? "−" : "";
    const better = Math.abs(gap) < 5e-5 ? "neither" : gap < 0 ? map.dataset.b : map.dataset.a;
    return [
      list([[map.dataset.a, a.toFixed(4) + " nats"], [map.dataset.b, b.toFixed(4) + " nats"]]),
      list([["difference", sign + Math.abs(gap).toFixed(4) + " nats"], ["", sign + bits(Math.abs(gap)) + " bits"],
        ["better", better]]),
    ];
  };

  const show = (cell) => {
    if (cell === null || cell === now) return;
    if (now !== null) now.classList.remove("now");
    now = cell;
    now.classList.add("now");
    load();
    const index = number(cell);
    panel.replaceChildren(make("bdi", spaced(cell.textContent), "token"),
      ...(data.count ? tokenValues(index) : differenceValues(index)));
  };
  const cellOf = (event) => (event.target instanceof Element ? event.target.closest(".chunk > i") : null);

  text.addEventListener("mouseover", (event) => {
    if (!pinned) {
      panel.setAttribute("aria-live", "off");
      show(cellOf(event));
    }
  });
  text.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell === null) return;
    pinned = !(pinned && cell === now);
    show(cell);
  });
  text.addEventListener("focus", () => {
    if (now === null && total && text.matches(":focus-visible")) show(at(0));
  });

  // The cell of the line above or below that is nearest, by what the browser drew.
  const vertical = (index, step) => {
    const box = at(index).getClientRects()[0];
    let line = null, best = index, distance = Infinity;
    for (let k = index + step; k >= 0 && k < total; k += step) {
      const other = at(k).getClientRects()[0];
      if (!other || Math.abs(other.top - box.top) < box.height / 2) continue;
      if (line === null) line = other.top;
      if (Math.abs(other.top - line) > box.height / 2) break;
      const gap = Math.abs(other.left - box.left);
      if (gap < distance) [best, distance] = [k, gap];
    }
    return best;
  };
  const marked = (index, step) => {
    for (let k = index + step; k >= 0 && k < total; k += step)
      if (/\b(u|[ab]4)\b/.test(at(k).className)) return k;
    return index;
  };
  const moves = {
    ArrowRight: (i) => i + 1, ArrowLeft: (i) => i - 1, ArrowDown: (i) => vertical(i, 1), ArrowUp: (i) => vertical(i, -1),
    Home: () => 0, End: () => total - 1, PageDown: (i) => i + 200, PageUp: (i) => i - 200,
    n: (i) => marked(i, 1), p: (i) => marked(i, -1),
  };
  text.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (event.key === "Escape") pinned = false;
    if (!move || !total || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pinned = true;
    panel.setAttribute("aria-live", "polite");
    const from = now === null ? -1 : number(now);
    const cell = at(now === null ? 0 : Math.min(Math.max(move(from), 0), total - 1));
    show(cell);
    const box = cell.getBoundingClientRect();
    if (box.top < 60 || box.bottom > innerHeight * (innerWidth < 960 ? 0.5 : 0.92)) cell.scrollIntoView({ block: "center" });
  });
}

// A link to a passage leads to its cell, which the keyboard then walks on from.
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[data-cell]") : null;
  if (link === null) return;
  const cell = document.getElementById(link.dataset.cell);
  event.preventDefault();
  cell.closest(".text").focus({ preventScroll: true });
  cell.click();
  cell.scrollIntoView({ block: "center" });
});
