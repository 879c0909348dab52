"use strict";
// One page, no build step.  The token stays in this tab (sessionStorage) and is sent as a bearer
// token with every request, so nothing works by a link from elsewhere.

const $ = (id) => document.getElementById(id);
const state = { token: sessionStorage.getItem("crosscam-token"), me: null, asked: [], found: null };
const urls = new Map(); // sighting id -> blob URL of its picture

// --- talking to the service ---------------------------------------------------------------

async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${state.token}`, ...(options.headers || {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the service does not answer. Is it running?");
  }
  if (answer.status === 401) {
    leave();
    throw new Error("the token is not valid (any more). Sign in again.");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Error(body.detail || `the service answered ${answer.status}.`);
  }
  return answer;
}
const get = async (path) => (await call(path)).json();
const post = async (path, body) =>
  (await call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}
function guarded(work) {
  return async (event) => {
    if (event && event.preventDefault) event.preventDefault();
    try {
      await work(event);
    } catch (error) {
      say(error.message, true);
    }
  };
}

// --- small builders -------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}
const when = (iso) => (iso ? new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" }) : "time unknown");
const may = (role) => ["viewer", "operator", "admin"].indexOf(state.me.role) >= ["viewer", "operator", "admin"].indexOf(role);

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      load(entry.target);
    }
  }
}, { rootMargin: "300px" });
async function load(image) {
  const id = image.dataset.id;
  try {
    if (!urls.has(id)) urls.set(id, URL.createObjectURL(await (await call(`/api/sightings/${id}/picture`)).blob()));
    image.src = urls.get(id);
  } catch {
    image.alt = "no picture";
  }
}
function shot(sighting, label) {
  const image = make("img", { alt: label });
  image.dataset.id = sighting.id;
  watcher.observe(image);
  return image;
}
function forgetPictures() {
  for (const url of urls.values()) URL.revokeObjectURL(url);
  urls.clear();
}

function card(sighting, { hit = null, rank = 0, acts = [], pick = null } = {}) {
  const place = `camera ${sighting.camera || "unknown"}`;
  const label = `${rank ? `Rank ${rank}, ` : ""}${place}, ${when(sighting.time)}`;
  const words = make("div", { class: "words" });
  if (hit) {
    const line = make("div", {}, make("b", {}, hit.probability === undefined ? hit.score.toFixed(3) : percent(hit.probability)));
    if (hit.decision) line.append(" ", make("span", { class: `tag ${hit.decision}` }, hit.decision));
    words.append(line);
    if (hit.probability !== undefined) {
      const bar = make("i");
      bar.style.width = `${100 * hit.probability}%`;
      words.append(make("div", { class: "chance" }, bar), make("small", {}, `score ${hit.score.toFixed(3)}`));
    }
    if (hit.copy_of) words.append(make("small", {}, hit.copy_of === "query" ? "near-copy of the query" : "near-copy of a better result"));
    if (hit.parts) {
      const best = Object.entries(hit.parts).sort((a, b) => b[1] - a[1]);
      words.append(make("small", {}, `parts: ${best.map(([n, v]) => `${n} ${v.toFixed(2)}`).join(", ")}`));
    }
  }
  if (sighting.person) words.append(make("b", {}, sighting.person));
  words.append(make("span", {}, place), make("small", {}, when(sighting.time)));
  const show = make("button", { type: "button", class: "shot", "aria-label": `${label}: ${pick ? "select" : "look closer"}`,
    onclick: () => (pick ? pick(item, sighting) : closer(sighting)) }, shot(sighting, label));
  const item = make("li", { class: `card ${hit && hit.decision ? hit.decision : ""}` }, show, words);
  if (acts.length) item.append(make("div", { class: "acts" }, ...acts));
  item.dataset.id = sighting.id;
  return item;
}
const count = (n, one, many = `${one}s`) => `${n.toLocaleString()} ${n === 1 ? one : many}`;
const percent = (p) => (p > 0.999 ? "> 99.9 %" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);

function ask(title, content, buttons) {
  const dialog = $("dialog");
  return new Promise((resolve) => {
    const form = make("form", { method: "dialog" }, make("h2", {}, title), ...content,
      make("div", { class: "bar" }, ...buttons.map(([value, text, kind]) => make("button", { value, class: kind || "" }, text))));
    dialog.replaceChildren(form);
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue);
    dialog.showModal();
  });
}
async function closer(sighting) {
  const rows = [["Camera", sighting.camera || "unknown"], ["Time", when(sighting.time)], ["Person", sighting.person || "nobody named"],
    ["Track", sighting.track], ["Source", sighting.source], ["Id", sighting.id]].filter(([, v]) => v);
  const list = make("dl", {}, ...rows.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)]));
  const answer = await ask("Sighting", [shot(sighting, "the sighting"), list],
    [["ask", "Search for this person", "primary"], ["", "Close"]]);
  if (answer === "ask") {
    askWith({ id: sighting.id, sighting });
    view("search");
  }
}

// --- views ----------------------------------------------------------------------------------

const views = { search: openSearch, browse: openBrowse, people: openPeople, audit: openAudit, about: openAbout };
function view(name) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${name}`;
  for (const button of document.querySelectorAll("nav button")) {
    if (button.dataset.view === name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  say("");
  if (views[name]) guarded(views[name])();
}
function leave() {
  sessionStorage.removeItem("crosscam-token");
  state.token = state.me = state.found = null;
  state.asked = [];
  forgetPictures();
  for (const id of ["results", "sightings", "people", "person", "timeline", "asked"]) $(id).replaceChildren();
  $("nav").hidden = $("leave").hidden = true;
  $("verdict").hidden = $("judge").hidden = true;
  $("whoami").textContent = "";
  view("login");
}
async function enter() {
  state.me = await get("/api/me");
  sessionStorage.setItem("crosscam-token", state.token);
  $("nav").hidden = $("leave").hidden = false;
  $("whoami").textContent = `${state.me.name}, ${state.me.role}`;
  for (const button of document.querySelectorAll("[data-role]")) button.hidden = !may(button.dataset.role);
  $("f-reason").required = state.me.require_reason;
  view("search");
}

async function refreshNames() {
  const { people } = await get("/api/people");
  $("names").replaceChildren(...people.map((p) => make("option", { value: p.name })));
  return people;
}
async function openSearch() {
  const stats = await get("/api/stats");
  const cameras = Object.keys(stats.cameras).filter((c) => c !== "unknown").sort(new Intl.Collator([], { numeric: true }).compare);
  const before = new Set([...document.querySelectorAll("#f-cameras input:not(:checked)")].map((i) => i.value));
  $("f-cameras").replaceChildren(...cameras.map((c) => {
    const box = make("input", { type: "checkbox", value: c });
    box.checked = !before.has(c);
    return make("label", {}, box, ` ${c}`);
  }));
  await refreshNames();
}

// --- search ---------------------------------------------------------------------------------

function askWith(entry) {
  state.asked.push(entry);
  drawAsked();
}
function drawAsked() {
  $("asked").replaceChildren(...state.asked.map((entry, i) => {
    const image = entry.file ? make("img", { alt: entry.file.name, src: entry.url }) : shot(entry.sighting, "a sighting of the gallery");
    return make("li", {}, image, make("button", { type: "button", "aria-label": "Remove this picture", onclick: () => {
      if (entry.url) URL.revokeObjectURL(entry.url);
      state.asked.splice(i, 1);
      drawAsked();
    } }, "×"));
  }));
}
function addFiles(files) {
  for (const file of files) if (file.type.startsWith("image/")) askWith({ file, url: URL.createObjectURL(file) });
}
const local = (value) => (value ? new Date(value).toISOString() : "");

async function search() {
  const form = new FormData();
  for (const entry of state.asked) {
    if (entry.file) form.append("pictures", entry.file);
    else form.append("sightings", entry.id);
  }
  const name = $("f-person").value.trim();
  if (name) form.append("person", name);
  if (!state.asked.length && !name) throw new Error("choose a picture, a sighting or a named person first.");
  const boxes = [...document.querySelectorAll("#f-cameras input")];
  const chosen = boxes.filter((b) => b.checked);
  if (boxes.length && !chosen.length) throw new Error("choose at least one camera.");
  if (chosen.length < boxes.length) for (const box of chosen) form.append("cameras", box.value);
  for (const [key, value] of [["after", local($("f-after").value)], ["before", local($("f-before").value)],
    ["top", $("f-top").value], ["group", $("f-group").value], ["reason", $("f-reason").value.trim()]]) if (value) form.append(key, value);
  if ($("f-own").checked) form.append("exclude_own_cameras", "true");
  if ($("f-frame").checked) form.append("once_per_frame", "true");
  if ($("f-rerank").checked) form.append("rerank_top", "100");
  say("Searching …");
  $("go").disabled = true;
  try {
    state.found = await (await call("/api/search", { method: "POST", body: form })).json();
  } finally {
    $("go").disabled = false;
  }
  const { results, notes } = state.found;
  say(`${count(results.length, "sighting")}. ${notes.join(" ")}`);
  verdict();
  timeline(results);
  $("judge").hidden = !may("operator") || !results.length;
  if (name) $("judge-name").value = name;
  $("results").replaceChildren(...results.map((hit, i) => card(hit, { hit, rank: i + 1, acts: judging(hit) })));
}
function verdict() {
  const { decision, results } = state.found;
  const box = $("verdict");
  box.hidden = false;
  box.className = "verdict";
  if (!results.length) {
    box.replaceChildren(make("strong", {}, "Nothing fits the filters."));
  } else if (!decision) {
    box.replaceChildren(make("strong", {}, "Ranked, not decided. "),
      "This encoder has not been calibrated, so a score cannot be turned into a probability. ",
      make("code", {}, "crosscam calibrate"), " does that.");
  } else {
    if (decision.known === null) {
      box.replaceChildren(make("strong", {}, "Ranked, not decided. "), "This encoder was calibrated on pairs of pictures, which gives probabilities but says nothing of the best of a whole gallery. ",
        make("code", {}, "crosscam calibrate --data"), " does.");
      return;
    }
    box.classList.add(decision.known ? "known" : "unknown");
    const rate = `${(100 * decision.far).toFixed(1)} %`;
    box.replaceChildren(make("strong", {}, decision.known ? "Probably seen here. " : "Unknown. "),
      decision.known ? `At least one sighting is above ${decision.threshold.toFixed(3)}. `
        : `No sighting is above ${decision.threshold.toFixed(3)}. `,
      `Of ${decision.people.toLocaleString()} strangers in a gallery, anybody gets above that in ${rate} of searches`,
      decision.extrapolated ? " (extrapolated). " : ". ", make("span", { class: "hint" }, `Calibrated on ${decision.calibrated_on}.`));
  }
}
function judging(hit) {
  if (!may("operator")) return [];
  const judge = (verb, text) => make("button", { type: "button", onclick: guarded(async (event) => {
    const name = $("judge-name").value.trim();
    if (!name) {
      $("judge-name").focus();
      throw new Error("say who the person searched for is, then confirm or reject.");
    }
    await post(`/api/${verb}`, { name, ids: [hit.id], reason: $("f-reason").value.trim() });
    const item = event.target.closest("li");
    if (verb === "reject") item.remove();
    else event.target.parentElement.replaceChildren(make("span", { class: "tag match" }, name));
    say(verb === "reject" ? `Rejected: this is not ${name}. Searches for ${name} leave it out from now on.`
      : `Confirmed: this is ${name}. Searches for ${name} use it from now on.`);
    if (verb === "confirm" && ![...$("names").options].some((o) => o.value === name)) $("names").append(make("option", { value: name }));
  }) }, text);
  return [judge("confirm", "Confirm"), judge("reject", "Reject")];
}
function timeline(results) {
  const timed = results.filter((r) => r.time).map((r, i) => ({ ...r, at: Date.parse(r.time), rank: i + 1 }));
  if (timed.length < 2) return $("timeline").replaceChildren();
  const cameras = [...new Set(timed.map((r) => r.camera || "unknown"))].sort(new Intl.Collator([], { numeric: true }).compare);
  let [low, high] = [Math.min(...timed.map((r) => r.at)), Math.max(...timed.map((r) => r.at))];
  if (low === high) [low, high] = [low - 6e4, high + 6e4];
  // Drawn for the width there is; where it is little, names stand above their lines.
  const width = Math.max(260, $("timeline").clientWidth || 1000), narrow = width < 600;
  const names = cameras.map((camera) => `camera ${camera}`).map((n) => (n.length > 30 ? `${n.slice(0, 29)}…` : n));
  const left = narrow ? 14 : 30 + 7 * Math.max(...names.map((n) => n.length)), right = 20;
  const row = narrow ? 38 : 26, top = 12, height = top + row * cameras.length + 26;
  const middle = (i) => top + row * i + (narrow ? row - 10 : row / 2);
  const x = (at) => left + ((width - left - right) * (at - low)) / (high - low);
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    node.append(...children);
    return node;
  };
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "When each camera saw the results" });
  cameras.forEach((camera, i) => {
    const y = middle(i);
    picture.append(svg("line", { x1: left, x2: width - right, y1: y, y2: y, stroke: "var(--line)" }),
      svg("text", { x: narrow ? left : 12, y: narrow ? y - 12 : y + 4 }, names[i], svg("title", {}, camera)));
  });
  for (const hit of [...timed].reverse()) {
    const y = middle(cameras.indexOf(hit.camera || "unknown"));
    const color = { match: "var(--good)", possible: "var(--maybe)" }[hit.decision] || "var(--soft)";
    const dot = svg("circle", { cx: x(hit.at), cy: y, r: hit.decision === "match" ? 7 : 5, fill: color, "fill-opacity": .8 },
      svg("title", {}, `rank ${hit.rank}, camera ${hit.camera}, ${when(hit.time)}`));
    dot.addEventListener("click", () => closer(hit));
    picture.append(dot);
  }
  const short = (at) => (narrow ? new Date(at).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) : when(new Date(at).toISOString()));
  picture.append(svg("text", { x: left, y: height - 6 }, short(low)), svg("text", { x: width - right, y: height - 6, "text-anchor": "end" }, short(high)));
  return $("timeline").replaceChildren(picture);
}

