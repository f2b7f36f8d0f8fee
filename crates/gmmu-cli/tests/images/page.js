// Runs the script of a page that `gmmu render` made on the least of a browser, searches for an address, clicks and
// zooms, and prints what the page shows then.
"use strict";
const fs = require("fs");
const [, , file, va] = process.argv;
const html = fs.readFileSync(file, "utf8");
const scripts = [...html.matchAll(/<script([^>]*)>([\s\S]*?)<\/script>/g)];
class Element {
  constructor(tag) { this.tag = tag; this.kids = []; this.own = ""; this.style = {}; this.listeners = {}; this.clientWidth = 800; this.clientHeight = 150; this.value = "";
    this.classList = { toggle() {} } }
  set textContent(text) { this.kids = []; this.own = String(text) }
  get textContent() { return this.own + this.kids.map(k => typeof k === "string" ? k : k.textContent).join(" ") }
  append(...kids) { this.kids.push(...kids) }
  replaceChildren(...kids) { this.own = ""; this.kids = kids }
  addEventListener(name, f) { this.listeners[name] = f }
  getBoundingClientRect() { return { left: 0, width: 800 } }
  setPointerCapture() {} remove() {}
  getContext() { return new Proxy({}, { get: (t, name) => name === "measureText" ? () => ({ width: 80 }) : () => { drawn++ }, set: () => true }) }
}
let drawn = 0;
const byId = {};
for (const [, id] of html.matchAll(/ id="([a-z]+)"/g)) byId[id] = new Element(id);
byId.data.textContent = scripts[0][2];
globalThis.document = { getElementById: id => byId[id], createElement: tag => new Element(tag), documentElement: new Element("html") };
globalThis.getComputedStyle = () => ({ getPropertyValue: () => "#000" });
globalThis.matchMedia = () => ({ matches: true });
globalThis.addEventListener = () => {};
globalThis.devicePixelRatio = 1;
new Function(scripts[1][2])();
byId.va.value = va;
byId.search.onsubmit({ preventDefault() {} });
const shown = byId.here.textContent;
// A click in the middle of the map shows the middle of the view.
byId.map.onpointerdown({ clientX: 400, pointerId: 1 });
byId.map.onpointerup({ clientX: 400 });
for (const button of ["in", "out", "all", "used", "mode"]) byId[button].onclick();
byId.va.value = "zzz";
byId.search.onsubmit({ preventDefault() {} });
if (!byId.here.textContent.includes("no address")) throw new Error("nonsense was searched for");
if (!drawn || !byId.tree.kids.length) throw new Error("nothing was drawn");
console.log(byId.title.textContent + "\n" + shown);
