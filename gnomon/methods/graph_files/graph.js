(function () {
  "use strict";
  var root = document.documentElement, errors = [];
  function wrong(text) { errors.push(String(text).slice(0, 300)); root.setAttribute("data-errors", errors.join(" | ")); }
  window.addEventListener("error", function (event) { wrong(event.message || "error"); });
  document.addEventListener("securitypolicyviolation", function (event) {
    wrong("blocked by policy: " + event.violatedDirective + " " + event.blockedURI);
  });

  var SVG = "http://www.w3.org/2000/svg", LEFT = 118, RIGHT = 34, TOP = 22, FOOT = 44, LABELS = 14;
  var E = { source: 0, target: 1, kind: 2, size: 3, low: 4, high: 5, share: 6, valid: 7, pearson: 8, slope: 9, measured: 10, control: 11 };
  function by(id) { return document.getElementById(id); }
  var data = JSON.parse(by("data").textContent), nodes = data.nodes, edges = data.edges, names = Object.create(null);
  var graph = by("graph"), panel = by("panel"), canvas = by("canvas");
  var state = { kind: 0, by: E.size, valid: false, all: !edges.length, share: 100, pinned: -1, hovered: -1, at: -1 };
  var drawn = { nodes: [], edges: [], groups: {}, paths: [], place: {} };
  nodes.forEach(function (node, i) { names[node.name] = i; node.up = []; node.down = []; });
  edges.forEach(function (edge, i) { nodes[edge[E.target]].up.push(i); nodes[edge[E.source]].down.push(i); });

  // Every text goes in as text: a token of a model is never markup.
  function make(tag, attributes, children, space) {
    var element = space ? document.createElementNS(space, tag) : document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (key) {
      if (key === "text") element.textContent = attributes[key]; else element.setAttribute(key, attributes[key]);
    });
    (children || []).forEach(function (child) { if (child) element.appendChild(child); });
    return element;
  }
  function svg(tag, attributes, children) { return make(tag, attributes, children, SVG); }
  function known(value) { return value !== null && value !== undefined; }
  function number(value, sign) {
    if (!known(value)) return "–";
    var size = Math.abs(value), text;
    if (size !== 0 && (size < 0.001 || size >= 1e5)) text = value.toExponential(1);
    else text = value.toFixed(size < 10 ? 3 : size < 1000 ? 1 : 0);
    text = text.replace(/^(-?)0\./, "$1.").replace("-", "−");
    return sign && value > 0 ? "+" + text : text;
  }
  function interval(value, low, high, sign) {
    if (!known(value)) return "–";
    return number(value, sign) + (known(low) && known(high) ? " [" + number(low) + ",\u00a0" + number(high) + "]" : "");
  }
  function tone(node) { return node["class"] === data.classes[0] ? "first" : node["class"] === data.classes[1] ? "second" : "none"; }
  function mine(list) {
    return list.filter(function (i) { return edges[i][E.kind] === state.kind && (!state.valid || edges[i][E.valid]); })
      .sort(function (a, b) { return Math.abs(edges[b][state.by]) - Math.abs(edges[a][state.by]); });
  }

  // ---- what is drawn

  function choose() {
    var ranked = mine(edges.map(function (_, i) { return i; }));
    var most = ranked.length, count = most ? Math.max(1, Math.round(Math.pow(most, state.share / 100))) : 0;
    drawn.edges = ranked.slice(0, count);
    by("drawn").textContent = count.toLocaleString("en") + " of " + most.toLocaleString("en");
    var seen = {};
    if (state.valid) ranked.forEach(function (i) { seen[edges[i][E.source]] = seen[edges[i][E.target]] = true; });
    drawn.nodes = [];
    nodes.forEach(function (node, i) {
      var joined = node.near !== null;
      if (state.all || (state.valid ? seen[i] : joined) || (node.causal && !state.valid)) drawn.nodes.push(i);
    });
  }
  function draw() {
    choose();
    var rows = [], width = Math.max(canvas.clientWidth - 4, 420), perRow = {};
    drawn.nodes.forEach(function (i) { perRow[nodes[i].row] = (perRow[nodes[i].row] || 0) + 1; });
    data.sites.forEach(function (_, row) { if (perRow[row]) rows.push(row); });
    var room = canvas.clientHeight - by("legend").offsetHeight - TOP - FOOT - 6;
    var step = Math.max(58, Math.min(220, room / Math.max(rows.length, 1)));
    var height = TOP + FOOT + step * Math.max(rows.length, 1);
    graph.setAttribute("viewBox", "0 0 " + width + " " + height);
    graph.setAttribute("height", height);
    graph.textContent = "";
    drawn.groups = {}; drawn.paths = []; drawn.place = {};
    rows.forEach(function (row, at) {
      var y = TOP + step * (rows.length - 1 - at) + step / 2;
      graph.appendChild(svg("line", { "class": "rule", x1: LEFT - 14, x2: width - 12, y1: y, y2: y }));
      graph.appendChild(svg("text", { "class": "site", x: 12, y: y + 4, text: data.sites[row] }));
    });
    drawn.nodes.forEach(function (i) {
      var node = nodes[i], x = state.all || node.near === null ? node.x : node.near;
      drawn.place[i] = [LEFT + x * (width - LEFT - RIGHT), TOP + step * (rows.length - 1 - rows.indexOf(node.row)) + step / 2];
    });
    var top = drawn.edges.reduce(function (most, i) { return Math.max(most, Math.abs(edges[i][state.by])); }, 0) || 1;
    var layer = svg("g", {});
    graph.appendChild(layer);
    drawn.edges.slice().reverse().forEach(function (i) { addEdge(layer, i, top); });
    [false, true].forEach(function (causal) {  // rings are drawn last, over their neighbours
      drawn.nodes.forEach(function (i) { if (!!nodes[i].causal === causal) addNode(i, perRow[nodes[i].row] <= LABELS); });
    });
    graph.appendChild(svg("text", { "class": "site", x: LEFT, y: height - 14, text: "← more active in " + data.classes[1] }));
    graph.appendChild(svg("text", { "class": "site", x: width - RIGHT, y: height - 14, "text-anchor": "end", text: "more active in " + data.classes[0] + " →" }));
    if (!drawn.groups[state.at]) state.at = drawn.nodes.length ? drawn.nodes[0] : -1;
    if (drawn.groups[state.at]) drawn.groups[state.at].setAttribute("tabindex", "0");
    by("count").textContent = drawn.nodes.length.toLocaleString("en") + " of " + nodes.length.toLocaleString("en") + " features";
    root.setAttribute("data-nodes", drawn.nodes.length);
    root.setAttribute("data-edges", drawn.edges.length);
    light();
  }
  function addEdge(layer, i, top) {
    var edge = edges[i], from = drawn.place[edge[E.source]], to = drawn.place[edge[E.target]];
    if (!from || !to) return;
    var middle = (from[1] + to[1]) / 2, valid = edge[E.valid];
    var path = svg("path", {
      "class": "edge " + (edge[E.size] >= 0 ? "up" : "down") + (valid === null ? " open" : valid ? "" : " no"),
      "stroke-width": (0.7 + 4.5 * Math.sqrt(Math.abs(edge[state.by]) / top)).toFixed(2),
      d: "M" + from[0] + " " + from[1] + "C" + from[0] + " " + middle + " " + to[0] + " " + middle + " " + to[0] + " " + to[1]
    });
    drawn.paths.push([path, edge[E.source], edge[E.target]]);
    layer.appendChild(path);
  }
  function addNode(i, named) {
    var node = nodes[i], at = drawn.place[i];
    var group = svg("g", {
      "class": "node " + tone(node), transform: "translate(" + at[0] + " " + at[1] + ")", tabindex: "-1", role: "button",
      "aria-label": node.name + (node["class"] ? ", more active in " + node["class"] : "") + (node.causal ? ", causal" : "") +
        ", fed by " + mine(node.up).length + ", feeds " + mine(node.down).length
    }, [
      svg("circle", { "class": "focus", r: 13 }), svg("circle", { "class": "point", r: 6.5 }),
      node.causal ? svg("circle", { "class": "ring", r: 10 }) : null,
      svg("text", { y: 26, "class": named || node.causal ? "" : "late", text: node.name })
    ]);
    group.addEventListener("click", function () { pin(i); });
    group.addEventListener("mouseenter", function () { state.hovered = i; light(); if (state.pinned < 0) show(i); });
    group.addEventListener("mouseleave", function () { state.hovered = -1; light(); });
    group.addEventListener("focus", function () { move(i); });
    drawn.groups[i] = group;
    graph.appendChild(group);
  }
  function light() {
    var i = state.hovered >= 0 ? state.hovered : state.pinned, near = {};
    graph.classList.toggle("faded", i >= 0 && !!drawn.groups[i]);
    drawn.paths.forEach(function (path) {
      var on = path[1] === i || path[2] === i;
      path[0].classList.toggle("lit", on);
      if (on) near[path[1]] = near[path[2]] = true;
    });
    drawn.nodes.forEach(function (k) {
      drawn.groups[k].classList.toggle("lit", !!near[k] || k === i);
      drawn.groups[k].classList.toggle("picked", k === state.pinned);
    });
  }

  // ---- the feature's page

  function row(list, name, text) {
    if (text === "" || text === "–" || !known(text)) return;
    list.appendChild(make("dt", { text: name }));
    list.appendChild(make("dd", { text: text }));
  }
  function table(heads, lines) {
    return make("table", {}, [
      make("thead", {}, [make("tr", {}, heads.map(function (head, i) { return make("th", { scope: "col", "class": i ? "num" : "", text: head }); }))]),
      make("tbody", {}, lines.map(function (cells) {
        return make("tr", {}, cells.map(function (cell, i) {
          return typeof cell === "string" ? make("td", { "class": i ? "num" : "", text: cell }) : make("td", { "class": i ? "num" : "" }, [cell]);
        }));
      }))
    ]);
  }
  function jump(i) {
    var button = make("button", { type: "button", "class": "jump", text: nodes[i].name });
    button.addEventListener("click", function () { go(i); });
    return button;
  }
  function verdict(edge) {
    var valid = edge[E.valid];
    if (valid === null) return known(edge[E.measured]) ? "no conclusion" : "not replayed";
    return make("span", { "class": valid ? "good" : "bad", text: valid ? "✓ yes" : "✕ no" });
  }
  function side(title, list, end) {
    var chosen = mine(list);
    panel.appendChild(make("h3", { text: title + " (" + chosen.length + ")" }));
    if (!chosen.length) { panel.appendChild(make("p", { "class": "quiet", text: "No kept pathway of this kind." })); return; }
    panel.appendChild(table(["feature", "attribution", "share", "Pearson", "validated"], chosen.slice(0, 30).map(function (i) {
      var edge = edges[i];
      return [jump(edge[end]), interval(edge[E.size], edge[E.low], edge[E.high], true), number(edge[E.share], true), number(edge[E.pearson]), verdict(edge)];
    })));
    if (chosen.length > 30) panel.appendChild(make("p", { "class": "quiet", text: (chosen.length - 30) + " more in the table edges" }));
  }
  function show(i) {
    panel.textContent = "";
    if (i < 0) { welcome(); return; }
    var node = nodes[i], list = make("dl", {}), first = data.classes[0], second = data.classes[1];
    panel.appendChild(make("h2", { text: node.name }));
    panel.appendChild(make("p", { "class": "quiet" }, [
      make("span", { "class": "dot " + tone(node), text: "● " }),
      document.createTextNode(node.site + (node["class"] ? ", more active in " + node["class"] : "")),
      node.link ? make("span", { text: " · " }) : null,
      node.link ? make("a", { href: node.link, rel: "noreferrer noopener", text: "its page" }) : null
    ]));
    panel.appendChild(list);
    row(list, "Cohen's d", interval(node.d, node.ci_low, node.ci_high, true));
    row(list, "separation", interval(node.separation, node.separation_low, node.separation_high, true));
    row(list, "mean, " + first, number(node.first_mean));
    row(list, "mean, " + second, number(node.second_mean));
    row(list, "verdict", node.verdict + (node.verdict && known(node.q) ? " (q " + number(node.q) + ")" : ""));
    row(list, "strongest", node.condition.replace(/_/g, " "));
    row(list, "change", interval(node.change, node.change_low, node.change_high, true));
    row(list, "random latents", known(node.change) && known(node.control_change) ? number(node.control_change) + " on average, up or down" : "");
    row(list, "replay's Pearson", known(node.pearson) ? number(node.pearson) + (known(node.control_pearson) ? " (random latents " + number(node.control_pearson) + ")" : "") : "");
    row(list, "note", node.note);
    if (node.conditions && node.conditions.length) {
      panel.appendChild(make("h3", { text: "Under patches (" + node.conditions[0][1] + ", n " + node.conditions[0][9] + ")" }));
      panel.appendChild(table(["condition", "unpatched", "patched", "change"], node.conditions.map(function (c) {
        return [c[0].replace(/_/g, " "), number(c[2]), number(c[3]), interval(c[4], c[5], c[6], true)];
      })));
    }
    side("Fed by", node.up, E.source);
    side("Feeds", node.down, E.target);
    if (data.kinds[state.kind] !== "total" && node.up.concat(node.down).some(function (i) { return known(edges[i][E.measured]); })) panel.appendChild(make("p", { "class": "quiet", text: "Replay measures the whole effect: Pearson and validated are those of the pathway, not of its " + data.kinds[state.kind] + " part." }));
    if (node.tokens) {
      panel.appendChild(make("h3", { text: "Tokens that shift under its patches" + (known(node.tested) ? " (" + node.tested.toLocaleString("en") + " tests)" : "") }));
      if (!node.tokens.length) panel.appendChild(make("p", { "class": "quiet", text: "None." }));
      else panel.appendChild(table(["token", "patched", "unpatched", "log-odds"], node.tokens.map(function (t) {
        return [make("div", {}, [make("span", { "class": "token", text: t[0] }), make("div", { "class": "quiet", text: t[1].replace(/_/g, " ") })]), t[2] + "/" + t[3], t[4] + "/" + t[5], interval(t[6], t[7], t[8], true)];
      })));
    }
    [["raises", "Its decoder row raises"], ["lowers", "and lowers"]].forEach(function (pair) {
      if (!node[pair[0]]) return;
      panel.appendChild(make("h3", { text: pair[1] }));
      panel.appendChild(make("p", { "class": "token", text: node[pair[0]] }));
    });
    panel.scrollTop = 0;
  }
  function welcome() {
    panel.appendChild(make("h2", { text: "Choose a feature" }));
    panel.appendChild(make("p", { "class": "quiet", text: "Point at one to see it, click or press Enter to keep it, Escape to let it go. Arrow keys walk along a row and between rows." }));
    var strong = drawn.edges.slice(0, 8);
    if (!strong.length) { panel.appendChild(make("p", { "class": "quiet", text: edges.length ? "No pathway fits what is chosen above." : "No pathway was kept: these are the features alone." })); return; }
    panel.appendChild(make("h3", { text: "Strongest pathways" }));
    panel.appendChild(table(["source", "target", "attribution", "validated"], strong.map(function (i) {
      return [jump(edges[i][E.source]), jump(edges[i][E.target]), number(edges[i][E.size], true), verdict(edges[i])];
    })));
  }

  // ---- moving about

  function move(i) {
    if (drawn.groups[state.at]) drawn.groups[state.at].setAttribute("tabindex", "-1");
    state.at = i;
    if (drawn.groups[i]) drawn.groups[i].setAttribute("tabindex", "0");
    if (state.pinned < 0) { show(i); }
  }
  function pin(i) {
    state.pinned = state.pinned === i ? -1 : i;
    try { history.replaceState(null, "", state.pinned < 0 ? location.pathname : "#" + encodeURIComponent(nodes[i].name)); } catch (refused) { /* a file of its own origin */ }
    show(state.pinned);
    light();
  }
  function go(i) {
    if (!drawn.groups[i]) { state.all = true; by("all").checked = true; draw(); }
    state.pinned = -1;
    pin(i);
    move(i);
    if (drawn.groups[i]) drawn.groups[i].focus();
  }
  graph.addEventListener("keydown", function (event) {
    var at = state.at, place = drawn.place[at], best = -1, distance = Infinity;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(at); return; }
    if (!place || !/^Arrow/.test(event.key)) return;
    event.preventDefault();
    var across = event.key === "ArrowLeft" || event.key === "ArrowRight", way = event.key === "ArrowRight" || event.key === "ArrowDown" ? 1 : -1;
    drawn.nodes.forEach(function (i) {
      var to = drawn.place[i], dx = to[0] - place[0], dy = to[1] - place[1];
      if (across ? Math.abs(dy) > 1 || dx * way <= 0 : dy * way <= 1) return;
      var far = across ? Math.abs(dx) : Math.abs(dy) * 1e4 + Math.abs(dx);
      if (far < distance) { distance = far; best = i; }
    });
    if (best >= 0) drawn.groups[best].focus();
  });
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape" && state.pinned >= 0) pin(state.pinned);
  });

  // ---- tools

  data.kinds.forEach(function (kind, i) { by("kind").appendChild(make("option", { value: i, text: kind })); });
  if (!data.kinds.length) by("kind").appendChild(make("option", { value: 0, text: "none" }));
  nodes.forEach(function (node) { by("names").appendChild(make("option", { value: node.name })); });
  function changed(id, event, set) {
    by(id).addEventListener(event, function () { set(by(id)); draw(); if (state.pinned >= 0) show(state.pinned); else show(-1); });
  }
  changed("kind", "change", function (field) { state.kind = Number(field.value); });
  changed("width", "change", function (field) { state.by = Number(field.value); });
  changed("validated", "change", function (field) { state.valid = field.checked; });
  changed("all", "change", function (field) { state.all = field.checked; });
  changed("strongest", "input", function (field) { state.share = Number(field.value); });
  by("find").addEventListener("change", function () { var i = names[by("find").value.trim()]; if (i !== undefined) go(i); });
  by("tools").addEventListener("submit", function (event) { event.preventDefault(); });
  function dark() {
    var set = root.getAttribute("data-theme");
    return set ? set === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function label() { by("theme").textContent = dark() ? "Light" : "Dark"; }
  by("theme").addEventListener("click", function () {
    var next = dark() ? "light" : "dark";
    root.setAttribute("data-theme", next);
    try { localStorage.setItem("gnomon-theme", next); } catch (refused) { /* no storage for files */ }
    label();
  });
  try { var theme = localStorage.getItem("gnomon-theme"); if (theme === "light" || theme === "dark") root.setAttribute("data-theme", theme); } catch (refused) { /* no storage for files */ }
  label();
  by("legend").textContent = "";
  [["●", "more active in " + data.classes[0], "first"], ["●", "more active in " + data.classes[1], "second"], ["●", "not known", "none"],
    ["◎", "causal"], ["━", "validated by replay"], ["╌", "not validated"], ["┈", "not replayed, or no conclusion"], ["▬", "raises its target", "first"], ["▬", "lowers it", "second"]
  ].forEach(function (entry) {
    by("legend").appendChild(make("i", {}, [make("span", { "class": "dot " + (entry[2] || ""), text: entry[0] + " " }), document.createTextNode(entry[1])]));
  });
  if (data.shortfall) { by("shortfall").hidden = false; by("shortfall").textContent = "No conclusion: " + data.shortfall; }
  by("all").checked = state.all;
  var whole = mine(edges.map(function (_, i) { return i; })).length;
  state.share = whole > data.strongest && whole > 1 ? 100 * Math.log(data.strongest) / Math.log(whole) : 100;
  by("strongest").value = state.share;
  draw();
  var asked;
  try { asked = names[decodeURIComponent(location.hash.slice(1))]; } catch (malformed) { /* no name of a feature */ }
  if (asked !== undefined) go(asked); else show(-1);
  var waiting = 0;
  window.addEventListener("resize", function () { clearTimeout(waiting); waiting = setTimeout(draw, 120); });
  root.setAttribute("data-ready", "yes");
})();
