// The annotation page. What comes from the server is put in as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const client = sessionStorage.client || (sessionStorage.client = crypto.randomUUID());
let row = null; // what is shown
let trail = []; // rows that were shown before it
let shownText = null; // the text that the diff shows
let busy = false;
let timer = 0;

async function call(path, said) {
  const options = said && { method: "POST", body: JSON.stringify({ client, ...said }) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The command does not answer. What was saved is safe; start it again and reload this page.");
  }
  const found = await answer.json().catch(() => ({}));
  return { status: answer.status, ...found };
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function progress(p) {
  if (p.total === undefined) return;
  $("bar").max = p.total;
  $("bar").value = p.done;
  $("count").textContent = `${p.done} of ${p.total}`;
  $("rate").textContent = p.rate ? `${p.rate} an hour` : "";
  $("who").textContent = p.annotator;
  if (!$("chips").querySelector("input"))
    p.categories.forEach((name, k) => {
      const label = document.createElement("label");
      label.className = "chip";
      const box = document.createElement("input");
      box.type = "checkbox";
      box.value = name;
      box.addEventListener("change", changed);
      const key = document.createElement("kbd");
      key.textContent = k + 1;
      label.append(box, name, key);
      $("chips").append(label);
    });
}

function only(id) {
  for (const name of ["work", "end", "over"]) $(name).hidden = name !== id;
}

function work() {
  const categories = [...$("chips").querySelectorAll("input:checked")].map((box) => box.value);
  return { at: row.at, text: $("text").value, categories, rationale: $("why").value };
}

async function load(at) {
  const where = at === undefined ? "" : `&at=${at}`;
  const found = await call(`/api/row?client=${encodeURIComponent(client)}${where}`);
  progress(found);
  if (found.busy) return trouble("Someone else has this row before them.");
  if (!found.row) {
    row = null;
    const left = found.total - found.done;
    $("left").textContent = left ? `${left} more lie before someone else.` : `${found.done} rows are decided.`;
    $("finish").disabled = left > 0;
    only("end");
    return $("end").querySelector("h1").focus();
  }
  row = found.row;
  const turns = row.prompt.map((turn) => {
    const box = document.createElement("div");
    const head = document.createElement("h2");
    head.textContent = turn.role;
    const text = document.createElement("p");
    text.className = "text";
    text.dir = "auto";
    text.textContent = turn.content;
    box.append(head, text);
    return box;
  });
  $("turns").replaceChildren(...turns);
  $("chosen").textContent = row.chosen || "";
  $("guide").hidden = !row.chosen;
  const told = { edited: "saved", unchanged: "nothing to fix", failed: "cannot be fixed" };
  $("state").textContent = row.verdict ? `decided: ${told[row.verdict]}` : "";
  fill(row.work);
  only("work");
  scrollTo(0, 0);
  $("text").focus({ preventScroll: true });
  $("text").setSelectionRange(0, 0);
}

function fill(found) {
  $("text").value = found.text;
  $("why").value = found.rationale;
  for (const box of $("chips").querySelectorAll("input")) box.checked = found.categories.includes(box.value);
  shownText = null;
  compare();
}

async function compare() {
  const { at, text } = work();
  if (text === shownText) return;
  shownText = text;
  const found = await call("/api/diff", { at, text });
  if (!row || row.at !== at || $("text").value !== text || !found.parts) return; // it has gone on
  const pieces = [];
  for (const [tag, before, after] of found.parts) {
    if (tag === "equal") pieces.push(before);
    for (const [name, part] of tag === "equal" ? [] : [["del", before], ["ins", after]])
      if (part) {
        const piece = document.createElement(name);
        piece.textContent = part;
        pieces.push(piece);
      }
  }
  $("diff").replaceChildren(...pieces);
  const kept = `keeps ${Math.round(100 * found.similarity)} % of the words`;
  const same = text === row.original;
  $("keeps").textContent = same ? "as it was" : found.large ? `${kept}: that is a rewrite; can less be changed?` : kept;
  $("keeps").className = found.large && !same ? "large" : "soft";
}

function changed() {
  clearTimeout(timer);
  const at = row && row.at;
  timer = setTimeout(
    guarded(async () => {
      if (!row || row.at !== at) return;
      await compare();
      await call("/api/draft", work());
    }),
    150,
  );
}

function guarded(act) {
  return async (...given) => {
    try {
      await act(...given);
    } catch (error) {
      trouble(error.message);
    }
  };
}

const decide = (verdict) =>
  guarded(async () => {
    if (!row || busy) return;
    busy = true;
    clearTimeout(timer);
    try {
      const found = await call("/api/save", { ...work(), verdict, version: row.version });
      progress(found);
      if (found.conflict) return trouble("Someone else decided this row meanwhile; Skip goes on, Back shows theirs.");
      if (found.status === 422) return trouble("The text is as it was, or empty: say Nothing to fix, or Cannot fix.");
      if (found.status !== 200) return trouble(found.error || `It was not saved (${found.status}).`);
      trouble("");
      $("saved").textContent = `saved ${row.id}`;
      trail.push(row.at);
      await load();
    } finally {
      busy = false;
    }
  });

const actions = {
  save: decide("edited"),
  unchanged: decide("unchanged"),
  failed: decide("failed"),
  skip: guarded(async () => {
    if (!row) return;
    trouble("");
    trail.push(row.at);
    await call("/api/skip", { at: row.at });
    await load();
  }),
  back: guarded(async () => {
    trouble("");
    if (trail.length) await load(trail.pop());
  }),
  reset: guarded(async () => {
    if (!row) return;
    fill({ text: row.proposed, categories: [], rationale: "" });
    changed();
  }),
  hide: () => {
    const hidden = !$("chosen").hidden;
    $("chosen").hidden = hidden;
    $("hide").textContent = hidden ? "show" : "hide";
    $("hide").setAttribute("aria-expanded", String(!hidden));
  },
  finish: guarded(async () => {
    const found = await call("/api/finish", { at: 0 });
    if (found.status !== 200) return trouble(found.error);
    only("over");
    $("over").querySelector("h1").focus();
  }),
};
actions.again = actions.back;

const keys = { n: "unchanged", c: "failed", s: "skip", b: "back", r: "reset", p: "hide" };
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (row) actions.save();
    else if (!$("finish").disabled && !$("end").hidden) actions.finish();
  } else if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const digit = /^Digit([1-9])$/.exec(event.code);
    const name = keys[(/^Key([A-Z])$/.exec(event.code) || ["", ""])[1].toLowerCase()];
    const box = digit && row && $("chips").querySelectorAll("input")[digit[1] - 1];
    if (box) box.click();
    else if (name) actions[name]();
    else return;
    event.preventDefault();
  }
});
addEventListener("pagehide", () => {
  // Leaving in the middle of a word: what was written goes along.
  if (row) fetch("/api/draft", { method: "POST", keepalive: true, body: JSON.stringify({ client, ...work() }) });
});
for (const name of Object.keys(actions)) $(name).addEventListener("click", actions[name]);
$("text").addEventListener("input", changed);
$("why").addEventListener("input", changed);
guarded(() => load())();
