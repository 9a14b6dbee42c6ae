// Shows one of the page's rollouts at a time: choices, buttons, the arrow keys, and the address
// (#step-8-2 is step 8's second rollout). Without a script the page shows all of them.
{
  const viewer = document.querySelector(".viewer");
  const articles = [...viewer.querySelectorAll(".sample")];
  const [steps, rollouts] = viewer.querySelectorAll("select");
  const [previous, next] = viewer.querySelectorAll("button");
  const place = viewer.querySelector("output");
  const stepOf = (article) => article.id.split("-")[1];
  let shown = 0;

  const option = (value, text) => new Option(text, value);

  /** Shows a rollout, by its place among all of the page. */
  function show(index) {
    shown = Math.max(0, Math.min(index, articles.length - 1));
    const step = stepOf(articles[shown]);
    const same = articles.filter((article) => stepOf(article) === step);
    articles.forEach((article, i) => { article.hidden = i !== shown; });
    steps.value = step;
    rollouts.replaceChildren(...same.map((article, i) => {
      const [name, status] = article.querySelectorAll("h3, .status");
      return option(article.id, `${i + 1}: ${name.textContent}, ${status.textContent}`);
    }));
    rollouts.value = articles[shown].id;
    previous.disabled = shown === 0;
    next.disabled = shown === articles.length - 1;
    place.textContent = `${shown + 1} of ${articles.length}`;
  }

  /** Shows a rollout that a person chose, and keeps it in the address. */
  function choose(index) {
    show(index);
    history.replaceState(null, "", `#${articles[shown].id}`);
  }

  const indexOf = (id) => articles.findIndex((article) => article.id === id);
  const newest = () => articles.findIndex((a) => stepOf(a) === stepOf(articles.at(-1)));
  const follow = () => {
    const index = indexOf(location.hash.slice(1));
    show(index < 0 ? newest() : index);
    return index >= 0;
  };

  steps.append(...[...new Set(articles.map(stepOf))].map((step) => option(step, step)));
  steps.addEventListener("change", () => choose(articles.findIndex((a) => stepOf(a) === steps.value)));
  rollouts.addEventListener("change", () => choose(indexOf(rollouts.value)));
  previous.addEventListener("click", () => choose(shown - 1));
  next.addEventListener("click", () => choose(shown + 1));
  viewer.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest("select, .program, .prompt")) return; // they use the keys themselves
    event.preventDefault();
    choose(shown + move);
  });
  for (const kind of ["pointerover", "click"]) {
    viewer.addEventListener(kind, ({target}) => {
      const readout = target.closest?.("u[title]") && target.closest(".sample").querySelector(".readout");
      if (readout) readout.textContent = `“${target.textContent || "line end"}”: ${target.title}`;
    });
  }
  viewer.querySelector(".choice").hidden = false;
  window.addEventListener("hashchange", follow);
  if (follow()) viewer.focus({preventScroll: true}); // the arrow keys go on after a reload
}
