// The annotation page. Data from the server is inserted as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const boxes = () => [...$("chips").querySelectorAll("input")];
const mac = /Mac|iPhone|iPad/.test(navigator.platform);
const modifier = mac ? "Ctrl+Option" : "Alt"; // on a Mac, Option alone types special characters
let client = sessionStorage.client || (sessionStorage.client = crypto.randomUUID());
let row = null; // the row on the page
let total = 0;
let trail = []; // numbers of the rows shown before
let shownText = null; // text of the displayed diff
let kept = ""; // last draft saved by the command, as JSON
let before = null; // work before "Start over"
let busy = false;
let waitDiff = 0;
let waitDraft = 0;

async function call(path, content) {
  const options = content && { method: "POST", body: JSON.stringify({ client, ...content }) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(
      "The command does not respond. Saved rows are safe. Copy your unsaved text, start the command again and open the address that it prints.",
    );
  }
  if (![200, 409, 422].includes(response.status))
    throw new Error(
      `The command rejected the request (status ${response.status}). Copy your unsaved text and open the address that the command printed.`,
    );
  return { status: response.status, ...(await response.json()) };
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
  $("rate").textContent = p.rate ? `${p.rate} per hour` : "";
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
  const others = row.work.categories.filter((name) => !named.includes(name)); // another editor's categories are kept
  const categories = [...boxes().filter((box) => box.checked).map((box) => box.value), ...others];
  return { at: row.at, version: row.version, text: $("text").value, categories, rationale: $("why").value };
}

async function load(at) {
  clearTimeout(waitDiff);
  clearTimeout(waitDraft);
  const where = at === undefined ? "" : `&at=${at}`;
  const found = await call(`/api/row?client=${encodeURIComponent(client)}${where}`);
  progress(found);
  if (found.busy) return trouble("This row is open in another tab.");
  if (!found.row) {
    const left = found.total - found.done;
    $("left").textContent = left ? `${left} rows are open in other tabs.` : `All ${found.done} rows are decided.`;
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
  const verdicts = { edited: "saved", unchanged: "nothing to fix", failed: "cannot be fixed" };
  $("state").textContent = [row.note && `edit by ${row.note}`, row.verdict && `decided: ${verdicts[row.verdict]}`]
    .filter(Boolean)
    .join(" · ");
  $("save").textContent = row.note ? "Accept this edit" : "Save";
  $("unchanged").textContent = row.note ? "Original is fine" : "Nothing to fix";
  before = null;
  $("diff").replaceChildren();
  $("keeps").textContent = "";
  fill(row.work);
  kept = JSON.stringify(work());
  only("work");
  scrollTo(0, 0);
  $("text").focus({ preventScroll: true });
  $("text").setSelectionRange(0, 0);
  say(`${$("saved").textContent.startsWith("saved") ? $("saved").textContent + "; now" : ""} row ${row.at + 1} of ${total}`.trim());
  guarded(compare)();
}

function fill(found) {
  $("text").value = found.text;
  $("why").value = found.rationale;
  for (const box of boxes()) box.checked = found.categories.includes(box.value);
  shownText = null;
}

const unix = (text) => text.replace(/\r\n?/g, "\n"); // line endings as in text fields

async function compare() {
  if (!row) return;
  const { at, text } = work();
  if (text === shownText) return;
  const found = await call("/api/diff", { at, text });
  if (!row || row.at !== at || $("text").value !== text || !found.parts) return; // the text or the row has changed since
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
    $("keeps").textContent = "too long for a live comparison; you can save as usual";
    $("keeps").className = "soft";
    return;
  }
  const share = `keeps ${Math.round(100 * found.similarity)} % of the words`;
  const same = text === unix(row.original);
  $("keeps").textContent = same ? "unchanged" : found.large ? `${share}: large edit; can you change less?` : share;
  $("keeps").className = found.large && !same ? "large" : "soft";
}

// Sends the draft to the command, which saves it. An unchanged draft only keeps the row reserved for this tab.
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
    throw new Error("This row was opened or decided in another tab. Your text here is not saved. Copy it, then press Skip.");
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

// Runs one action at a time; the text is read-only meanwhile.
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
      throw new Error("This row was decided in another tab. Copy your text if you need it. Back shows the other decision, Skip goes to the next row.");
    }
    if (found.status === 422)
      throw new Error(`The text is unchanged or empty. Press “${$("unchanged").textContent}” or “Cannot be fixed” instead.`);
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
      fill(before); // pressed again: restore the text
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
function actionFor(event) {
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
  const act = actionFor(event);
  if (!act) return;
  event.preventDefault();
  if (!event.repeat) act(); // a key that is held down acts once
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
for (const [key, name] of Object.entries(keys)) $(name).title = `${modifier}+${key.toUpperCase()}`;
$("keys").textContent = $("keys").textContent.replaceAll("Alt", modifier);
$("text").addEventListener("input", changed);
$("why").addEventListener("input", changed);

// A duplicated tab has the client ID of the other tab; it takes a new one.
navigator.locks.request(client, { ifAvailable: true }, async (lock) => {
  if (!lock) client = sessionStorage.client = crypto.randomUUID();
  exclusive(() => load())();
  if (lock) await new Promise(() => {});
});
