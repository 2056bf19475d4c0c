"use strict";
// Runs the decoders of a trained model in the page. `portable` in tools/site.py writes PLAYGROUND (playground-data.js).

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);

function halves(text) { // IEEE 754 half precision: sign, 5 bits of exponent, 10 of fraction
  return Float32Array.from(new Uint16Array(bytes(text).buffer), (h) => {
    const exponent = (h >> 10) & 31, fraction = h & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
    return h >> 15 ? -size : size;
  });
}

// Each layer takes and returns {shape: [channels, height, width], values: Float32Array}; Linear's shape is [n].
const LAYERS = {
  Linear({ values }, { weight, bias }) {
    const out = Float32Array.from(bias);
    for (let o = 0, k = 0; o < out.length; o++) {
      let sum = 0;
      for (let i = 0; i < values.length; i++, k++) sum += weight[k] * values[i];
      out[o] += sum;
    }
    return { shape: [out.length], values: out };
  },
  ReLU: ({ shape, values }) => ({ shape, values: values.map((v) => Math.max(v, 0)) }),
  Sigmoid: ({ shape, values }) => ({ shape, values: values.map((v) => 1 / (1 + Math.exp(-v))) }),
  Unflatten: ({ values }, { shape }) => ({ shape, values }),
  // Every input pixel adds its kernel, scaled, to the output around `stride` times its place. weight: (in, out, k, k).
  ConvTranspose2d({ shape: [channels, height, width], values }, layer) {
    const { weight, bias, kernel_size: k, stride, padding, output_padding } = layer;
    const grown = (side) => (side - 1) * stride - 2 * padding + k + output_padding;
    const [H, W] = [grown(height), grown(width)];
    const out = new Float32Array(bias.length * H * W);
    bias.forEach((b, c) => out.fill(b, c * H * W, (c + 1) * H * W));
    for (let i = 0, from = 0; i < channels; i++)
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++, from++) {
          const v = values[from];
          if (v === 0) continue; // half of them are, after a ReLU
          const top = y * stride - padding, left = x * stride - padding;
          for (let o = 0; o < bias.length; o++)
            for (let r = Math.max(0, -top); r < k && top + r < H; r++)
              for (let s = Math.max(0, -left); s < k && left + s < W; s++)
                out[(o * H + top + r) * W + left + s] += v * weight[((i * bias.length + o) * k + r) * k + s];
        }
    return { shape: [bias.length, H, W], values: out };
  },
};

const modalities = Object.fromEntries(Object.entries(PLAYGROUND.modalities).map(([name, m]) => {
  const decoder = m.decoder.map((layer) => ({
    ...layer, ...(layer.weight && { weight: halves(layer.weight), bias: halves(layer.bias) }),
  }));
  const images = Float32Array.from(bytes(m.images), (v) => v / 255);
  return [name, { ...m, decoder, images, shared: floats(m.shared), private: floats(m.private) }];
}));

// The mean image (C * H * W values in [0, 1], row after row) of a modality for a shared and a private code.
function decode(name, z, h) {
  const code = { shape: [z.length + h.length], values: Float32Array.from([...z, ...h]) };
  return modalities[name].decoder.reduce((state, layer) => LAYERS[layer.kind](state, layer), code).values;
}

// Row `i` of an array of n rows.
const row = (array, i, n) => array.subarray((i * array.length) / n, ((i + 1) * array.length) / n);

function paint(canvas, name, values) {
  const [channels, height, width] = modalities[name].shape;
  [canvas.width, canvas.height] = [width, height];
  const picture = new ImageData(width, height);
  for (let p = 0; p < width * height; p++) {
    for (let c = 0; c < 3; c++) picture.data[4 * p + c] = 255 * values[(channels === 3 ? c : 0) * width * height + p];
    picture.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

// ---- the page

const at = (id) => document.getElementById(id);
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
const names = Object.keys(modalities);
const directions = names.flatMap((a) => names.filter((b) => b !== a).map((b) => [a, b]));
directions.forEach(([a, b], i) => {
  at("direction").append(make("option", { value: i, textContent: `${modalities[a].title} → ${modalities[b].title}` }));
});
let condition = 0; // the row of the image that gives the shared code

const sliders = Array.from({ length: PLAYGROUND.private }, (_, d) => {
  const label = make("label", { className: "slider" });
  const slider = make("input", { type: "range", min: -PLAYGROUND.reach, max: PLAYGROUND.reach, step: 0.1, value: 0 });
  label.append(make("span", { textContent: `dimension ${d}` }), slider, make("output"));
  at("sliders").append(label);
  slider.addEventListener("input", update);
  return slider;
});

// Generate the image again and show the state of all controls.
function update() {
  const [a, b] = directions[at("direction").value];
  const { title, labels, images, shared } = modalities[a];
  sliders.forEach((slider) => { slider.nextSibling.value = (+slider.value).toFixed(1).replace("-", "−"); });
  paint(at("condition"), a, row(images, condition, labels.length));
  paint(at("generated"), b, decode(b, row(shared, condition, labels.length), sliders.map((slider) => +slider.value)));
  at("condition-title").textContent = `${title}: class ${labels[condition]}`;
  at("generated-title").textContent = `generated: ${modalities[b].title}`;
  [...at("images").children].forEach((button, i) => button.setAttribute("aria-pressed", i === condition));
}

function setSliders(code) {
  sliders.forEach((slider, d) => { slider.value = code[d]; });
  update();
}

// A row of small images of one modality, each a button.
function thumbnails(list, name, action, chosen) {
  const { labels, images } = modalities[name];
  list.replaceChildren(...labels.map((label, i) => {
    const button = make("button", { type: "button", ariaLabel: `${action} image ${i + 1}, class ${label}` });
    const canvas = make("canvas");
    paint(canvas, name, row(images, i, labels.length));
    button.append(canvas);
    button.addEventListener("click", () => chosen(i));
    return button;
  }));
}

function selectDirection() {
  const [a, b] = directions[at("direction").value];
  condition = 0;
  thumbnails(at("images"), a, "use the shared code of", (i) => { condition = i; update(); });
  const setStyle = (i) => setSliders(row(modalities[b].private, i, modalities[b].labels.length));
  thumbnails(at("styles"), b, "use the private code of", setStyle);
  setStyle(0); // the image of a private code of zeros may be grey
}

function normal() { // Box and Muller
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

at("direction").addEventListener("change", selectDirection);
at("zero").addEventListener("click", () => setSliders(sliders.map(() => 0)));
at("prior").addEventListener("click", () => setSliders(sliders.map(normal)));
selectDirection();
