// Glue between the page and its library: choosers of pictures, filters of the cell table, tips, focus. The page reads
// well without it. Text is only ever set as text.
"use strict";
(() => {
  const make = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e; };
  const chooser = (label, options, chosen, act) => {
    const select = make("select", { onchange: () => act(select.value) }, ...options.map((o) => make("option", { value: o, textContent: o, selected: o === chosen })));
    return make("label", { textContent: label }, select);
  };

  // One picture of a section at a time, chosen by what tells them apart, by its small one, or by its address.
  const turners = new Map();
  for (const box of document.querySelectorAll(".pictures")) {
    const rest = box.querySelector(":scope > details.rest");
    if (!rest) continue;
    rest.querySelector("summary").remove();
    rest.replaceWith(...rest.childNodes);
    const pictures = [...box.querySelectorAll(":scope > figure")].map((element) => ({ element, keys: JSON.parse(element.dataset.keys) }));
    const facets = [...new Set(pictures.flatMap((p) => Object.keys(p.keys)))].filter((f) => new Set(pictures.map((p) => p.keys[f])).size > 1);
    const thumbs = [...box.querySelectorAll(":scope > .thumbs a")];
    if (!facets.length && !thumbs.length) continue;
    const bar = make("div", { className: "filters" });
    if (facets.length) box.prepend(bar);
    let current;
    // What was chosen further left stays as it is; of what is further right, as much as there is.
    const of = (p, f) => p.keys[f] ?? "–";
    const turn = (picture) => {
      current = picture;
      for (const p of pictures) p.element.hidden = p !== current;
      for (const thumb of thumbs) thumb.setAttribute("aria-current", thumb.hash === `#${current.element.id}`);
      const choices = (f, i) => [...new Set(pictures.filter((p) => facets.slice(0, i).every((g) => of(p, g) === of(current, g))).map((p) => of(p, f)))];
      bar.replaceChildren(...facets.map((f, i) => chooser(f, choices(f, i), of(current, f), (v) => { choose(f, v); bar.querySelectorAll("select")[i].focus(); })));
    };
    const choose = (facet, value) => {
      const left = facets.slice(0, facets.indexOf(facet));
      const shared = (p) => facets.filter((f) => of(p, f) === of(current, f)).length;
      const having = pictures.filter((p) => of(p, facet) === value && left.every((f) => of(p, f) === of(current, f)));
      turn(having.reduce((best, p) => (shared(p) > shared(best) ? p : best), having[0]));
    };
    for (const p of pictures) turners.set(p.element, () => turn(p));
    for (const thumb of thumbs) thumb.onclick = (event) => { event.preventDefault(); turners.get(document.getElementById(thumb.hash.slice(1)))(); };
    turn(pictures[0]);
  }

  // The picker: what is needed, its order, dimension and memory name one square of the tables.
  const picker = document.getElementById("picker");
  const tables = [...document.querySelectorAll("table.advice[data-need]")];
  if (picker && tables.length) {
    const [bar, answer] = picker.children;
    const squares = tables.flatMap((table) => [...table.tBodies[0].rows].flatMap((row) => [...row.cells].slice(2).map((cell, i) => ({
      need: table.dataset.need, order: row.cells[0].textContent, dimension: row.cells[1].textContent, memory: table.tHead.rows[0].cells[i + 2].textContent, cell }))));
    const facets = ["need", "order", "dimension", "memory"];
    const chosen = { need: squares[0].need, memory: squares[0].memory };
    const show = () => {
      let left = squares;
      bar.replaceChildren(...facets.map((facet) => {
        const options = [...new Set(left.map((s) => s[facet]))];
        // The largest dimension of order 2, where nothing was chosen; what was not chosen is not kept for another need.
        const usual = facet === "order" && options.includes("2") ? "2" : options[facet === "memory" ? 0 : options.length - 1];
        const shown = options.includes(chosen[facet]) ? chosen[facet] : usual;
        left = left.filter((s) => s[facet] === shown);
        return chooser({ need: "I need", order: "order k", dimension: "dimension n", memory: "memory" }[facet], options, shown, (v) => { chosen[facet] = v; show(); bar.querySelectorAll("select")[facets.indexOf(facet)].focus(); });
      }));
      answer.replaceChildren(...[...left[0].cell.childNodes].map((n) => n.cloneNode(true)));
    };
    show();
    picker.hidden = false;
  }

  // Where panels scroll, the keyboard scrolls them, too.
  if (matchMedia("(max-width: 34rem)").matches) for (const panel of document.querySelectorAll(".panel")) panel.tabIndex = 0;

  // Where the contents stand above the page instead of beside it, they would push the answers off the screen.
  if (matchMedia("(max-width: 60rem)").matches) document.querySelector(".layout > nav details")?.removeAttribute("open");

  // The cell table: sorted, searched and paged by DataTables; a chooser a column of names.
  const element = document.getElementById("cell-table");
  if (element && window.DataTable && element.tBodies[0].rows.length) {
    const box = element.closest(".tall");
    // Figures sort by size, and those that are missing come last, whichever way.
    const missing = (a, b) => (a === "") - (b === "");
    DataTable.ext.type.order["figure-asc"] = (a, b) => missing(a, b) || a - b;
    DataTable.ext.type.order["figure-desc"] = (a, b) => missing(a, b) || b - a;
    const table = new DataTable(element, {
      columnDefs: [{ targets: "figure", type: "figure" }],
      order: [], pageLength: 25, lengthMenu: [25, 100, 500], autoWidth: false,
      layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
      language: { search: "Search all columns ", info: "_START_ to _END_ of _TOTAL_ cells", infoFiltered: "(of _MAX_)" },
    });
    box.classList.remove("wide", "tall"); // pages take the place of a scrolled box
    box.removeAttribute("tabindex");
    const bar = document.getElementById("filters");
    const heads = [...element.tHead.rows[0].cells];
    for (const name of ["operator", "method", "problem", "order", "dtype", "device", "status", "machine"]) {
      const index = heads.findIndex((h) => h.title === name);
      if (index < 0) continue;
      const values = [...new Set(table.column(index).nodes().toArray().map((cell) => cell.textContent.trim()))].sort();
      if (values.length < 2) continue;
      const wanted = { value: null };
      table.search.fixed(name, (_text, _data, row) => wanted.value === null || table.cell(row, index).node().textContent.trim() === wanted.value);
      const all = "all";
      bar.append(chooser(name, [all, ...values], all, (v) => { wanted.value = v === all ? null : v; table.draw(); }));
    }
    bar.hidden = !bar.children.length;
  }

  // A row's own words beside a point that is hovered.
  const tip = document.getElementById("tip");
  const linked = (event) => event.target.closest?.("svg a[href^='#c'], .links a[href^='#c']");
  document.addEventListener("pointerover", (event) => {
    const link = linked(event);
    const row = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!row) { tip.hidden = true; return; }
    const metrics = new Map((row.querySelector(".m")?.textContent ?? "").split("\n").map((line) => line.split("\t")));
    const metric = (name) => metrics.get(name);
    const said = [["seconds_min", ""], ["gradient_equivalents", " gradients"], ["peak_bytes", " peak"]].map(([name, unit]) => metric(name) && metric(name) + unit).filter(Boolean);
    tip.textContent = [row.querySelector("h3").textContent, row.querySelector("p").textContent.trim(), said.join(", ")].filter(Boolean).join(" · ");
    tip.hidden = false;
    const { clientX: x, clientY: y } = event;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 12 : y + 18}px`;
  });

  // Evidence opens by its address alone; here the focus goes to it and back.
  let opener = null;
  document.addEventListener("click", (event) => { const link = event.target.closest?.("a[href^='#c']"); if (link && /^#c\d+$/.test(link.getAttribute("href"))) opener = link; });
  const arrived = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.classList.contains("ev")) { target.focus({ preventScroll: true }); tip.hidden = true; }
    else if (turners.has(target)) { turners.get(target)(); target.scrollIntoView(); }
    else if (location.hash === "#closed" && opener) { opener.focus?.({ preventScroll: true }); opener = null; }
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  };
  addEventListener("hashchange", arrived);
  arrived();
  addEventListener("keydown", (event) => { if (event.key === "Escape" && document.querySelector(".ev:target")) location.hash = "closed"; });
})();
