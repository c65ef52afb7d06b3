// Before the first paint: the theme that was chosen last time.
try {
  const name = localStorage.getItem("prunebench-theme");
  if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
} catch { /* a file may have no storage */ }
