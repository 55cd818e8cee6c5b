"use strict";

// The page is complete without this: it adds the switch of the theme, sorting, the choice of entries, and the map's images.

function theme() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.setAttribute("aria-description", "Changes the colours of the page");
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; show(); });
  system.addEventListener("change", show);
  show();
}

function sortable(table) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const start = head.classList.contains("number") ? "descending" : "ascending";
      const order = head.ariaSort === "ascending" ? "descending" : head.ariaSort === "descending" ? "ascending" : start;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sort(body, column, order === "ascending" ? 1 : -1);
    });
  });
}

function sort(body, column, sign) {
  const value = (row) => Number(row.cells[column].dataset.value ?? NaN);
  const text = (row) => row.cells[column].textContent;
  const rows = [...body.rows];
  const numeric = rows.some((row) => !Number.isNaN(value(row)));
  rows.sort((one, two) => {
    if (!numeric) return sign * text(one).localeCompare(text(two), undefined, { numeric: true });
    const [a, b] = [value(one), value(two)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what has no number is last
    return sign * (a - b);
  });
  body.append(...rows);
}

class EmbeddingMap {
  constructor(svg) {
    this.svg = svg;
    this.facts = JSON.parse(document.getElementById("map-data").textContent);
    this.points = [...svg.querySelectorAll("circle")];
    this.places = this.points.map((point) => [point.cx.baseVal.value, point.cy.baseVal.value]);
    this.card = svg.parentElement.querySelector(".card");
    this.says = document.getElementById("map-says");
    this.at = -1;
    svg.addEventListener("pointermove", (event) => this.point(event));
    svg.addEventListener("pointerdown", (event) => this.point(event));
    svg.addEventListener("pointerleave", () => this.leave());
    svg.addEventListener("blur", () => this.leave());
    svg.addEventListener("focus", () => { if (this.at < 0 && svg.matches(":focus-visible")) this.show(this.middle()); });
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const scale = this.svg.viewBox.baseVal.width / box.width;
    const nearest = this.nearest((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    const [x, y] = this.places[nearest];
    const distance = Math.hypot((event.clientX - box.left) * scale - x, (event.clientY - box.top) * scale - y);
    if (distance < 16 * scale) this.show(nearest); else this.leave();
  }

  nearest(x, y) {
    const distances = this.places.map(([left, top]) => Math.hypot(left - x, top - y));
    return distances.indexOf(Math.min(...distances));
  }

  middle() {
    const { width, height } = this.svg.viewBox.baseVal;
    return this.nearest(width / 2, height / 2);
  }

  key(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") this.leave();
    if (!(event.key in directions)) return;
    event.preventDefault();
    this.show(this.at < 0 ? this.middle() : this.next(...directions[event.key]));
  }

  next(right, down) {
    const [x, y] = this.places[this.at];
    let best = this.at;
    let least = Infinity;
    this.places.forEach(([left, top], index) => {
      const ahead = (left - x) * right + (top - y) * down;
      const aside = Math.abs((left - x) * down) + Math.abs((top - y) * right);
      if (ahead > 0.05 && ahead + 2 * aside < least) [best, least] = [index, ahead + 2 * aside];
    });
    return best;
  }

  show(index) {
    if (index === this.at) return;
    this.at = index;
    const { classes, of, near, names } = this.facts;
    this.svg.classList.add("active");
    this.points.forEach((point, other) => {
      point.classList.toggle("alike", of[other] === of[index]);
      point.classList.toggle("here", other === index);
    });
    const lines = [["b", classes[of[index]]], ["span", names[index]], ["span", `nearest image: ${classes[near[index]]}`]];
    this.card.querySelector(".words").replaceChildren(...lines.map(([name, text]) => {
      const line = document.createElement(name);
      line.textContent = text;
      return line;
    }));
    this.says.textContent = lines.map(([, text]) => text).join(", ");
    this.picture(index);
    this.card.hidden = false;
    this.place(index);
  }

  picture(index) {
    const side = 96;
    const { cell, columns } = this.facts;
    const picture = this.card.querySelector(".picture");
    const sheet = document.getElementById("map-sheet");
    if (!picture.style.backgroundImage) picture.style.backgroundImage = `url("${sheet.src}")`;
    picture.style.backgroundSize = `${columns * side}px auto`;
    picture.style.backgroundPosition = `${-(index % columns) * side}px ${-Math.floor(index / columns) * side}px`;
    picture.dataset.cell = cell;
  }

  place(index) {
    const scale = this.svg.clientWidth / this.svg.viewBox.baseVal.width;
    const [x, y] = this.places[index].map((value) => value * scale);
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const left = x + 16 + width > this.svg.clientWidth ? x - 16 - width : x + 16;
    this.card.style.left = `${Math.max(0, Math.min(left, this.svg.clientWidth - width))}px`;
    this.card.style.top = `${Math.max(0, Math.min(y - height / 2, this.svg.clientHeight - height))}px`;
  }

  leave() {
    if (this.at < 0) return;
    this.at = -1;
    this.svg.classList.remove("active");
    this.card.hidden = true;
    this.says.textContent = "";
  }
}

// Which entries are seen side by side.
function chooser(fieldset) {
  const show = (box) => {
    const parts = document.querySelectorAll(`.entry[data-entry="${box.value}"]`);
    parts.forEach((part) => { part.hidden = !box.checked; });
  };
  fieldset.hidden = false;
  fieldset.querySelectorAll("input").forEach((box) => {
    box.addEventListener("change", () => show(box));
    show(box);
  });
}

theme();
document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll(".chooser").forEach(chooser);
document.querySelectorAll("#map-points").forEach((svg) => new EmbeddingMap(svg));

// Notes are folded away; a link to one, and paper, unfold them.
const unfold = (part) => { for (let at = part; at; at = at.parentElement) if (at.localName === "details") at.open = true; };
const follow = () => unfold(document.getElementById(location.hash.slice(1)));
addEventListener("hashchange", follow);
document.querySelectorAll('a[href^="#note"]').forEach((link) => link.addEventListener("click", () => {
  unfold(document.getElementById(link.hash.slice(1)));
}));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
follow();
