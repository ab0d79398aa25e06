// Wires the baked explorers of a page: a control moves, the picture and its alt text follow.
(() => {
  "use strict";

  function wire(figure) {
    const form = figure.querySelector("form");
    const img = figure.querySelector("img");
    const said = figure.querySelector("[role=status]");
    let data;
    try {
      data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    } catch {
      return; // half a page: the first picture stays, without controls
    }
    if (!form || !img || !said || figure.dataset.ready) return;
    figure.dataset.ready = "yes"; // the script may be loaded twice
    img.decoding = "sync"; // the old picture stays until the new one can be painted

    const controls = [...form.querySelectorAll("input, select")];
    const chosen = () => controls.reduce((frame, control, k) => frame * data.options[k].length + Number(control.value), 0);
    let current = 0;
    let timer;

    const pictures = new Map(); // address -> Image, held so that the browser keeps what it has fetched
    const address = (frame) => `${data.url}/${data.frames[frame]}`;
    function load(frame) {
      const url = address(frame);
      if (!pictures.has(url)) pictures.set(url, Object.assign(new Image(), { src: url }));
      return pictures.get(url);
    }

    async function show() {
      const frame = (current = chosen());
      for (const output of form.querySelectorAll("output")) {
        const k = controls.findIndex((control) => control.id === output.htmlFor.value);
        output.value = data.options[k][controls[k].value];
        controls[k].setAttribute("aria-valuetext", output.value);
      }
      await load(frame).decode().catch(() => pictures.delete(address(frame)));
      if (frame !== current) return; // a later move has overtaken this one
      img.src = address(frame); // a missing file shows its alt text here, rather than the wrong picture
      img.alt = data.alts[frame];
      clearTimeout(timer); // to a screen reader, say it once, after the last of quick moves
      timer = setTimeout(() => (said.textContent = img.alt), 600);
    }

    // How far apart two frames are: first the number of controls to move, then the steps.
    function distance(a, b) {
      let sum = 0;
      for (let k = controls.length - 1; k >= 0; k--) {
        const n = data.options[k].length;
        const step = Math.abs((a % n) - (b % n));
        if (step) sum += 100 + step;
        [a, b] = [Math.floor(a / n), Math.floor(b / n)];
      }
      return sum;
    }

    async function fetchNearest() {
      const missing = data.frames.map((_, frame) => frame).filter((frame) => !pictures.has(address(frame)));
      if (!missing.length) return;
      missing.sort((a, b) => distance(a, current) - distance(b, current));
      const picture = load(missing[0]);
      await new Promise((done) => (picture.onload = picture.onerror = done));
      return fetchNearest();
    }

    function approach() {
      for (const event of near) figure.removeEventListener(event, approach);
      if (navigator.connection?.saveData) return; // each picture is then fetched when it is asked for
      for (let lane = 0; lane < 4; lane++) fetchNearest();
    }

    const near = ["pointerenter", "focusin", "touchstart"];
    for (const event of near) figure.addEventListener(event, approach, { passive: true });
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    if (chosen()) show(); // the browser remembered a choice from before
  }

  const wireAll = () => document.querySelectorAll(".xcnn-explore").forEach(wire);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", wireAll);
  else wireAll();
})();
