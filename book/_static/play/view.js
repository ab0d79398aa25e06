// What the page shows: its controls, built once, and its pictures, drawn again and again.

const COVER = "rgb(124 116 104)"; // ImageNet's mean colour, which networks see as 0
const MOST_BARS = 5;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made[name] = value;
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function labelled(text, control) {
  (control.querySelector("input") ?? control).setAttribute("aria-label", text);
  return element("label", {}, element("span", {}, text), control);
}

function choice(names, chosen, onchange) {
  const options = names.map(([value, text]) => element("option", { value }, text));
  const select = element("select", { onchange: () => onchange(select.value) }, ...options);
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
  return select;
}

function button(text, onclick) {
  return element("button", { type: "button", onclick }, text);
}

// ---- the controls

export function buildPage(root, now, state, grid, actions) {
  const { choose } = actions;
  const names = now.about.networks.map(({ name }) => [name, name]);
  const view = {
    said: element("p", { class: "play-said", role: "status" }),
    camera: element("div", { class: "play-camera" }),
    bars: element("div", { class: "play-bars", role: "group", "aria-label": "likeliest classes" }),
    network: choice(names, state.network, (network) => choose({ network })),
    layer: element("input", { type: "range", min: 0, step: 1 }),
    layerName: element("output", {}),
    classes: element("datalist", { id: "play-classes" }),
    picture: pictureCanvas(now, grid, actions),
  };
  view.class = classInput("the likeliest", (name) => choose({ class: name }));
  view.versus = classInput("none", (name) => choose({ versus: name }));
  view.layer.oninput = () => choose({ layer: view.layers[view.layer.value] });
  view.layerBox = labelled("layer", element("span", {}, view.layer, view.layerName));
  view.panels = ["method", "beside"].map((key) => panelOf(key, now, state, choose));
  root.replaceChildren(
    sources(now, state, actions), view.camera, view.said,
    element(
      "div", { class: "play-row" },
      labelled("network", view.network), labelled("class", view.class),
      labelled("and not", view.versus), view.layerBox, view.classes,
    ),
    element("div", { class: "play-panels" }, seen(view, actions), ...view.panels.map((p) => p.figure)),
  );
  return view;
}

function sources(now, state, actions) {
  const file = element("input", {
    type: "file", accept: "image/*", onchange: () => actions.showFile(file.files[0]),
  });
  const names = now.about.pictures.map(({ name }) => [name, name]);
  const builtIn = choice(names, state.picture, actions.showBuiltIn);
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (pasted) actions.showFile(pasted);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    actions.showFile(event.dataTransfer.files[0]);
  });
  return element(
    "div", { class: "play-row" },
    labelled("your picture (or drop it, or paste it)", file), button("Camera", actions.camera),
    labelled("or one of the book's", builtIn),
  );
}

function classInput(placeholder, choose) {
  const input = element("input", {
    list: "play-classes", placeholder, autocomplete: "off", onchange: () => choose(input.value),
  });
  return input;
}

function panelOf(key, now, state, choose) {
  const methods = now.about.networks[0].methods.map(({ name, label }) => [name, label]);
  const method = choice(methods, state[key], (name) => choose({ [key]: name }));
  const canvas = element("canvas", { role: "img", "aria-label": "a map, not yet computed" });
  const caption = element("figcaption", { "aria-live": "polite" });
  const name = key === "method" ? "method" : "beside it";
  const save = button("Save as PNG", () => {
    const link = element("a", { href: canvas.toDataURL("image/png"), download: `${method.value}.png` });
    link.click();
  });
  const figure = element("figure", {}, labelled(name, method), canvas, caption, save);
  return { key, method, canvas, caption, figure };
}

function seen(view, { coverAll }) {
  return element(
    "figure", { class: "play-seen" },
    element("p", {}, "The picture. Draw on it to cover it; draw again to uncover."),
    view.picture, view.bars,
    button("Cover all", () => coverAll(true)), button("Uncover all", () => coverAll(false)),
  );
}

function pictureCanvas(now, grid, { cover }) {
  const canvas = element("canvas", {
    tabindex: 0, role: "application",
    "aria-label": "the picture: arrow keys move, the space bar covers or uncovers a square",
  });
  let covers = null; // what the stroke does: it covers, or it uncovers
  const squareAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (v, from, length) => Math.min(grid - 1, Math.max(0, Math.floor(((v - from) / length) * grid)));
    return at(event.clientY, box.top, box.height) * grid + at(event.clientX, box.left, box.width);
  };
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    covers = !now.covered.has(squareAt(event));
    cover(squareAt(event), covers);
  };
  canvas.onpointermove = (event) => {
    if (covers === null || now.covered.has(squareAt(event)) === covers) return;
    cover(squareAt(event), covers);
  };
  canvas.onpointerup = () => (covers = null);
  canvas.onkeydown = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid, ArrowDown: grid };
    if (event.key === " ") cover(now.cursor, !now.covered.has(now.cursor));
    else if (event.key in steps) {
      now.cursor = (now.cursor + steps[event.key] + grid * grid) % (grid * grid);
      canvas.dispatchEvent(new Event("cursor"));
    } else return;
    event.preventDefault();
  };
  return canvas;
}

