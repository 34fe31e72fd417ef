"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const form = at("ask"), box = at("question"), hint = at("hint"), live = at("live");
  const results = at("results"), title = at("results-title"), answers = at("answers");
  const asked = at("asked"), askedList = at("asked-list");
  const seen = new Map(); // question -> what was answered, in this visit only
  const hintText = hint.textContent;
  let running = null;

  // Every text of an answer is data: it enters the page as a text node or as the value of an attribute, never as HTML.
  function make(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  }

  const pairs = (cls, items) =>
    make("dl", { class: cls }, items.map(([name, value]) => make("div", {}, make("dt", {}, name), " ", make("dd", {}, value))));

  const chip = (one, bare) =>
    make("span", { class: `chip ${one.verdict}${bare ? " bare" : ""}` },
      make("span", { class: "mark", "aria-hidden": "true" }, one.mark), make("b", {}, one.words),
      one.readout && make("span", {}, one.readout));

  const region = (cls, label, table) =>
    make("div", { class: `scroll ${cls}`.trim(), tabindex: "0", role: "region", "aria-label": label }, table);

  const twoColumns = (cls, items) =>
    make("table", { class: cls },
      make("tbody", {}, items.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));

  function glance(view) {
    const head = make("tr", {}, make("th", { scope: "col" }, "Condition"), view.readouts.map((r) => make("th", { scope: "col" }, r)));
    const rows = view.rows.map((row) => {
      const link = make("a", { href: `#answer-${row.number}` }, row.condition);
      // The fragment of the address belongs to the question.
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const card = at(`answer-${row.number}`);
        card.scrollIntoView({ block: "start" });
        card.focus({ preventScroll: true });
      });
      const cells = row.cells.map((cell) => make("td", {}, cell ? chip(cell, true) : make("span", { class: "none" }, "–")));
      return make("tr", {}, make("th", { scope: "row" }, link), cells);
    });
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, rows));
    return [region("glance", "All conditions at a glance", table), view.left && make("p", { class: "left" }, view.left)];
  }

  function closes(made, head) {
    made.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !made.open) return;
      made.open = false;
      head.focus();
      event.stopPropagation();
    });
    return made;
  }

  function cells(line, columns) {
    if (line.cells) return line.cells.map((cell, i) => make("td", columns[i].number ? { class: "n" } : {}, cell));
    const changed = line.changed && [make("b", { class: "changed" }, "This row has changed since it was cited; it said:"), " "];
    return make("td", { class: "words", colspan: String(columns.length) }, changed || [], make("span", {}, line.quote));
  }

  function rows(cited) {
    const head = make("summary", {},
      make("span", { class: "title" }, cited.title, cited.source ? [", ", make("span", { class: "from" }, cited.source)] : []));
    const columns = cited.columns.map((one) => make("th", one.number ? { scope: "col", class: "n" } : { scope: "col" }, one.name));
    const lines = cited.lines.map((line) =>
      make("tr", {}, cells(line, cited.columns),
        make("td", { class: "id" }, make("code", { title: line.identifier }, line.short))));
    const table = make("table", {},
      make("thead", {}, make("tr", {}, columns, make("th", { scope: "col" }, "row"))), make("tbody", {}, lines));
    return closes(make("details", { class: "cite rows" }, head, make("div", { class: "inside" },
      cited.equal.length > 0 && pairs("facts", cited.equal), region("lines", cited.title, table))), head);
  }

  function citation(cite) {
    const head = make("summary", {}, cite.label && make("span", { class: "no" }, cite.label),
      make("span", { class: "title" }, cite.title));
    const said = make("blockquote", {}, cite.parts.map(([marked, text]) => (marked ? make("mark", {}, text) : text)));
    const inside = make("div", { class: "inside" },
      cite.changed && make("p", { class: "changed" }, "This has changed since it was cited; below is what it said."), said,
      cite.cells.length > 0 && twoColumns("row", cite.cells),
      make("dl", { class: "meta" }, cite.meta.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
    return closes(make("details", { class: "cite" }, head, inside), head);
  }

  function card(one) {
    const named = `condition-${one.number}`;
    const remarks = one.remarks.map((each) => make("li", { class: each.kind }, make("b", {}, `${each.name}:`), " ", each.text));
    const measured = one.measures.map((each) =>
      make("div", {}, make("dt", {}, each.name), make("dd", {}, each.value),
        each.share !== null &&
          make("dd", { class: "bar" }, make("meter", { min: "0", max: "1", value: each.share, "aria-label": each.name }))));
    return make("article", { class: "card", id: `answer-${one.number}`, "aria-labelledby": named, tabindex: "-1" },
      make("p", { class: "under" }, `Condition ${one.number}`), make("h3", { id: named }, one.condition),
      one.facts.length > 0 && pairs("facts", one.facts),
      one.chips.length > 0 && make("ul", { class: "chips" }, one.chips.map((each) => make("li", {}, chip(each, false)))),
      make("p", { class: "text" }, one.text),
      remarks.length > 0 && make("ul", { class: "remarks" }, remarks),
      measured.length > 0 && make("dl", { class: "measures" }, measured),
      make("div", { class: "sources" },
        make("h4", {}, one.citations.length ? "Sources" : "No source: nothing near was found"), one.citations.map((each) => (each.kind === "rows" ? rows(each) : citation(each)))));
  }

  const box_of = (cls, lead, text) =>
    make("div", { class: `unanswered ${cls}`.trim() }, make("p", { class: "lead" }, lead), make("p", {}, text));

  function shown(view) {
    const said = make("p", { class: "said" }, view.said);
    const how = view.trace.length > 0 &&
      make("details", {}, make("summary", {}, "How this came about"),
        region("", "How this came about", twoColumns("plain", view.trace)));
    return [
      view.not_answered === null && said,
      view.not_answered !== null && box_of("", "Not answered", view.not_answered),
      view.notices.length > 0 &&
        make("ul", { class: "notices", "aria-label": "Notices" }, view.notices.map((text) => make("li", {}, text))),
      view.matters && make("p", { class: "matters" }, view.matters),
      view.shared.length > 0 && pairs("facts", view.shared),
      ...(view.glance ? glance(view.glance) : []),
      view.cards.length > 0 && make("div", { class: "cards" }, view.cards.map(card)),
      make("div", { class: "account" }, pairs("usage", view.usage), how),
    ].filter(Boolean);
  }

  function put(question, nodes, said) {
    results.hidden = false;
    title.textContent = question;
    answers.replaceChildren(...nodes);
    live.textContent = said;
    document.title = `${question} – cellgap ask`;
    const rows = [...seen.keys()].reverse().map((text) => {
      const button = make("button", { type: "button", "aria-current": String(text === question) }, text);
      button.addEventListener("click", () => go(text));
      return make("li", {}, button);
    });
    askedList.replaceChildren(...rows);
    asked.hidden = seen.size < 2;
  }

  function finish(question, nodes, said) {
    results.removeAttribute("aria-busy");
    put(question, nodes, said);
    // Whoever is typing the next question already is left alone.
    if (document.activeElement !== box || box.value.trim() === question) title.focus();
  }

  function show(question) {
    const view = seen.get(question);
    finish(question, shown(view), view.not_answered === null ? view.said : `${view.said} ${view.not_answered}`);
  }

  async function ask(question) {
    if (running) running.abort();
    running = null;
    if (seen.has(question)) return show(question);
    const mine = (running = new AbortController());
    results.setAttribute("aria-busy", "true");
    put(question, [make("div", { class: "working" }, "Looking for evidence …", make("div", { class: "line" }, make("i")))], "Looking for evidence.");
    let wrong;
    try {
      const reply = await fetch("/ask", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ question }), signal: mine.signal,
      });
      const told = await reply.json();
      if (running !== mine) return;
      if (reply.ok) {
        seen.set(question, told.page);
        return show(question);
      }
      wrong = told.error.text;
    } catch (error) {
      if (running !== mine) return;
      wrong = "The server did not answer. Is cellgap ask serve still running in its terminal?";
    } finally {
      if (running === mine) running = null;
    }
    finish(question, [box_of("failed", "That did not work", wrong)], `That did not work. ${wrong}`);
  }

  const inAddress = () => new URLSearchParams(location.hash.slice(1)).get("q") || "";

  function go(question) {
    box.value = question;
    check(true);
    const address = `#q=${encodeURIComponent(question)}`;
    if (location.hash !== address) history.pushState(null, "", address);
    ask(question);
  }

  function check(fine) {
    box.setAttribute("aria-invalid", String(!fine));
    hint.classList.toggle("wrong", !fine);
    hint.textContent = fine ? hintText : "Type a question first.";
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = box.value.trim();
    if (question) return go(question);
    check(false);
    box.focus();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("click", (event) => {
    const example = event.target.closest("button[data-question]");
    if (example) go(example.dataset.question);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const open of document.querySelectorAll("details.cite[open]")) open.open = false;
  });
  addEventListener("popstate", () => {
    const question = inAddress();
    box.value = question;
    if (question) return ask(question);
    if (running) running.abort();
    running = null;
    results.hidden = true;
    document.title = "cellgap ask";
    box.focus();
  });

  const linked = inAddress();
  if (linked) {
    box.value = linked;
    // A page of somebody else may link here: its question waits for the reader.
    if (document.body.dataset.link === "ask") ask(linked);
    else hint.textContent = "This question came with the link. Enter asks it.";
  }
})();
