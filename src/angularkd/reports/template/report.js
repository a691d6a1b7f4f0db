// The page's own script: light and dark, and the wall of attention maps, whose margin moves. It loads nothing.
"use strict";

(() => {
  const root = document.documentElement;
  const remember = (value) => { try { localStorage.setItem("angularkd-theme", value); } catch { /* a page from disk may have no storage */ } };
  try {
    const theme = localStorage.getItem("angularkd-theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch { /* as above */ }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember(root.dataset.theme);
  });
})();

(() => {
  const wall = document.querySelector(".wall");
  if (!wall) return;
  const read = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  };
  const data = JSON.parse(document.getElementById("maps").textContent);
  const images = data.maps.map((stages) => stages.map((maps) => maps.map(read)));
  const options = Object.fromEntries(["additive", "cosine", "scale"].map((name) => [name, Number(wall.dataset[name])]));
  const control = Object.fromEntries(["part", "stage", "which", "range", "margin"].map((name) => [name, document.getElementById(name)]));
  const tiles = [...wall.querySelectorAll(".tile")];
  const margins = [Number(control.margin.min), Number(control.margin.max)];

  // AMD's maps of one attention map Q: psi = s (cos(m theta + m2) - m3), n = s (1 - Q), G = logsigmoid(psi - n)
  const positive = (q, margin) => options.scale * (Math.cos(margin * Math.acos(Math.min(1, Math.max(0, q))) + options.additive) - options.cosine);
  const negative = (q) => options.scale * (1 - q);
  const logSigmoid = (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
  const part = {
    attention: (q) => q,
    positive,
    negative,
    angular: (q, margin) => logSigmoid(positive(q, margin) - negative(q)),
  };
  const unit = (values) => {
    const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
    return norm ? values.map((value) => value / norm) : values;
  };
  const meanSquare = (a, b) => a.reduce((sum, value, place) => sum + (value - b[place]) ** 2, 0) / a.length;
  const distance = (teacher, student, margin) =>
    ["angular", "positive", "negative"].reduce((sum, name) => {
      const [t, s] = [teacher, student].map((map) => unit(Array.from(map, (q) => part[name](q, margin))));
      return sum + meanSquare(s, t);
    }, 0) / 3;

  // inferno, dark to bright
  const stops = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
  const colours = Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (stops.length - 1), index = Math.min(Math.floor(place), stops.length - 2), rest = place - index;
    return stops[index].map((value, channel) => Math.round(value + rest * (stops[index + 1][channel] - value)));
  });
  const bounds = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

  const paint = (canvas, picture, values, [low, high], height, width) => {
    const small = new ImageData(width, height);
    values.forEach((value, place) => {
      const level = high > low ? Math.round((255 * (value - low)) / (high - low)) : 0;
      small.data.set([...colours[Math.min(255, Math.max(0, level))], 255], 4 * place);
    });
    const source = document.createElement("canvas");
    source.width = width;
    source.height = height;
    source.getContext("2d").putImageData(small, 0, 0);
    const context = canvas.getContext("2d"), side = canvas.width;
    const ratio = picture.naturalWidth / picture.naturalHeight || 1;
    const box = ratio > 1 ? [0, (side - side / ratio) / 2, side, side / ratio] : [(side - side * ratio) / 2, 0, side * ratio, side];
    context.clearRect(0, 0, side, side);
    context.imageSmoothingEnabled = !picture.classList.contains("pixelated");
    context.globalAlpha = 1;
    if (picture.complete && picture.naturalWidth) context.drawImage(picture, ...box);
    context.imageSmoothingEnabled = true;
    context.globalAlpha = 0.62;
    context.drawImage(source, ...box);
    context.globalAlpha = 1;
  };

  const short = (value) => (value >= 0.001 ? value.toPrecision(3) : value.toExponential(2));

  const draw = () => {
    const margin = Number(control.margin.value), name = control.part.value, stage = Number(control.stage.value);
    const { sizes } = data.stages[stage];
    document.getElementById("margin-value").textContent = margin.toFixed(2);
    const distances = [];
    tiles.forEach((tile, number) => {
      const agrees = tile.dataset.agree === "yes", which = control.which.value;
      tile.hidden = which !== "all" && agrees !== (which === "agree");
      const maps = images[number][stage];
      if (data.compared) {
        const found = distance(...maps, margin);
        tile.dataset.distance = found;
        tile.querySelector(".distance").textContent = `AMD ${short(found)}`;
        if (!tile.hidden) distances.push(found);
      }
      if (tile.hidden) return;
      const values = (map, at) => Array.from(map, (q) => part[name](q, at));
      const shared = bounds(maps.flatMap((map) => (name === "attention" ? [margin] : margins.concat(margin)).flatMap((at) => bounds(values(map, at)))));
      const picture = tile.querySelector("img");
      tile.querySelectorAll("canvas").forEach((canvas, place) => {
        const here = values(maps[place], margin);
        paint(canvas, picture, here, control.range.value === "map" ? bounds(here) : shared, ...sizes[place]);
      });
    });
    const mean = distances.reduce((sum, value) => sum + value, 0) / (distances.length || 1);
    document.getElementById("wall-summary").textContent = distances.length
      ? `At m = ${margin.toFixed(2)}, AMD of this stage is ${short(mean)} on the mean of the ${distances.length} images shown.`
      : "";
  };

  let asked = 0;
  const redraw = () => { cancelAnimationFrame(asked); asked = requestAnimationFrame(draw); };
  control.margin.addEventListener("input", () => { if (control.part.value === "attention") control.part.value = "positive"; });  // which it moves
  Object.values(control).forEach((element) => element.addEventListener("input", redraw));
  wall.querySelectorAll("img").forEach((image) => { if (!image.complete) image.addEventListener("load", redraw); });
  draw();
})();