// --- sightings ------------------------------------------------------------------------------

async function openBrowse() {
  const stats = await get("/api/stats");
  $("stats").textContent = `${count(stats.sightings, "sighting")}, ${count(stats.people, "named person", "named people")}, ${count(Object.keys(stats.cameras).length, "camera")}` +
    (stats.first ? `, ${when(stats.first)} to ${when(stats.last)}` : "") + ".";
  const chosen = $("b-camera").value;
  $("b-camera").replaceChildren(make("option", { value: "" }, "all"),
    ...Object.keys(stats.cameras).filter((c) => c !== "unknown").map((c) => make("option", { value: c }, c)));
  $("b-camera").value = chosen;
  await browse();
}
async function browse(start = null) {
  const query = new URLSearchParams({ limit: 120 });
  if ($("b-camera").value) query.append("cameras", $("b-camera").value);
  for (const key of ["after", "before"]) if ($(`b-${key}`).value) query.append(key, local($(`b-${key}`).value));
  if (start) query.append("start", start);
  const { sightings, next } = await get(`/api/sightings?${query}`);
  if (!start) $("sightings").replaceChildren();
  $("more")?.remove();
  $("sightings").append(...sightings.map((s) => card(s)));
  if (next) $("sightings").append(make("button", { type: "button", id: "more", onclick: guarded(() => browse(next)) }, "Show more"));
  say(!start && !sightings.length ? "No sightings fit." : "");
}

