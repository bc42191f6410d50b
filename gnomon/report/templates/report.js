(function () {
  "use strict";
  var root = document.documentElement;
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var printing = false;

  function all(selector, within) { return Array.prototype.slice.call((within || document).querySelectorAll(selector)); }
  function make(tag, name, text) {
    var element = document.createElement(tag);
    if (name) element.className = name;
    if (text) element.textContent = text;
    return element;
  }

  // ---- theme

  function isDark() {
    var chosen = root.getAttribute("data-theme");
    return chosen ? chosen === "dark" : dark.matches;
  }

  var button = document.getElementById("theme");
  function nameButton() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to " + (isDark() ? "light" : "dark") + " colours");
  }
  button.hidden = false;
  nameButton();
  button.addEventListener("click", function () {
    var next = isDark() ? "light" : "dark";
    root.setAttribute("data-theme", next);
    try { window.localStorage.setItem("gnomon-theme", next); } catch (refused) { /* the choice lasts for this view */ }
    nameButton();
    redraw();
  });
  dark.addEventListener("change", function () { nameButton(); redraw(); });

  // ---- charts: colour tokens become the theme's colours

  function variable(name) { return getComputedStyle(root).getPropertyValue("--" + name).trim(); }
  function faint(colour, alpha) {
    var n = parseInt(colour.slice(1), 16);
    return "rgba(" + (n >> 16 & 255) + "," + (n >> 8 & 255) + "," + (n & 255) + "," + alpha + ")";
  }
  function palette() {
    var out = { "@text": variable("text"), "@muted-text": variable("muted"), "@grid": variable("grid"),
                "@paper": variable("paper"), "@muted": variable("control"),
                "@muted-faint": faint(variable("control"), 0.13) };
    for (var i = 0; i < 7; i++) {
      out["@s" + i] = variable("s" + i);
      out["@s" + i + "-faint"] = faint(variable("s" + i), 0.17);
    }
    out["@sequential"] = [[0, variable("low")], [0.5, variable("mid")], [1, variable("high")]];
    out["@diverging"] = [[0, variable("below")], [0.5, variable("middle")], [1, variable("above")]];
    return out;
  }
  var DATA = { x: 1, y: 1, z: 1, name: 1, text: 1, hovertext: 1, legendgroup: 1, categoryarray: 1 };
  function paint(value, key, colours) {
    if (typeof value === "string") return value in colours && !(key in DATA) ? colours[value] : value;
    if (!value || typeof value !== "object") return value;
    if (Array.isArray(value)) return key in DATA ? value : value.map(function (v) { return paint(v, "", colours); });
    var out = {};
    Object.keys(value).forEach(function (k) {
      var data = k in DATA && typeof value[k] !== "object";
      out[k] = data ? value[k] : paint(value[k], k, colours);
    });
    return out;
  }

  var charts = [];
  function draw(chart) {
    var colours = palette();
    var layout = paint(chart.spec.layout, "", colours);
    var narrow = chart.node.clientWidth < 520;
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: colours["@text"] };
    layout.margin = { l: 8, r: 12, t: 10, b: 8, pad: 2 };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colours["@grid"], activecolor: colours["@muted-text"] };
    layout.hoverlabel = { bgcolor: variable("raised"), bordercolor: colours["@grid"], align: "left",
                          font: { color: colours["@text"], size: 13 } };
    layout.legend = { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom",
                      font: { size: narrow ? 11 : 13, color: colours["@text"] } };
    layout.dragmode = window.matchMedia("(pointer: coarse)").matches ? false : "zoom";
    layout.autosize = true;
    if (printing) { layout.autosize = false; layout.width = 640; layout.height = chart.node.clientHeight; }
    return window.Plotly.react(chart.node, paint(chart.spec.data, "", colours), layout, {
      responsive: true, displaylogo: false, modeBarButtons: [["pan2d", "zoom2d", "resetScale2d", "toImage"]],
      displayModeBar: narrow ? false : "hover",
      toImageButtonOptions: { format: "svg", filename: chart.spec.name.replace(/[^\w-]+/g, "_").slice(0, 60) }
    });
  }
  function failed(node, error) {
    window.gnomonError("chart: " + (error && error.message || error));
    node.style.height = "auto";
    node.replaceChildren(make("p", "quiet", "This chart could not be drawn here; its data is below."));
    var data = node.closest("figure").querySelector("details.data");
    if (data) data.open = true;
  }
  function redraw() {
    charts.forEach(function (chart) { if (chart.ready) draw(chart); });
  }

  var waiting = all("figure .chart");
  function next() {
    var node = waiting.shift();
    if (!node) {
      root.setAttribute("data-charts", String(charts.filter(function (c) { return c.ready; }).length));
      return;
    }
    var chart = { node: node, spec: null, ready: false };
    charts.push(chart);
    Promise.resolve().then(function () {
      chart.spec = JSON.parse(node.closest("figure").querySelector("script[type='application/json']").textContent);
      return draw(chart);
    }).then(function () { chart.ready = true; }, function (error) { failed(node, error); })
      .then(function () { window.setTimeout(next, 0); });
  }
  next();

  window.addEventListener("beforeprint", function () { printing = true; redraw(); });
  window.addEventListener("afterprint", function () { printing = false; redraw(); });

  // ---- tables: a click on a heading sorts, again turns it round, a third time restores the order

  all("table.sortable").forEach(function (table) {
    var body = table.tBodies[0];
    var original = all("tr", body);
    if (original.length < 3) return;
    all("thead th", table).forEach(function (heading, column) {
      var sort = make("button", "sort", heading.textContent);
      sort.type = "button";
      heading.replaceChildren(sort);
      sort.addEventListener("click", function () {
        var turn = { "": "descending", descending: "ascending", ascending: "" }[heading.getAttribute("aria-sort") || ""];
        all("thead th", table).forEach(function (h) { h.removeAttribute("aria-sort"); });
        var rows = original.slice();
        if (turn) {
          heading.setAttribute("aria-sort", turn);
          var sign = turn === "ascending" ? 1 : -1;
          rows.sort(function (a, b) { return sign * compare(key(a, column), key(b, column)); });
        }
        body.replaceChildren.apply(body, rows);
      });
    });
  });
  function key(row, column) {
    var cell = row.cells[column];
    var text = cell.hasAttribute("data-key") ? cell.getAttribute("data-key") : cell.textContent;
    var value = parseFloat(text);
    return isNaN(value) ? text : value;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? 1 : -1;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  // ---- transcripts: search, and a filter by mark

  all(".tokens").forEach(function (block) {
    var tools = block.querySelector(".tools");
    if (!tools) return;
    tools.hidden = false;
    var search = tools.querySelector("input");
    var filters = all(".filter", tools);
    var items = all(".transcript", block);
    function apply() {
      var wanted = search.value.toLowerCase();
      var marks = filters.filter(function (f) { return f.getAttribute("aria-pressed") === "true"; })
        .map(function (f) { return f.getAttribute("data-mark"); });
      var shown = 0;
      items.forEach(function (item) {
        var fits = (!marks.length || marks.indexOf(item.getAttribute("data-mark")) >= 0) &&
                   (!wanted || item.textContent.toLowerCase().indexOf(wanted) >= 0);
        item.hidden = !fits;
        shown += fits;
      });
      tools.querySelector(".found").textContent = shown === items.length ? "" : shown + " of " + items.length + " match";
    }
    search.addEventListener("input", apply);
    filters.forEach(function (f) {
      f.addEventListener("click", function () {
        f.setAttribute("aria-pressed", f.getAttribute("aria-pressed") === "true" ? "false" : "true");
        apply();
      });
    });
  });

  // ---- contents: where the reader is

  if ("IntersectionObserver" in window) {
    var links = {};
    all(".toc a").forEach(function (link) { links[link.getAttribute("href").slice(1)] = link; });
    var watcher = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        all(".toc a[aria-current]").forEach(function (link) { link.removeAttribute("aria-current"); });
        if (links[entry.target.id]) links[entry.target.id].setAttribute("aria-current", "true");
      });
    }, { rootMargin: "-10% 0px -75% 0px" });
    Object.keys(links).forEach(function (id) {
      var section = document.getElementById(id);
      if (section) watcher.observe(section);
    });
  }
})();
