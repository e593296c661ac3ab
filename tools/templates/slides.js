const slides = Array.from(document.querySelectorAll(".slide"));
const byId = id => document.getElementById(id);
const presenter = new URLSearchParams(location.search).has("presenter");
const began = Date.now();
let now = 0, partner = presenter ? window.opener : null;

const title = slide => slide.querySelector("h1, h2").innerText;

// A picture is drawn as large as the screen has room for.
function fitPicture(picture, face) {
  const box = picture.viewBox ? picture.viewBox.baseVal : {width: picture.naturalWidth, height: picture.naturalHeight};
  const ratio = box.width / box.height;
  const room = picture.closest(".output").clientWidth;
  if (ratio) picture.style.cssText += `;height:auto;width:${Math.min(room, 0.7 * face.clientHeight * ratio)}px`;
}

// A short text is set larger, and a slide that holds more than the screen smaller rather than cut, down to half.
function fit(slide) {
  const face = slide.querySelector(".face");
  slide.querySelectorAll(".output img, .output svg").forEach(picture => fitPicture(picture, face));
  for (let size = slide.querySelector(".output") ? 100 : 140; size >= 50; size -= 5) {
    face.style.fontSize = size + "%";
    if (face.scrollHeight <= face.clientHeight + 1 && face.scrollWidth <= face.clientWidth + 1) return;
  }
}

function show(index, tell = true) {
  now = Math.max(0, Math.min(slides.length - 1, index));
  slides.forEach((slide, i) => slide.classList.toggle("current", i === now));
  byId("at").textContent = `${now + 1} of ${slides.length}`;
  byId("next").textContent = now + 1 < slides.length ? `next: ${title(slides[now + 1])}` : "last slide";
  history.replaceState(null, "", "#" + slides[now].id);
  fit(slides[now]);
  slides[now].focus({preventScroll: true});
  if (tell && partner && !partner.closed) partner.postMessage(now, "*");
}

function notes(on) {
  document.body.classList.toggle("with-notes", on);
  document.querySelectorAll(".notes").forEach(aside => { aside.hidden = !on; });
  fit(slides[now]);
}

function present() {
  const url = new URL(location.href);
  url.searchParams.set("presenter", "");
  partner = window.open(url.href, "presenter-" + document.title);
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen(); else document.documentElement.requestFullscreen();
}

const keys = {
  ArrowRight: () => show(now + 1), ArrowDown: () => show(now + 1), PageDown: () => show(now + 1), " ": () => show(now + 1),
  ArrowLeft: () => show(now - 1), ArrowUp: () => show(now - 1), PageUp: () => show(now - 1),
  Home: () => show(0), End: () => show(slides.length - 1),
  f: fullScreen, n: () => notes(!document.body.classList.contains("with-notes")), p: present,
  "?": () => byId("keys").open ? byId("keys").close() : byId("keys").showModal(),
};

addEventListener("keydown", event => {
  const inside = event.target.closest("button, summary, a, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  if (inside && (event.key === " " || inside.tagName === "DIALOG" && event.key !== "?")) return;
  event.preventDefault();
  keys[event.key]();
});
// From a file, a page has no origin to check; so only a whole number is listened to, and all it can do is move.
addEventListener("message", event => { if (Number.isInteger(event.data)) show(event.data, false); });
addEventListener("resize", () => fit(slides[now]));
addEventListener("load", () => fit(slides[now]));
addEventListener("hashchange", () => show(slides.findIndex(slide => "#" + slide.id === location.hash)));
addEventListener("toggle", () => fit(slides[now]), true);
byId("back").onclick = () => show(now - 1);
byId("on").onclick = () => show(now + 1);
byId("help").onclick = keys["?"];

document.body.classList.add("moving");
notes(presenter);
setInterval(() => {
  byId("clock").textContent = `${Math.floor((Date.now() - began) / 60000)} min since this window was opened`;
}, 1000);
show(Math.max(0, slides.findIndex(slide => "#" + slide.id === location.hash)));