// --- people ---------------------------------------------------------------------------------

async function openPeople() {
  const people = await refreshNames();
  const part = $("p-find").value.trim().toLowerCase();
  const shown = people.filter((p) => p.name.toLowerCase().includes(part));
  $("people").replaceChildren(...shown.map((p) => make("li", {}, make("button", { type: "button", onclick: guarded(() => openPerson(p.name)) },
    make("span", {}, p.name), make("span", { class: "hint" }, String(p.sightings))))));
  if (!people.length && !$("person").querySelector("dl")) $("person").replaceChildren(make("p", { class: "hint" }, "Nobody is named yet. Search, then confirm sightings under a name."));
}
async function openPerson(name) {
  const found = await get(`/api/person?${new URLSearchParams({ name })}`);
  const picked = new Set();
  const grid = make("ul", { class: "grid" });
  const again = guarded(async () => { await openPeople(); await openPerson(name); });
  const pick = (item, s) => {
    if (picked.delete(s.id)) item.classList.remove("picked");
    else {
      picked.add(s.id);
      item.classList.add("picked");
    }
    splitting.textContent = picked.size ? `Split ${picked.size} off` : "Split off";
    splitting.disabled = !picked.size || picked.size === found.own.length;
    releasing.textContent = picked.size ? `Take the name off ${picked.size}` : "Take the name off";
    releasing.disabled = !picked.size;
  };
  const prompt = async (title, hint, text) => {
    const field = make("input", { maxlength: 200, list: "names", "aria-label": title, autofocus: "" });
    return (await ask(title, [make("p", { class: "hint" }, hint), field], [["ok", text, "primary"], ["", "Cancel"]])) === "ok" ? field.value.trim() : "";
  };
  const splitting = make("button", { type: "button", disabled: "", onclick: guarded(async () => {
    const to = await prompt("Who are they?", "The selected sightings become this person's, and are rejected for " + name + ".", "Split");
    if (!to) return;
    await post("/api/split", { name, ids: [...picked], new: to });
    again();
  }) }, "Split off");
  const releasing = make("button", { type: "button", disabled: "", onclick: guarded(async () => {
    await post("/api/release", { ids: [...picked] });
    await openPeople();
    if (picked.size < found.sightings) await openPerson(name);
    else $("person").replaceChildren(make("p", { class: "hint" }, "Nobody has that name any more."));
  }) }, "Take the name off");
  const buttons = [
    make("button", { type: "button", class: "primary", onclick: () => { $("f-person").value = name; state.asked = []; drawAsked(); view("search"); guarded(search)(); } }, "Search for this person"),
  ];
  if (may("operator")) {
    buttons.push(splitting, releasing,
      make("button", { type: "button", onclick: guarded(async () => {
        const to = await prompt("New name", "Give this person a name that nobody has.", "Rename");
        if (!to) return;
        await post("/api/rename", { name, new: to });
        await openPeople();
        await openPerson(to);
      }) }, "Rename"),
      make("button", { type: "button", onclick: guarded(async () => {
        const to = await prompt("Merge into", `All sightings of ${name} become this person's.`, "Merge");
        if (!to) return;
        await post("/api/merge", { names: [name], into: to });
        await openPeople();
        await openPerson(to);
      }) }, "Merge"));
  }
  if (may("admin")) buttons.push(make("button", { type: "button", class: "danger", onclick: guarded(() => forget(name, found)) }, "Forget"));
  grid.append(...found.own.map((s) => card(s, { pick: may("operator") ? pick : null })));
  $("person").replaceChildren(make("h2", {}, name),
    make("p", { class: "hint" }, `${count(found.sightings, "sighting")} by ${count(Object.keys(found.cameras).length, "camera")}` +
      (found.first ? `, ${when(found.first)} to ${when(found.last)}` : "") + `; ${found.confirmed} confirmed, ${found.rejected} rejected.`),
    make("div", { class: "bar" }, ...buttons), grid);
}
async function forget(name, found) {
  const reason = make("input", { maxlength: 500, "aria-label": "Reason" });
  const answer = await ask(`Forget ${name}?`, [
    make("p", {}, `${count(found.sightings, "sighting is", "sightings are")} deleted for good: pictures, vectors, the name and what was said about them. This cannot be undone.`),
    make("label", {}, "Reason ", reason)], [["yes", "Delete for good", "danger"], ["", "Cancel"]]);
  if (answer !== "yes") return;
  const receipt = await post("/api/forget", { person: name, reason: reason.value.trim() });
  const rows = [["Receipt", receipt.id], ["Time", when(receipt.time)], ["Sightings", receipt.sightings], ["Vectors", receipt.vectors],
    ["Pictures", receipt.pictures], ["Names and judgments", receipt.feedback], ["Erased from all files", receipt.erased ? "yes" : "in the background; the audit log says when"]];
  forgetPictures();
  const done = [make("h2", {}, "Forgotten"), make("dl", {}, ...rows.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, String(v))])),
    make("button", { type: "button", onclick: () => {
      const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(receipt, null, 1)], { type: "application/json" })), download: `receipt-${receipt.id}.json` });
      link.click();
    } }, "Save the receipt")];
  try {
    await openPeople(); // first, so that the name never stands beside its receipt
  } finally {
    $("person").replaceChildren(...done);
  }
}

