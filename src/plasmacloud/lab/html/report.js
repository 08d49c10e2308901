// Convenience only: everything on the page is there without it.
"use strict";
(() => {
  const svgNS = "http://www.w3.org/2000/svg";
  const words = { o: "acknowledged", f: "not executed", u: "outcome unknown" };

  const label = (ms) => {
    const size = Math.abs(ms);
    return size >= 999.5 ? (ms / 1000).toFixed(size >= 9995 ? 1 : 2) + " s" : ms.toFixed(size >= 99.95 ? 0 : 1) + " ms";
  };

  // A link into a closed section opens it.
  const reveal = () => {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const target = id && document.getElementById(id);
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", reveal);
  reveal();

  // Every dot of a chart, read back from the drawing.
  const dots = (svg) => {
    const found = [];
    for (const name of ["o", "f", "u"]) {
      for (const path of svg.querySelectorAll("path." + name)) {
        for (const match of path.getAttribute("d").matchAll(/M(-?[\d.]+) (-?[\d.]+)/g)) found.push([+match[1], +match[2], name]);
      }
    }
    return found;
  };

  const add = (svg, tag, className) => {
    const element = document.createElementNS(svgNS, tag);
    element.setAttribute("class", className);
    element.setAttribute("aria-hidden", "true");
    svg.append(element);
    return element;
  };

  const crosshair = (svg) => {
    const [x0, x1, t0, t1] = svg.dataset.x.split(" ").map(Number);
    const [y0, y1, low, high] = svg.dataset.y.split(" ").map(Number);
    const known = dots(svg);
    const line = add(svg, "path", "x"), ring = add(svg, "circle", "xo"), text = add(svg, "text", "xt");
    ring.setAttribute("r", "5");
    ring.setAttribute("fill", "none");
    const hide = () => { for (const part of [line, ring, text]) part.setAttribute("visibility", "hidden"); };
    hide();
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      if (at.x < x0 || at.x > x1) return hide();
      let best = null, nearest = 100;
      for (const dot of known) {
        const distance = (dot[0] - at.x) ** 2 + (dot[1] - at.y) ** 2;
        if (distance < nearest) [best, nearest] = [dot, distance];
      }
      const x = best ? best[0] : at.x;
      let said = label(t0 + (x - x0) / (x1 - x0) * (t1 - t0));
      ring.setAttribute("visibility", best ? "visible" : "hidden");
      if (best) {
        ring.setAttribute("cx", best[0]);
        ring.setAttribute("cy", best[1]);
        said += ": " + words[best[2]] + " after " + label(low * (high / low) ** ((best[1] - y0) / (y1 - y0)));
      }
      line.setAttribute("d", "M" + x + " " + svg.dataset.top + "V" + svg.dataset.bottom);
      text.textContent = said;
      text.setAttribute("y", String(Math.max(34, Math.min(at.y - 10, Number(svg.dataset.bottom)))));
      const right = x > (x0 + x1) / 2;
      text.setAttribute("x", String(right ? x - 9 : x + 9));
      text.setAttribute("text-anchor", right ? "end" : "start");
      line.setAttribute("visibility", "visible");
      text.setAttribute("visibility", "visible");
    });
  };
  // Read when first pointed at: most charts of a long report never are.
  for (const svg of document.querySelectorAll("svg.chart")) {
    svg.addEventListener("pointerenter", () => crosshair(svg), { once: true });
  }
})();
