"use strict";

const tip = document.getElementById("tip");

/** Shows the tip beside the pointer, kept inside the window. */
function showTip(event, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 4))}px`;
}

const hideTip = () => { tip.hidden = true; };

/** A new element with text in it; text never becomes markup. */
function element(kind, text, colour) {
  const made = document.createElement(kind);
  if (colour) {
    const dot = document.createElement("i");
    dot.style.background = colour;
    made.append(dot);
  }
  made.append(text);
  return made;
}

/** Index of the entry of an ascending list that is nearest to a value. */
function nearestIndex(list, value) {
  let low = 0, high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle; else high = middle;
  }
  return Math.abs(list[high] - value) < Math.abs(list[low] - value) ? high : low;
}

for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.dataset.plot);
  const svg = plot.querySelector("svg"), cursor = plot.querySelector(".cursor");
  const measured = data.lines.filter((line) => line.epoch.length);
  const steps = [...new Set(measured.flatMap((line) => line.step))].sort((a, b) => a - b);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * data.width / box.width;
    const share = (x - data.left) / (data.right - data.left);
    const step = steps[nearestIndex(steps, share * data.last)];
    const at = data.left + step / data.last * (data.right - data.left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    const epoch = measured[0].epoch[nearestIndex(measured[0].step, step)] + 1;
    const rows = data.lines.map((line) => {
      const value = line.value[nearestIndex(line.step, step)];
      const text = value === null ? "not finite" : `${Number(value.toPrecision(5))}${data.unit}`;
      return element("div", `${line.label}: ${text}`, line.colour);
    });
    showTip(event, element("b", `step ${step.toLocaleString("en")}, epoch ${epoch}`), ...rows);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    hideTip();
  });
}

for (const map of document.querySelectorAll(".map")) {
  const data = JSON.parse(map.dataset.map);
  const sheet = map.querySelector(".sheet").src;
  const maps = [...map.querySelectorAll("svg")].map((svg) => [...svg.children]);

  /** A cut-out of the contact sheet: image number i, enlarged. */
  const thumb = (i) => {
    const { columns, width, height } = data.sheet, zoom = 96 / Math.max(width, height);
    const made = document.createElement("div");
    made.className = "thumb";
    made.style.width = `${width * zoom}px`;
    made.style.height = `${height * zoom}px`;
    made.style.backgroundImage = `url(${sheet})`;
    made.style.backgroundSize = `${columns * width * zoom}px auto`;
    made.style.backgroundPosition = `${-(i % columns) * width * zoom}px ${-Math.floor(i / columns) * height * zoom}px`;
    return made;
  };

  const mark = (i, here) => maps.forEach((dots) => dots[i].classList.toggle("here", here));
  for (const dots of maps) {
    dots.forEach((dot, i) => {
      dot.addEventListener("pointerenter", (event) => {
        mark(i, true);
        showTip(event, thumb(i), element("div", data.names[data.label[i]]));
      });
      dot.addEventListener("pointerleave", () => {
        mark(i, false);
        hideTip();
      });
    });
  }

  const classes = [...map.querySelectorAll("[data-class]")];
  for (const button of classes) {
    button.addEventListener("click", () => {
      const chosen = button.classList.contains("on") ? null : Number(button.dataset.class);
      for (const other of classes) other.classList.toggle("on", Number(other.dataset.class) === chosen);
      for (const dots of maps) {
        dots.forEach((dot, i) => dot.classList.toggle("dim", chosen !== null && data.label[i] !== chosen));
      }
    });
  }
}