// --- audit, use -----------------------------------------------------------------------------

async function openAudit() {
  const log = await get("/api/audit?newest=200");
  $("chain").textContent = log.whole ? `${count(log.lines, "line")}; the chain of their hashes is whole.` : log.fault;
  const about = (e) => [e.person_name || e.person, ...(e.people_names || []).filter(Boolean),
    e.pictures && count(e.pictures.length, "picture"), e.sightings && count(e.sightings.length, "sighting"),
    e.deleted !== undefined && `${e.deleted} deleted`, e.erased !== undefined && (e.erased ? "nothing is left in any file" : "not finished"),
    e.camera && `camera ${e.camera}`, e.cameras && `cameras ${e.cameras.join(", ")}`, e.asked, e.results !== undefined && count(e.results, "name"),
    e.shown && `${e.shown.length} shown${e.known === undefined ? "" : e.known ? ", known" : ", unknown"}`].filter(Boolean).join(", ");
  // A change has a line from before it and one from after it: they are shown as one.
  const began = new Map(log.entries.filter((e) => e.stage === "begun").map((e) => [e.number, e]));
  const ended = new Set(log.entries.filter((e) => e.of).map((e) => e.of));
  const rows = log.entries.filter((e) => !(e.stage === "begun" && ended.has(e.number))).map((e) => ({ ...began.get(e.of), ...e }));
  const came = (e) => (e.failed || e.stage === "failed" ? `failed (${e.failed || e.error})` : e.stage === "begun" ? "no outcome" : e.action === "refused" ? "refused" : "done");
  $("audit").tBodies[0].replaceChildren(...rows.map((e) => make("tr", {}, make("td", {}, when(new Date(1000 * e.time).toISOString())),
    make("td", {}, `${e.who} (${e.role})`), make("td", {}, e.action), make("td", {}, about(e)), make("td", {}, came(e)), make("td", {}, e.reason || ""))));
}
async function openAbout() {
  $("keeps").textContent = state.me.retention_days ? `Sightings are deleted for good after ${count(state.me.retention_days, "day")}.` : "Retention is off: sightings are kept until somebody deletes them.";
  const it = await get("/api/calibration");
  if (!it.calibrated) {
    $("means").textContent = "The score is the cosine similarity of two pictures' vectors: 1 is equal. This encoder has not been calibrated, so nobody can say here how likely a match is.";
    return;
  }
  if (it.drift && it.drift.warning) say(`Careful: ${it.drift.warning}`, true);
  const row = ((it.measured || {}).pairs || []).find((r) => Math.abs(r.far - it.far) < 1e-9);
  $("means").textContent = `The probability comes from ${count(it.people, "person", "people")} of ${it.data}, where everybody is known. ` +
    (row ? `There, a threshold that promised ${(100 * row.far).toFixed(1)} % of wrong pairs let ${(100 * row.achieved).toFixed(2)} % pass on people it was not learned from, and found ${(100 * row.accepted).toFixed(0)} % of the right pairs. ` : "") +
    "Other cameras, light and clothes shift these figures.";
}

