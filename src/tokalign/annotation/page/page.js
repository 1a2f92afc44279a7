// The annotation page. What comes from the server is put in as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const boxes = () => [...$("chips").querySelectorAll("input")];
const mac = /Mac|iPhone|iPad/.test(navigator.platform);
const held = mac ? "Ctrl+Option" : "Alt"; // Option alone writes letters there
let client = sessionStorage.client || (sessionStorage.client = crypto.randomUUID());
let row = null; // what is shown
let total = 0;
let trail = []; // rows that were shown before it
let shownText = null; // the text that the diff shows
let kept = ""; // the work that the command has, as JSON
let before = null; // what stood there before "Start over"
let busy = false;
let waitDiff = 0;
let waitDraft = 0;

async function call(path, said) {
  const options = said && { method: "POST", body: JSON.stringify({ client, ...said }) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error(
      "The command does not answer. What was saved is safe. Copy what you just wrote, start the command again and open the address it prints.",
    );
  }
  if (![200, 409, 422].includes(answer.status))
    throw new Error(
      `The command did not take this (${answer.status}). Copy what you just wrote, and open the address that the command printed.`,
    );
  return { status: answer.status, ...(await answer.json()) };
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function say(text) {
  $("saved").textContent = text;
}

function progress(p) {
  if (p.total === undefined) return;
  total = p.total;
  $("bar").max = p.total;
  $("bar").value = p.done;
  $("count").textContent = `${p.done} of ${p.total}`;
  $("rate").textContent = p.rate ? `${p.rate} an hour` : "";
  $("who").textContent = p.annotator;
  if (!boxes().length)
    p.categories.forEach((name, k) => {
      const label = document.createElement("label");
      label.className = "chip";
      const box = document.createElement("input");
      box.type = "checkbox";
      box.value = name;
      box.addEventListener("change", () => {
        changed();
        say(`${name} ${box.checked ? "on" : "off"}`);
      });
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
  const named = boxes().map((box) => box.value);
  const others = row.work.categories.filter((name) => !named.includes(name)); // of another editor: kept
  const categories = [...boxes().filter((box) => box.checked).map((box) => box.value), ...others];
  return { at: row.at, version: row.version, text: $("text").value, categories, rationale: $("why").value };
}

async function load(at) {
  clearTimeout(waitDiff);
  clearTimeout(waitDraft);
  const where = at === undefined ? "" : `&at=${at}`;
  const found = await call(`/api/row?client=${encodeURIComponent(client)}${where}`);
  progress(found);
  if (found.busy) return trouble("Someone else has this row before them.");
  if (!found.row) {
    const left = found.total - found.done;
    $("left").textContent = left ? `${left} more lie before someone else.` : `${found.done} rows are decided.`;
    $("finish").disabled = left > 0;
    if (!$("end").hidden) return;
    row = null;
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
  $("state").textContent = [row.note && `from ${row.note}`, row.verdict && `decided: ${told[row.verdict]}`]
    .filter(Boolean)
    .join(" · ");
  $("save").textContent = row.note ? "Accept this edit" : "Save";
  $("unchanged").textContent = row.note ? "Original was fine" : "Nothing to fix";
  before = null;
  $("diff").replaceChildren();
  $("keeps").textContent = "";
  fill(row.work);
  kept = JSON.stringify(work());
  only("work");
  scrollTo(0, 0);
  $("text").focus({ preventScroll: true });
  $("text").setSelectionRange(0, 0);
  say(`${$("saved").textContent.startsWith("saved") ? $("saved").textContent + ", now" : ""} row ${row.at + 1} of ${total}`.trim());
  guarded(compare)();
}

function fill(found) {
  $("text").value = found.text;
  $("why").value = found.rationale;
  for (const box of boxes()) box.checked = found.categories.includes(box.value);
  shownText = null;
}

const unix = (text) => text.replace(/\r\n?/g, "\n"); // as text fields have it

async function compare() {
  if (!row) return;
  const { at, text } = work();
  if (text === shownText) return;
  const found = await call("/api/diff", { at, text });
  if (!row || row.at !== at || $("text").value !== text || !found.parts) return; // it has gone on
  shownText = text;
  const pieces = [];
  for (const [tag, removed, added] of found.parts) {
    if (tag === "equal") pieces.push(removed);
    for (const [name, part] of tag === "equal" ? [] : [["del", removed], ["ins", added]])
      if (part) {
        const piece = document.createElement(name);
        piece.textContent = part;
        pieces.push(piece);
      }
  }
  $("diff").replaceChildren(...pieces);
  if (found.long) {
    $("keeps").textContent = "too long to compare while you write; Save works as usual";
    $("keeps").className = "soft";
    return;
  }
  const share = `keeps ${Math.round(100 * found.similarity)} % of the words`;
  const same = text === unix(row.original);
  $("keeps").textContent = same ? "as it was" : found.large ? `${share}: that is a rewrite; can less be changed?` : share;
  $("keeps").className = found.large && !same ? "large" : "soft";
}

// What is being written goes to the command, which keeps it; sent unchanged, it says that someone is still here.
async function draft(leaving = false) {
  clearTimeout(waitDraft);
  if (!row) return;
  const now = work();
  const text = JSON.stringify(now);
  if (leaving) {
    const body = JSON.stringify({ client, leaving, ...now });
    return fetch("/api/draft", { method: "POST", keepalive: body.length < 60000, body }).catch(() => {});
  }
  const found = await call("/api/draft", now);
  if (found.conflict && text !== kept)
    throw new Error("Someone else has this row, or decided it: what you write here is not kept. Copy it, then Skip.");
  if (!found.conflict && text !== kept) trouble("");
  kept = text;
}

function changed() {
  say("");
  clearTimeout(waitDiff);
  clearTimeout(waitDraft);
  waitDiff = setTimeout(guarded(compare), 150);
  waitDraft = setTimeout(guarded(draft), 600);
}

function guarded(act) {
  return async () => {
    try {
      await act();
    } catch (error) {
      trouble(error.message);
    }
  };
}

// One at a time; nothing is typed into a row that is about to go.
function exclusive(act) {
  return async () => {
    if (busy) return;
    busy = true;
    $("text").readOnly = $("why").readOnly = true;
    await guarded(act)();
    $("text").readOnly = $("why").readOnly = false;
    busy = false;
  };
}

const decide = (verdict) =>
  exclusive(async () => {
    if (!row) return;
    clearTimeout(waitDraft);
    const found = await call("/api/save", { ...work(), verdict });
    progress(found);
    if (found.conflict) {
      trail.push(row.at);
      throw new Error("Someone else decided this row meanwhile. Copy what you wrote if you need it; Back shows theirs, Skip goes on.");
    }
    if (found.status === 422) throw new Error("The text is as it was, or empty: say Nothing to fix, or Cannot fix.");
    trouble("");
    say(`saved ${row.id}`);
    trail.push(row.at);
    await load();
  });

const actions = {
  save: decide("edited"),
  unchanged: decide("unchanged"),
  failed: decide("failed"),
  skip: exclusive(async () => {
    if (!row) return;
    trouble("");
    await draft();
    trail.push(row.at);
    say("");
    await call("/api/skip", { at: row.at });
    await load();
  }),
  back: exclusive(async () => {
    const at = trail.length ? trail.pop() : (row ? row.at : total) - 1;
    if (at < 0) return;
    trouble("");
    await draft();
    say("");
    await load(at);
  }),
  reset: () => {
    if (!row || busy) return;
    const now = work();
    const start = { ...row.start, text: unix(row.start.text) };
    if (before && now.text === start.text) {
      fill(before); // a second time brings it back
      before = null;
    } else {
      before = now;
      fill(start);
    }
    changed();
  },
  hide: () => {
    const hidden = !$("chosen").hidden;
    $("chosen").hidden = hidden;
    $("hide").textContent = hidden ? "show" : "hide";
    $("hide").setAttribute("aria-expanded", String(!hidden));
    say(`preferred response ${hidden ? "hidden" : "shown"}`);
  },
  finish: exclusive(async () => {
    const found = await call("/api/finish", {});
    if (found.error) throw new Error(found.error);
    only("over");
    $("over").querySelector("h1").focus();
  }),
};
actions.again = actions.back;

const keys = { n: "unchanged", c: "failed", s: "skip", b: "back", r: "reset", p: "hide" };
function meant(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.altKey)
    return row ? actions.save : !$("end").hidden && !$("finish").disabled ? actions.finish : null;
  if (!event.altKey || event.ctrlKey !== mac || event.metaKey) return null;
  const digit = /^Digit([1-9])$/.exec(event.code);
  if (digit) return row && boxes()[digit[1] - 1] ? () => boxes()[digit[1] - 1].click() : null;
  const letter = /^[a-z]$/i.test(event.key) ? event.key : (/^Key([A-Z])$/.exec(event.code) || ["", ""])[1];
  return actions[keys[letter.toLowerCase()]] || null;
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") trouble("");
  const act = meant(event);
  if (!act) return;
  event.preventDefault();
  if (!event.repeat) act(); // a key that is held down decides one row, not many
});

addEventListener("pagehide", () => draft(true));
setInterval(
  guarded(async () => {
    if (busy) return;
    if (row) await draft();
    else if (!$("end").hidden && $("finish").disabled) await load();
  }),
  20000,
);
for (const name of Object.keys(actions)) $(name).addEventListener("click", actions[name]);
for (const [key, name] of Object.entries(keys)) $(name).title = `${held}+${key.toUpperCase()}`;
$("keys").textContent = $("keys").textContent.replaceAll("Alt", held);
$("text").addEventListener("input", changed);
$("why").addEventListener("input", changed);

// A tab that was duplicated has the name of the other: it takes one of its own.
navigator.locks.request(client, { ifAvailable: true }, async (lock) => {
  if (!lock) client = sessionStorage.client = crypto.randomUUID();
  exclusive(() => load())();
  if (lock) await new Promise(() => {});
});