export function fillClasses(view, network, state) {
  const names = [...network.classes].sort();
  view.classes.replaceChildren(...names.map((value) => element("option", { value })));
  view.network.value = network.name;
  view.class.value = state.class;
  view.versus.value = state.versus;
  for (const panel of view.panels) {
    const known = new Set(network.methods.map(({ name }) => name));
    for (const option of panel.method.options) option.disabled = !known.has(option.value);
    panel.method.value = state[panel.key];
  }
}

export function fillLayers(view, state, ...methods) {
  const layered = methods.find((method) => method.files.length > 1);
  view.layerBox.hidden = !layered;
  if (!layered) return;
  view.layers = layered.files.map(({ layer }) => layer);
  if (!view.layers.includes(state.layer)) state.layer = view.layers[view.layers.length - 1];
  view.layer.max = view.layers.length - 1;
  view.layer.value = view.layers.indexOf(state.layer);
  view.layer.setAttribute("aria-valuetext", state.layer);
  view.layerName.textContent = state.layer;
}

export function showBars(view, network, probabilities, asked, choose) {
  const order = probabilities.map((p, k) => [p, k]).sort(([p], [q]) => q - p).slice(0, MOST_BARS);
  const bars = order.map(([p, k]) => {
    const name = network.classes[k];
    const text = `${name} ${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;
    return element(
      "button",
      {
        type: "button", "aria-pressed": String(k === asked), style: `--p: ${p}`,
        onclick: () => { view.class.value = name; choose({ class: name }); },
      },
      text,
    );
  });
  const focused = [...view.bars.children].indexOf(document.activeElement);
  view.bars.replaceChildren(...bars);
  if (focused >= 0) view.bars.children[focused].focus();
}

// ---- the pictures

export function drawPicture(view, now, size, grid) {
  const canvas = view.picture;
  const draw = () => {
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    context.putImageData(now.pixels, 0, 0);
    const edge = (k) => Math.ceil((k * size) / grid);
    const box = (square) => {
      const row = Math.floor(square / grid);
      const column = square % grid;
      return [edge(column), edge(row), edge(column + 1) - edge(column), edge(row + 1) - edge(row)];
    };
    context.fillStyle = COVER;
    for (const square of now.covered) context.fillRect(...box(square));
    if (document.activeElement === canvas) {
      context.strokeStyle = "#00d5a0";
      context.lineWidth = 2;
      context.strokeRect(...box(now.cursor));
    }
  };
  canvas.onfocus = canvas.onblur = draw;
  if (canvas.drawCursor) canvas.removeEventListener("cursor", canvas.drawCursor);
  canvas.drawCursor = draw;
  canvas.addEventListener("cursor", draw);
  draw();
}

// A map over its picture, in the book's colours: the picture in grey, the map's channels summed.
export function drawMap(panel, now, { data, dims }, colours, title, milliseconds) {
  const [, channels, height, width] = dims;
  const count = height * width;
  const map = new Float32Array(count);
  for (let k = 0; k < channels * count; k++) map[k % count] += data[k];
  const limit = map.reduce((largest, v) => Math.max(largest, Math.abs(v)), 0);
  const signed = map.some((v) => v < 0);
  const scale = signed ? colours.signed : colours.positive;
  panel.canvas.width = width;
  panel.canvas.height = height;
  const context = panel.canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let k = 0; k < count; k++) {
    const strength = limit > 0 ? map[k] / limit : 0;
    const place = Math.min(255, Math.floor((signed ? (strength + 1) / 2 : strength) * 256));
    const size = Math.abs(strength) ** colours.power;
    const opacity = signed ? size : colours.opacity * size;
    const grey = (now.pixels.data[4 * k] + now.pixels.data[4 * k + 1] + now.pixels.data[4 * k + 2]) / 3;
    for (let c = 0; c < 3; c++) {
      image.data[4 * k + c] = grey * (1 - opacity) + scale[place][c] * opacity;
    }
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  const empty = limit > 0 ? "" : " The map is empty: nothing speaks for this answer here.";
  panel.caption.textContent = `${title} (${milliseconds.toFixed(0)} ms).${empty}`;
  panel.canvas.setAttribute("aria-label", `${title}, a map over the picture.${empty}`);
  panel.figure.removeAttribute("aria-busy");
}