// --- wiring ---------------------------------------------------------------------------------

$("login").addEventListener("submit", guarded(async () => {
  state.token = $("token").value.trim();
  $("token").value = "";
  await enter();
}));
$("leave").addEventListener("click", leave);
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => view(button.dataset.view));
$("search").addEventListener("submit", guarded(search));
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => state.found && timeline(state.found.results), 200);
});
$("browse").addEventListener("submit", guarded(() => browse()));
$("p-find").addEventListener("input", guarded(openPeople));
$("files").addEventListener("change", () => { addFiles($("files").files); $("files").value = ""; });
for (const kind of ["dragenter", "dragover"]) $("drop").addEventListener(kind, (e) => { e.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) $("drop").addEventListener(kind, (e) => { e.preventDefault(); $("drop").classList.remove("over"); });
$("drop").addEventListener("drop", (e) => addFiles(e.dataTransfer.files));
document.addEventListener("paste", (e) => { if (!$("view-search").hidden) addFiles(e.clipboardData.files); });
$("clear").addEventListener("click", () => {
  state.asked = [];
  drawAsked();
  for (const id of ["f-person", "f-after", "f-before", "f-reason"]) $(id).value = "";
  for (const id of ["results", "timeline"]) $(id).replaceChildren();
  $("verdict").hidden = $("judge").hidden = true;
  say("");
});
if (state.token) guarded(enter)();
