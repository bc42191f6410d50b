(function () {
  "use strict";
  var root = document.documentElement;
  var seen = [];
  window.gnomonError = function (text) {
    seen.push(String(text).slice(0, 300));
    root.setAttribute("data-errors", seen.join(" | "));
  };
  window.addEventListener("error", function (event) { window.gnomonError(event.message || "error"); });
  window.addEventListener("unhandledrejection", function (event) { window.gnomonError(event.reason); });
  document.addEventListener("securitypolicyviolation", function (event) {
    window.gnomonError("blocked by policy: " + event.violatedDirective + " " + event.blockedURI);
  });
  var theme = null;
  try { theme = window.localStorage.getItem("gnomon-theme"); } catch (refused) { theme = null; }
  if (theme === "light" || theme === "dark") root.setAttribute("data-theme", theme);
})();
